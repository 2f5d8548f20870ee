"""TLS of the webhook, from files that are replaced while it runs, as cert-manager and mounted secrets do.

A new set is taken when it is good as a whole; handshakes take the newest, connections that are there live on. There is
no resumption of sessions: a caller's certificate is checked against the newest CA in each handshake.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509

from sealkeeper.client.admission.settings import TlsPaths
from sealkeeper.client.errors import ConfigurationError, FieldViolation
from sealkeeper.client.tls_files import certificates, check_identity, read_pem

_log = logging.getLogger("sealkeeper.admission.tls")


class ReloadedTls:
    """TLS as the files have it now. ``refresh`` reads in a thread; the rest is for the event loop.

    Making one blocks.

    Attributes:
        context: for the server that listens.
        leaf: the webhook's certificate.
        problem: why the files as they are now are not taken; empty where they are.

    Args:
        paths: of the files.
        time_source: the machine's clock, UTC.

    Raises:
        ConfigurationError: a file cannot be read or used, or the key is another certificate's.
    """

    def __init__(self, paths: TlsPaths, time_source: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._paths = paths
        self._time_source = time_source
        self.problem = ""
        self._data = self._read()
        self._current, self.leaf = self._made()
        # Handshakes begin with this one, and go on with the newest.
        self.context = _bare_context(verifies=paths.client_ca is not None)
        self.context.sni_callback = self._switch

    async def refresh(self) -> bool:
        """Read the files again, and use them if they changed and are good. What is no good is logged, once.

        Returns:
            Whether there is a new set.
        """
        try:
            found = await asyncio.to_thread(self._changed)
        except ConfigurationError as error:
            self._complain(str(error))
            return False
        except Exception as error:  # noqa: BLE001  # whatever is in the files, they are looked at again
            self._complain(f"they cannot be used: {type(error).__name__}")
            return False
        self.problem = ""
        if found is None:
            return False
        self._data, self._current, self.leaf = found
        _log.info("taken: a certificate that is valid until %s", self.leaf.not_valid_after_utc)
        return True

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            _log.error("a change is not taken, what was read before stays in use: %s", problem)

    def _changed(self) -> tuple[tuple[bytes, ...], ssl.SSLContext, x509.Certificate] | None:
        data = self._read()
        if data == self._data:
            return None
        context, leaf = self._made()
        # OpenSSL reads the files itself. Replaced meanwhile, they are looked at again next time.
        return (data, context, leaf) if self._read() == data else None

    def _read(self) -> tuple[bytes, ...]:
        paths = self._paths
        named = [(paths.certificate, "certificate"), (paths.key, "key")]
        if paths.client_ca is not None:
            named.append((paths.client_ca, "client_ca"))
        return tuple(read_pem(path, name) for path, name in named)

    def _made(self) -> tuple[ssl.SSLContext, x509.Certificate]:
        paths = self._paths
        check_identity(paths.certificate, paths.key, self._time_source())
        leaf = certificates(paths.certificate, "certificate")[0]
        context = _bare_context(verifies=paths.client_ca is not None)
        try:
            # No passphrase: without one given, OpenSSL would ask the terminal for it.
            context.load_cert_chain(paths.certificate, paths.key, password="")
        except (ssl.SSLError, ValueError, OSError):
            raise _unusable("certificate", f"{paths.certificate} and {paths.key} cannot be used for TLS") from None
        if paths.client_ca is not None:
            certificates(paths.client_ca, "client_ca")
            try:
                context.load_verify_locations(paths.client_ca)
            except (ssl.SSLError, OSError):
                raise _unusable("client_ca", f"{paths.client_ca} cannot be used for TLS") from None
        return context, leaf

    def _switch(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def _bare_context(*, verifies: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    return context


def _unusable(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name}: {problem}", next_step="name other files", violations=[FieldViolation(name, problem)]
    )
