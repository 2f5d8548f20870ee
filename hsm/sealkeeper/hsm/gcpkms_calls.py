"""Calls to Google Cloud KMS: one channel, credentials, short timeouts, and errors in our own words.

The client library's own retries run for a minute, and some of its calls have no timeout: neither is used.
Sources: google.rpc.Code, google.rpc.RetryInfo; https://cloud.google.com/kms/docs/reference/rpc.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import google.auth
import grpc
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth import identity_pool
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.oauth2 import service_account
from google.rpc import error_details_pb2

from sealkeeper.hsm.errors import (
    ProviderConfigurationError,
    ProviderPermissionError,
    ProviderThrottledError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.gcpkms_uri import GcpKmsUri
from sealkeeper.hsm.secret_file import read_secret
from sealkeeper.hsm.unreachable import NO_NAME, NO_WAY, REFUSED

TIMEOUT = 8.0
"""Seconds that one call may take, with the connection and the token that it may need."""

_SCOPES = ("https://www.googleapis.com/auth/cloudkms",)
_PAUSES = (0.1, 0.4, 1.2)
_NO_MORE_AFTER = 3.0
_MAX_ANSWER = 1024 * 1024
_MAX_RETRY_AFTER = 3600
_CHANNEL = (
    ("grpc.max_receive_message_length", _MAX_ANSWER),
    ("grpc.max_send_message_length", _MAX_ANSWER),
    # gRPC waits up to two minutes by default before it connects again to a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
# Said by gRPC where the token could not be got; the text behind it may hold what Google's token service answered.
_PLUGIN_FAILED = "Getting metadata from plugin failed"

# Words of gRPC's own texts.
_UNREACHABLE = {
    "DNS resolution failed": NO_NAME,
    "Domain name not found": NO_NAME,
    "Connection refused": REFUSED,
    "Network is unreachable": NO_WAY,
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted here",
}

# Google leaves their constructors without types.
_SERVICE_ACCOUNT: Any = service_account.Credentials
_IDENTITY_POOL: Any = identity_pool.Credentials

_Answer = TypeVar("_Answer")


class RefusedError(ProviderPermissionError):
    """Google answered, and said no to this request, in a way that its caller may know the meaning of.

    Attributes:
        code: ``NOT_FOUND``, ``ALREADY_EXISTS``, ``FAILED_PRECONDITION`` or ``INVALID_ARGUMENT``.
    """

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(f"Google Cloud KMS refused the request ({code.name})", next_step="look at its audit log")
        self.code = code


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls over one channel; several threads may make them at once.

    Attributes:
        client: Google's, of whose methods one is called.
        sleep: waits for some seconds.
        clock: seconds that only go up.
    """

    client: KeyManagementServiceClient
    sleep: Callable[[float], object]
    clock: Callable[[], float]

    def __call__(self, rpc: Callable[..., _Answer], request: Any, *, again: bool) -> _Answer:
        """Make a call.

        Args:
            rpc: method of ``client``.
            request: its request.
            again: whether a second call does no harm where the first one may have been carried out.

        Raises:
            RefusedError: see there.
            ProviderUnavailableError: or one of its kinds.
        """
        begun = self.clock()
        for pause in (*_PAUSES, None):
            try:
                return rpc(request=request, retry=None, timeout=TIMEOUT)
            except (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded) as error:
                late = self.clock() - begun > _NO_MORE_AFTER
                if pause is None or late or not again or _PLUGIN_FAILED in str(error.message):
                    raise _translated(error) from None
                self.sleep(pause * (0.5 + secrets.randbelow(500) / 1000))
            except exceptions.GoogleAPICallError as error:
                raise _translated(error) from None
            except GoogleAuthError as error:
                raise _no_token(error) from None
        raise AssertionError  # the last round returns or raises

    def close(self) -> None:
        """Close the channel."""
        transport: Any = self.client.transport
        transport.close()


def open_calls(uri: GcpKmsUri, sleep: Callable[[float], object], clock: Callable[[], float]) -> Calls:
    """Make a channel. It connects with the first call.

    Raises:
        ProviderConfigurationError: there are no credentials, or not such that can be used.
    """
    if uri.plaintext:
        # No proxy of the environment stands between this machine and itself.
        channel = grpc.insecure_channel(uri.endpoint, options=[*_CHANNEL, ("grpc.enable_http_proxy", 0)])
        return Calls(
            KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel)), sleep, clock
        )
    credentials = _default_credentials() if uri.credentials_source is None else _credentials(uri.credentials_source)

    def transport(**settings: Any) -> KeyManagementServiceGrpcTransport:
        return KeyManagementServiceGrpcTransport(**settings, channel=_channel)

    options = ClientOptions(api_endpoint=uri.endpoint or None)
    try:
        return Calls(
            KeyManagementServiceClient(credentials=credentials, transport=transport, client_options=options),
            sleep,
            clock,
        )
    except (GoogleAuthError, ValueError):
        raise ProviderConfigurationError(
            "Google's client library cannot be set up with these credentials and this environment",
            next_step="check the GOOGLE_... environment variables of the gateway",
        ) from None


def _channel(host: str, **settings: Any) -> grpc.Channel:
    return KeyManagementServiceGrpcTransport.create_channel(host, **{**settings, "options": [*_CHANNEL]})


def _default_credentials() -> Any:
    try:
        credentials, _ = google.auth.default(scopes=_SCOPES)
    except (DefaultCredentialsError, TransportError):
        raise ProviderConfigurationError(
            "there are no Google credentials here: no workload identity, no metadata server, no default file",
            next_step="bind the gateway to a service account, or name a file with credentials-source=file:/path",
        ) from None
    return credentials


def _credentials(path: Path) -> Any:
    """Credentials of a file, of those kinds that send secrets to nobody but Google and start no program."""
    try:
        document = json.loads(read_secret(path, "Google credentials"))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _bad_file(path, "is not a JSON document")
    for name in ("token_uri", "token_url", "service_account_impersonation_url", "token_info_url"):
        if name in document and not _is_googles(document[name]):
            raise _bad_file(path, f"has a {name} that is not Google's")
    try:
        match document.get("type"):
            case "service_account":
                return _SERVICE_ACCOUNT.from_service_account_info(document, scopes=_SCOPES)
            case "external_account":
                source = document.get("credential_source")
                if not isinstance(source, dict) or set(source) - {"file", "format"}:
                    raise _bad_file(path, "takes its identity token from elsewhere than a file")
                return _IDENTITY_POOL.from_info(document, scopes=_SCOPES)
    except (GoogleAuthError, ValueError, TypeError, KeyError):
        raise _bad_file(path, "is damaged") from None
    raise _bad_file(path, "is of neither type service_account nor external_account")


def _is_googles(url: object) -> bool:
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" and host.endswith(".googleapis.com") and parts.username is None


def _bad_file(path: Path, what: str) -> ProviderConfigurationError:
    return ProviderConfigurationError(
        f"the Google credentials file {what}",
        next_step=f"put a service account's key, or a workload identity federation configuration, into {path}",
    )


def _translated(error: exceptions.GoogleAPICallError) -> ProviderUnavailableError:
    """What it is in our words. Google's own text is not shown: it may repeat what it was sent."""
    code = error.grpc_status_code or grpc.StatusCode.UNKNOWN
    match code:
        case (
            grpc.StatusCode.NOT_FOUND
            | grpc.StatusCode.ALREADY_EXISTS
            | grpc.StatusCode.FAILED_PRECONDITION
            | grpc.StatusCode.INVALID_ARGUMENT
        ):
            return RefusedError(code)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ProviderThrottledError(
                "Google Cloud KMS takes no more requests of this project now: a quota is used up",
                next_step="look at the quotas of the Cloud KMS API in the project, and have them raised",
                retry_after=_retry_after(error),
            )
        case grpc.StatusCode.PERMISSION_DENIED:
            return ProviderPermissionError(
                "Google Cloud KMS does not let the gateway do this, or there is no such project",
                next_step="give the gateway's service account the role of docs/providers/gcpkms.md on the key ring",
            )
        case grpc.StatusCode.UNAUTHENTICATED:
            return _no_token(error)
    if _PLUGIN_FAILED in str(error.message):
        return _no_token(error)
    why = next((f": {why}" for words, why in _UNREACHABLE.items() if words in str(error.message)), "")
    return ProviderUnavailableError(
        f"Google Cloud KMS cannot be reached or cannot answer now ({code.name}){why}",
        next_step="check the network to its endpoint, and https://status.cloud.google.com",
        retry_after=_retry_after(error),
    )


def _no_token(error: Exception) -> ProviderUnavailableError:
    if isinstance(error, TransportError):
        return ProviderUnavailableError(
            "Google's token service cannot be reached", next_step="check the network to it, or the metadata server"
        )
    return ProviderPermissionError(
        "Google does not take the gateway's credentials, or they cannot be renewed",
        next_step="check the service account, its key or its workload identity binding, and this machine's clock",
    )


def _retry_after(error: exceptions.GoogleAPICallError) -> timedelta | None:
    for detail in error.details:
        if isinstance(detail, error_details_pb2.RetryInfo):
            seconds = detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9
            return timedelta(seconds=min(max(seconds, 0.0), _MAX_RETRY_AFTER))
    return None
