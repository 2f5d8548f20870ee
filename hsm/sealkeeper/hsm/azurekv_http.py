"""How the vault of an ``azurekv:`` URI is reached, as whom, and what its refusals mean."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import requests
from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter

from sealkeeper.hsm.azurekv_uri import Auth, AzureKeyVaultUri, Kind
from sealkeeper.hsm.errors import (
    KeyHandleError,
    ProviderConfigurationError,
    ProviderError,
    ProviderPermissionError,
    ProviderThrottledError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.secret_file import read_secret
from sealkeeper.hsm.unreachable import because

T = TypeVar("T")

# Entra ID's own texts would be printed by Python, where nobody takes the SDK's warnings.
for _library in ("azure", "msal"):
    logging.getLogger(_library).addHandler(logging.NullHandler())

MAX_ANSWER = 256 * 1024
"""Longest answer in bytes: an attestation with its certificates has some tens of KiB, all else less than ten."""
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 10.0
_LOGIN_PATIENCE = 15.0
# A token from a file is read again after about a minute: the SDK renews what has less than five left.
_TOKEN_LIFE = 360
_MAX_RETRY_AFTER = 3600
_CODE = re.compile(r"[A-Za-z]{1,40}")


@dataclass(frozen=True, slots=True)
class Action:
    """What is asked of the store, and the permission that it takes.

    Attributes:
        what: for the reader of an error.
        vault: data action of Azure RBAC, for a vault.
        hsm: data action of local RBAC, for a Managed HSM.
        about_key: it is about one key, which may be missing.
    """

    what: str
    vault: str
    hsm: str
    about_key: bool = True

    def permission(self, kind: Kind) -> str:
        """The data action to grant."""
        return self.vault if kind is Kind.VAULT else self.hsm


def _action(what: str, vault: str, hsm: str, *, about_key: bool = True) -> Action:
    return Action(
        what, f"Microsoft.KeyVault/vaults/keys/{vault}", f"Microsoft.KeyVault/managedHsm/keys/{hsm}", about_key
    )


# Sources: Azure's resource provider operations, Microsoft.KeyVault; Managed HSM local RBAC built-in roles.
LIST = _action("list keys", "read", "read/action", about_key=False)
READ = _action("read a key", "read", "read/action")
CREATE = _action("create a key", "create/action", "create", about_key=False)
IMPORT = _action("import a key", "import/action", "import/action")
SIGN = _action("sign", "sign/action", "sign/action")
DELETE = _action("delete a key", "delete", "delete")
READ_DELETED = _action("read a deleted key", "read", "deletedKeys/read/action")
PURGE = _action("purge a deleted key", "purge/action", "deletedKeys/delete")
ACTIONS = (LIST, READ, CREATE, IMPORT, SIGN, DELETE, READ_DELETED, PURGE)
"""All that the gateway ever asks for."""


class HopelessError(ProviderUnavailableError):
    """The store cannot answer, and would not a moment later."""


class LoginRefusedError(ProviderPermissionError):
    """Entra ID, or the machine's metadata service, gives the gateway no token."""


class _TooLongError(requests.exceptions.RequestException):
    """The answer is longer than any of the store's."""


class _BoundedAdapter(HTTPAdapter):
    """Reads at most ``MAX_ANSWER`` bytes of an answer, and none that is compressed."""

    def send(self, *args: Any, **options: Any) -> requests.Response:
        response = super().send(*args, **{**options, "stream": True})
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise _TooLongError("the answer is compressed")
        body = bytearray()
        for chunk in response.iter_content(16 * 1024):
            body += chunk
            if len(body) > MAX_ANSWER:
                response.close()
                raise _TooLongError("the answer is too long")
        response._content = bytes(body)  # noqa: SLF001  (requests has no other way to say what was read)
        return response


def open_transport(ca_file: Path | None) -> RequestsTransport:
    """A connection that trusts what the URI says, and neither proxies nor certificates of the environment."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Accept-Encoding"] = "identity"
    session.mount("https://", _BoundedAdapter(max_retries=0))
    # Managed identities are asked for at the machine's own plain address, 169.254.169.254.
    session.mount("http://", _BoundedAdapter(max_retries=0))
    return RequestsTransport(
        session=session,
        use_env_settings=False,
        connection_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        connection_verify=True if ca_file is None else str(ca_file),
    )


class _TokenFile:
    """A credential that somebody else keeps fresh in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read()

    def _read(self) -> str:
        try:
            token = read_secret(self._path, "token").decode("ascii")
        except UnicodeDecodeError:
            token = ""
        if not re.fullmatch(r"[0-9A-Za-z._~+/=-]+", token):
            raise ProviderConfigurationError(
                "the token file does not hold a bearer token", next_step=f"write an access token into {self._path}"
            )
        return token

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self._read(), int(time.time()) + _TOKEN_LIFE)

    def get_token_info(self, *_scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        return AccessTokenInfo(self._read(), int(time.time()) + _TOKEN_LIFE)

    def close(self) -> None:
        """There is nothing to close."""


class Login:
    """A credential that is asked by one thread at a time: the others then find the token in its cache."""

    def __init__(self, uri: AzureKeyVaultUri) -> None:
        self._credential = _credential(uri)
        self._lock = threading.Lock()

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """As in ``azure.core.credentials.TokenCredential``."""
        token: AccessToken = self._ask(lambda: self._credential.get_token(*scopes, **options))
        return token

    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """As in ``azure.core.credentials.SupportsTokenInfo``."""
        info: AccessTokenInfo = self._ask(lambda: self._credential.get_token_info(*scopes, options=options))
        return info

    def close(self) -> None:
        """Let go of its connections."""
        self._credential.close()

    def _ask(self, credential: Callable[[], T]) -> T:
        """Ask the credential, and say of its errors that they are not the store's: their statuses mean nothing there.

        Raises:
            ProviderError: the gateway cannot log in.
        """
        if not self._lock.acquire(timeout=_LOGIN_PATIENCE):
            raise ProviderUnavailableError("the gateway cannot log in: Entra ID takes too long")
        try:
            return credential()
        except ProviderConfigurationError as error:
            # It was in order when the provider was opened, and can become so again.
            raise LoginRefusedError(str(error), next_step=error.next_step) from None
        except (ServiceRequestError, ServiceResponseError) as error:
            raise ProviderUnavailableError(
                f"the gateway cannot log in: Entra ID does not answer ({type(error).__name__})",
                next_step="check DNS, firewall and TLS inspection between the gateway and Entra ID, or the machine's "
                "metadata service",
            ) from None
        except Exception as error:  # noqa: BLE001  (the SDK raises what it stumbles over in an answer)
            raise LoginRefusedError(
                f"the gateway cannot log in to Entra ID ({type(error).__name__})",
                next_step="check auth, tenant-id and client-id in the URI, that the credential has not expired, and "
                "that the store's tenant is the identity's",
            ) from None
        finally:
            self._lock.release()


def _credential(uri: AzureKeyVaultUri) -> Any:
    """The SDK's credential for a URI.

    Raises:
        ProviderConfigurationError: a file cannot be used.
    """
    how: dict[str, Any] = {
        "transport": open_transport(uri.ca_file),
        "retry_total": 1,
        "retry_backoff_factor": 0.2,
        "retry_backoff_max": 1,
    }
    if uri.auth is Auth.TOKEN and uri.source is not None:
        return _TokenFile(uri.source)
    # Imported when needed: it takes a good part of a worker's start.
    from azure.identity import (
        CertificateCredential,
        ClientSecretCredential,
        ManagedIdentityCredential,
        WorkloadIdentityCredential,
    )

    if uri.auth is Auth.MANAGED_IDENTITY:
        return ManagedIdentityCredential(client_id=uri.client_id or None, **how)
    assert uri.source is not None  # noqa: S101  (the parser lets none through)
    how |= {"tenant_id": uri.tenant_id, "client_id": uri.client_id, "authority": uri.authority}
    # Which hosts are Entra ID's need not be asked: they come from a table here, not from the URI.
    how["disable_instance_discovery"] = True
    try:
        match uri.auth:
            case Auth.WORKLOAD_IDENTITY:
                read_secret(uri.source, "federated token")
                return WorkloadIdentityCredential(token_file_path=str(uri.source), **how)
            case Auth.CLIENT_CERTIFICATE:
                return CertificateCredential(certificate_data=read_secret(uri.source, "certificate"), **how)
            case _:
                secret = read_secret(uri.source, "client secret").decode("utf-8")
                return ClientSecretCredential(client_secret=secret, **how)
    except ValueError:
        raise ProviderConfigurationError(
            f"auth={uri.auth} cannot use its file", next_step=f"check what {uri.source} holds"
        ) from None


def refusal(error: Exception, action: Action, kind: Kind) -> ProviderError:
    """What an error of the SDK means. Of the store's own words it takes codes alone.

    Errors that stand for a bug of ours come out as a store that cannot be understood: better than a dead worker.
    """
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, HttpResponseError) and isinstance(error.status_code, int) and error.status_code >= 300:
        return _answered(error, error.status_code, action, kind)
    if isinstance(error, ServiceRequestError):
        if isinstance(error.inner_exception, requests.exceptions.SSLError):
            return HopelessError(
                "the key store's certificate is not trusted",
                next_step="name the certificates to trust with ca-file, where TLS is inspected on the way",
            )
        return ProviderUnavailableError(
            f"the key store cannot be reached{because(error)}",
            next_step="check DNS, private endpoint and firewall between the gateway and the store, and that it exists",
        )
    if isinstance(error, AzureError):
        return ProviderUnavailableError(
            f"the key store did not answer properly ({type(error).__name__})", next_step="look at Azure's status page"
        )
    return HopelessError(
        f"the answer is not one of Key Vault's ({type(error).__name__})",
        next_step="check that nothing stands in for the store: DNS, proxies, TLS inspection",
    )


def _answered(error: HttpResponseError, status: int, action: Action, kind: Kind) -> ProviderError:
    code = _inside(error_code(error))
    if status == 401:
        return ProviderPermissionError(
            f"the key store does not accept the gateway's token{code}",
            next_step="check that the identity is of the store's tenant, and that its token has not expired",
        )
    if status == 403:
        return _forbidden(code, action, kind)
    if status == 404 and action.about_key:
        return KeyHandleError("the key store has no such key")
    if status == 429:
        return ProviderThrottledError(
            f"the key store takes no more requests at this rate{code}",
            next_step="spread keys over more vaults, or ask for elliptic curve keys: RSA keys cost more of the quota",
            retry_after=_retry_after(error),
        )
    if status == 409:
        return ProviderPermissionError(
            f"a key of that name is being deleted or recovered{code}", next_step="try again in a minute"
        )
    kind_of_error = ProviderUnavailableError if status >= 500 else HopelessError
    return kind_of_error(
        f"the key store refused to {action.what}: status {status}{code}", next_step="look at the store's own log"
    )


def _forbidden(code: str, action: Action, kind: Kind) -> ProviderError:
    step = f"grant the gateway's identity the data action {action.permission(kind)} on the store"
    if "Firewall" in code or "Connection" in code:
        step = "let the gateway's address through the store's network rules, or use its private endpoint"
    elif "Disabled" in code or "Expired" in code or "NotYetValid" in code:
        step = "look at the key's attributes in the store: it is disabled, expired or not valid yet"
    return ProviderPermissionError(f"the key store does not let the gateway {action.what}{code}", next_step=step)


def error_code(error: HttpResponseError) -> str:
    """The innermost code of an answer's ``error``; empty where there is none."""
    try:
        found = error.response.json()["error"]  # type: ignore[union-attr]
        inner = (found.get("innererror") or {}).get("code")
        code = inner or found.get("code")
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _inside(text: str) -> str:
    return f" ({text})" if text else ""


def _retry_after(error: HttpResponseError) -> timedelta | None:
    """What the store says in whole seconds, an hour at most (RFC 9110 section 10.2.3)."""
    response: Any = error.response
    text = response.headers.get("Retry-After", "") if response is not None else ""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        return None
    return timedelta(seconds=min(int(text), _MAX_RETRY_AFTER))
