"""HTTP to a Vault or OpenBao server, and what its answers mean.

hvac's adapter does the requests, without its ``Client``, which takes address, token and certificates from ``VAULT_*``
variables. Proxies and netrc of the environment are not used, redirects not followed, cookies not kept. Statuses are
those of https://openbao.org/api-docs/ ("HTTP status codes") and of ``sys/health``. What the server writes into its
errors is compared with what is known and never shown: it can repeat what it was sent.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from datetime import timedelta
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Literal, TypeAlias

import requests
from hvac.adapters import RawAdapter
from requests.adapters import HTTPAdapter

from sealkeeper.hsm.errors import (
    ProviderConfigurationError,
    ProviderError,
    ProviderPermissionError,
    ProviderSealedError,
    ProviderThrottledError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.secret_file import read_secret
from sealkeeper.hsm.transit_uri import TransitUri
from sealkeeper.hsm.unreachable import because

Verb: TypeAlias = Literal["get", "post", "delete"]

MAX_ANSWER = 4 * 1024 * 1024
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 10.0
_CHUNK = 64 * 1024


class NoAnswerError(ProviderUnavailableError):
    """There was no answer, or not a whole one: what was asked may have been done or not."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said.

    Attributes:
        status: of HTTP.
        body: its JSON object; empty where there was none.
        errors: the server's error texts in lower case: to compare, not to show.
        retry_after: when it says that a retry makes sense.
    """

    status: int
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    errors: str = field(default="", repr=False)
    retry_after: timedelta | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The ``data`` object; empty where there is none."""
        data = self.body.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def sealed(self) -> bool:
        """The server cannot read its own storage: nothing works until people unseal it."""
        return self.status == 503 and ("sealed" in self.errors or self.body.get("sealed") is True)

    @property
    def passing(self) -> bool:
        """Nothing was done, and another try may go through: a server or a balancer in the way was not ready."""
        return self.status in (412, 502, 503, 504) and not self.sealed

    @property
    def no_mount(self) -> bool:
        """There is nothing at the mount's path, or no such namespace."""
        return self.status == 404 and ("no handler for route" in self.errors or "namespace not found" in self.errors)

    @property
    def absent(self) -> bool:
        """The engine has nothing of the name. Only it says so: not what else is on the way and knows no such page."""
        return self.status == 404 and isinstance(self.body.get("errors"), list) and not self.no_mount


class Connection:
    """A pool of connections to one server; several threads may use it.

    Raises:
        ProviderConfigurationError: a certificate file cannot be read.
    """

    def __init__(self, uri: TransitUri, pool: int) -> None:
        self._uri = uri
        session = requests.Session()
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount(uri.base, HTTPAdapter(pool_connections=1, pool_maxsize=pool, max_retries=0))
        if uri.ca_file is not None:
            session.verify = str(_readable(uri.ca_file, "CA"))
        if uri.certificate is not None:
            # The key is only looked at here: it must be there, and no one else's.
            read_secret(uri.certificate[1], "client key")
            certificate, key = (_readable(path, "client certificate") for path in uri.certificate)
            session.cert = (str(certificate), str(key))
        # hvac takes certificates from the session, and its own arguments only where that one has none.
        settings = {
            "base_uri": uri.base,
            "session": session,
            "timeout": (_CONNECT_SECONDS, _READ_SECONDS),
            "allow_redirects": False,
            "ignore_exceptions": True,
        }
        self._adapter = RawAdapter(namespace=uri.namespace or None, **settings)
        # ``sys/health`` is the whole server's and refused inside a namespace.
        self._outside = RawAdapter(namespace=None, **settings)

    def send(self, verb: Verb, path: str, body: dict[str, Any] | None = None, token: str = "") -> Answer:
        """Send one request, once.

        Raises:
            NoAnswerError: none came, or not a whole one.
            ProviderConfigurationError: the server's certificate is not to be trusted.
        """
        return self._send(self._adapter, verb, path, body, token)

    def health(self) -> Answer:
        """Ask how the server is: 200, 429 or 473 where it serves; needs no token.

        Raises:
            As ``send``.
        """
        return self._send(self._outside, "get", "sys/health", None, "")

    def close(self) -> None:
        """Close what is open."""
        self._adapter.close()

    def _send(self, adapter: RawAdapter, verb: Verb, path: str, body: dict[str, Any] | None, token: str) -> Answer:
        # Not compressed, so that the limit on an answer is one on what it unpacks to.
        headers = {"Accept-Encoding": "identity"} | ({"X-Vault-Token": token} if token else {})
        try:
            with adapter.request(verb, f"v1/{path}", headers=headers, json=body, stream=True) as response:
                return _answer(response)
        except requests.exceptions.SSLError as error:
            raise _tls_error(error) from None
        except requests.exceptions.ConnectTimeout:
            raise self._no_answer("cannot be reached") from None
        except requests.exceptions.Timeout:
            raise self._no_answer("did not answer in time") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise self._no_answer(f"cannot be reached, or broke the connection off{because(error)}") from None

    def _no_answer(self, what: str) -> NoAnswerError:
        where = f"{self._uri.host}:{self._uri.port}"
        return NoAnswerError(
            f"the transit server {where} {what}",
            next_step=f"see whether it runs and can be reached from here: curl {self._uri.base}/v1/sys/health",
        )


def refusal(answer: Answer, uri: TransitUri, what: str) -> ProviderError:
    """The error for an answer that is none of those that were hoped for.

    Args:
        answer: the server's.
        uri: of the store.
        what: was asked, to follow "to": "sign", "read a key".
    """
    if answer.sealed:
        return ProviderSealedError(
            "the transit server is sealed",
            next_step="have its operators unseal it (bao operator unseal) and find out why it was sealed",
        )
    if answer.no_mount:
        return _no_mount(answer, uri)
    match answer.status:
        case 403:
            return ProviderPermissionError(
                f"the transit server does not let the gateway {what}",
                next_step="compare the policy of the gateway's role or token with the one in "
                f"docs/providers/transit.md, written for the mount {uri.mount}",
            )
        case 429:
            return ProviderThrottledError(
                f"the transit server takes no more requests at this rate ({what})",
                next_step="raise its rate limit quota (bao list sys/quotas/rate-limit), or ask it less",
                retry_after=answer.retry_after,
            )
        case 501:
            return ProviderConfigurationError(
                "the transit server is not initialised", next_step="initialise it: bao operator init"
            )
        case 472:
            return ProviderUnavailableError(
                "the transit server is the secondary of a disaster recovery pair, which serves nobody",
                next_step="name the primary, or a balancer that finds it, in the provider's URI",
            )
        case status if 300 <= status < 400:
            return ProviderUnavailableError(
                "the transit server is a standby that refers to another one, which is not followed",
                next_step="name the active server, or a balancer that finds it by sys/health, in the provider's URI",
            )
    return ProviderUnavailableError(
        f"the transit server refused to {what} (HTTP {answer.status})",
        next_step="look for the request in the server's audit log, and at the server's own log",
    )


def health_error(answer: Answer, uri: TransitUri) -> ProviderError | None:
    """What is wrong with a server by its ``sys/health``; ``None`` where it serves. Standbys do: they pass on."""
    return None if answer.status in (200, 429, 473) else refusal(answer, uri, "say how it is")


def _no_mount(answer: Answer, uri: TransitUri) -> ProviderError:
    inside = f"-namespace={uri.namespace} " if uri.namespace else ""
    if "namespace not found" in answer.errors:
        return ProviderConfigurationError(
            f"the transit server has no namespace {uri.namespace}",
            next_step=f"correct namespace= in the provider's URI, or make it: bao namespace create {uri.namespace}",
        )
    return ProviderConfigurationError(
        f"the transit server has nothing mounted at {uri.mount}",
        next_step=f"enable the engine there: bao secrets enable {inside}-path={uri.mount} transit",
    )


def _answer(response: requests.Response) -> Answer:
    """Read an answer, up to the limit and in time."""
    end, content = time.monotonic() + _READ_SECONDS, bytearray()
    for chunk in response.iter_content(_CHUNK):
        content += chunk
        if len(content) > MAX_ANSWER or time.monotonic() > end:
            raise NoAnswerError(
                "the transit server's answer is too long, or takes too long to come",
                next_step="check host and port of the provider's URI, and what is on the way there",
            )
    try:
        body = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        # What Go's HTTP server says; https://go.dev/src/net/http/server.go
        if response.status_code == 400 and b"HTTP request to an HTTPS server" in content:
            raise ProviderConfigurationError(
                "the transit server's port speaks TLS, and the provider's URI says tls=off",
                next_step="leave tls=off out of the URI, and name the CA's certificate with ca-file=/path",
            )
        if response.ok:
            raise NoAnswerError(
                "what answers is not a transit server: its answer is not a JSON object",
                next_step="check host and port of the provider's URI",
            )
        body = {}
    errors = body.get("errors")
    texts = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
    return Answer(response.status_code, body, "\n".join(texts).lower(), _retry_after(response.headers))


def _retry_after(headers: Any) -> timedelta | None:
    """In seconds (RFC 9110 section 10.2.3), as these servers send it; no more than an hour."""
    text = headers.get("Retry-After", "")
    return timedelta(seconds=min(int(text), 3600)) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _tls_error(error: Exception) -> ProviderError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error) or "certificate verify failed" in str(error):
        return ProviderConfigurationError(
            "the transit server's certificate is not one of a known CA for this name, or has expired",
            next_step="name the CA's certificate with ca-file=/path, and the server as its certificate does",
        )
    return NoAnswerError(
        "TLS with the transit server failed",
        next_step="check that the port speaks TLS, and that cert-file and key-file belong together and are known there",
    )


def _readable(path: Path, what: str) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ProviderConfigurationError(
            f"the {what} file cannot be read: {error.strerror}", next_step=f"check that {path} exists and is readable"
        ) from None
