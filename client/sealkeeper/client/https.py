"""Small questions over HTTPS, each bounded in time and size: what issuers of tokens are asked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from sealkeeper.client.token_source import TokenUnavailableError

MAX_ANSWER = 64 * 1024
"""Bytes."""
TIMEOUT = 10.0
"""Seconds."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_URL = 8 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        document: the JSON object in it; empty where there was none.
    """

    status: int
    document: Mapping[str, Any] = field(repr=False)

    def text(self, name: str) -> str:
        """A member that is a string; empty where there is none."""
        value = self.document.get(name)
        return value if isinstance(value, str) else ""


class _NoRedirects(HTTPRedirectHandler):
    # A redirect would carry what is secret in the request to somewhere else.
    def redirect_request(self, *_: Any) -> None:
        return None


def checked_url(url: str, place: str, *, loopback: bool = False) -> str:
    """A URL that may be asked.

    Args:
        url: where.
        place: what names it, for errors.
        loopback: plaintext is allowed to this machine itself.

    Raises:
        TokenUnavailableError: it is none, or not https.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    plain = loopback and host in _LOOPBACK and url.startswith("http://")
    good = (url.startswith("https://") or plain) and url.isascii() and url.isprintable() and " " not in url
    if not host or not good or len(url) > _MAX_URL or "@" in parts.netloc or port == 0:
        raise TokenUnavailableError(f"{place}: must be an https:// URL", next_step=f"correct {place}")
    return url


def ask(
    url: str,
    place: str,
    *,
    form: Mapping[str, str] | None = None,
    bearer: str = "",
    loopback: bool = False,
    timeout: float = TIMEOUT,
) -> Answer:
    """Ask, and take the answer whatever its status is. Redirects are not followed.

    Args:
        url: where; ``https``.
        place: who is asked, for errors.
        form: to post; ``None`` to get.
        bearer: token to ask with.
        loopback: plaintext is allowed to this machine itself.
        timeout: seconds.

    Raises:
        TokenUnavailableError: there was no answer, or one that is too long.
    """
    request = Request(checked_url(url, place, loopback=loopback))  # noqa: S310  # it has just been checked
    request.add_header("Accept", "application/json")
    if form is not None:
        request.data = urlencode(form).encode()
        request.add_header("Content-Type", "application/x-www-form-urlencoded")
    if bearer:
        request.add_unredirected_header("Authorization", f"Bearer {bearer}")
    deadline = time.monotonic() + timeout
    try:
        with _opener(url).open(request, timeout=timeout) as response:
            return Answer(response.status, _document(_read(response, deadline, place)))
    except HTTPError as error:
        with error:
            return Answer(error.code, _document(_read(error, deadline, place)))
    except (OSError, HTTPException, ValueError) as error:
        # ValueError: of a host that is no name, or a header with characters that it cannot have, which it quotes.
        raise _no_answer(place, error) from None


def _opener(url: str) -> OpenerDirector:
    # What is meant for this machine is not sent to a proxy.
    proxies = [ProxyHandler({})] if url.startswith("http://") else []
    return build_opener(_NoRedirects(), *proxies)


def _read(response: HTTPResponse | HTTPError, deadline: float, place: str) -> bytes:
    data = bytearray()
    while piece := response.read1(MAX_ANSWER):
        data += piece
        if len(data) > MAX_ANSWER:
            raise TokenUnavailableError(f"{place} answered with more than 64 KiB", next_step="check its address")
        if time.monotonic() > deadline:
            raise _no_answer(place, TimeoutError())
    return bytes(data)


def _document(data: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _no_answer(place: str, error: Exception) -> TokenUnavailableError:
    cause = error.reason if isinstance(error, URLError) else error
    said = getattr(cause, "strerror", None) or type(cause).__name__
    if isinstance(cause, TimeoutError):
        said = "no answer in time"
    return TokenUnavailableError(
        f"{place} does not answer: {said}",
        next_step="check the address and the network; of a private CA, name its PEM file with SSL_CERT_FILE",
        transient=True,
    )
