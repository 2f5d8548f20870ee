"""Tokens on calls: gRPC asks for one with each call, in a thread of its own, and over TLS only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import grpc

from sealkeeper.client.errors import ClientError, error_of
from sealkeeper.client.token_source import MARGIN, Token, TokenSource, TokenUnavailableError

# So gRPC says it of a plugin that gave an error instead of metadata; the error itself it drops.
_PLUGIN_FAILED = "Getting metadata from plugin failed"
_STALE = {"TOKEN_REPLAYED", "TOKEN_EXPIRED"}


class CallTokens(grpc.AuthMetadataPlugin):
    """Gives calls their tokens: one is fetched with the first call, and another before it ends.

    Args:
        source: of tokens; ``None`` for callers with a certificate.
        now: the time, UTC; injected in tests.
    """

    def __init__(self, source: TokenSource | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._source = source
        self._now = now
        # Guards what follows: calls of several threads share one token, and wait for the one that fetches it.
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._refused = False
        self._failure: ClientError | None = None

    def secured(self, credentials: grpc.ChannelCredentials) -> grpc.ChannelCredentials:
        """TLS, and a token with each call where there is a source of them."""
        if self._source is None:
            return credentials
        return grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(self))

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        """Give a call its token."""
        try:
            token = self._current(self._source)
        except ClientError as error:
            self._failure = error
            callback((), error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the call must end
            self._failure = TokenUnavailableError(
                f"no token could be fetched: {type(error).__name__}", next_step="report this fault of Sealkeeper's"
            )
            callback((), self._failure)
        else:
            callback((("authorization", f"Bearer {token.text}"),), None)

    def error_of(self, raised: grpc.RpcError) -> ClientError:
        """Translate what gRPC raised."""
        error, failure = error_of(raised), self._failure
        return failure if failure is not None and str(error).startswith(_PLUGIN_FAILED) else error

    def renewal(self) -> Callable[[ClientError], bool]:
        """For one call: told of its errors, says once whether it can be tried again with a new token."""
        left = 1

        def renew(error: ClientError) -> bool:
            nonlocal left
            if not left or error.reason not in _STALE or self._source is None or not self._source.renewable:
                return False
            left -= 1
            with self._lock:
                self._token, self._refused = None, True
            return True

        return renew

    def _current(self, source: TokenSource | None) -> Token:
        if source is None:
            raise TokenUnavailableError("there is no source of tokens", next_step="name one in the client's settings")
        with self._lock:
            token = self._token
            if token is None or source.changed() or (source.renewable and token.ends_before(self._now() + MARGIN)):
                token = source.fetch(renew=self._refused)
                self._token, self._refused = token, False
            return token
