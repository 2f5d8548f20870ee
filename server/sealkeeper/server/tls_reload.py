"""TLS of the gateway's ports, replaced while it runs: its certificate and key, and the bundles of all trust domains.

A new set is used only when it is good as a whole. Handshakes take the newest set; connections that are there live on,
and their callers are checked against the newest bundles at their next call (``certificate_identity.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509

from sealkeeper.server.file_watch import WatchedFiles, read_bounded
from sealkeeper.server.identity_settings import TrustDomainSettings
from sealkeeper.server.settings import TlsSettings
from sealkeeper.server.tls import TlsFiles, read_tls_files
from sealkeeper.server.trust_bundles import MAX_BUNDLE, TrustBundles, check_bundle

_log = logging.getLogger("sealkeeper.tls")


@dataclass(frozen=True, slots=True)
class _TlsSet:
    files: TlsFiles
    bundle_files: Mapping[str, bytes]
    bundles: TrustBundles
    mutual: grpc.ServerCertificateConfiguration
    server_only: grpc.ServerCertificateConfiguration


class TlsReload:
    """The TLS of a gateway as its files have it now. Used on the event loop; ``refresh`` reads in threads.

    Making one blocks, and raises ConfigurationError where a file is no good.

    Args:
        tls: files of the gateway's ports, and of its own trust domain.
        domain: the gateway's own trust domain.
        trust_domains: the others, by name.
        time_source: the machine's clock, as the peers' TLS has it.
    """

    def __init__(
        self,
        tls: TlsSettings,
        domain: str,
        trust_domains: Mapping[str, TrustDomainSettings],
        time_source: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tls = tls
        self._domain = domain
        self._bundle_paths: dict[str, Path] = {name: one.bundle for name, one in trust_domains.items()}
        self._time_source = time_source
        self._listeners: list[Callable[[], None]] = []
        self._current: _TlsSet | None = None
        paths = (tls.certificate, tls.key, tls.client_ca, *self._bundle_paths.values())
        self._files = WatchedFiles(paths, self._read)
        self._current = self._files.first()

    @property
    def bundles(self) -> TrustBundles:
        """Of all trust domains, as they are now."""
        return self._set.bundles

    @property
    def leaf(self) -> x509.Certificate:
        """The gateway's own certificate, as it is now."""
        return self._set.files.leaf

    def credentials(self) -> grpc.ServerCredentials:
        """For a port that asks for client certificates. Each port of each gRPC server needs credentials of its own:
        gRPC fetches a change once for what it was given, and would leave the others as they were."""
        return self._credentials(lambda current: current.mutual, require_client=True)

    def token_credentials(self) -> grpc.ServerCredentials:
        """As ``credentials``, for a port that does not ask for client certificates."""
        return self._credentials(lambda current: current.server_only, require_client=False)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have a function called, on the event loop, whenever a new set has been taken."""
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Read the files again if they may have changed, and use them if they are good."""
        found, before = await self._files.changed(), self._set
        if found is None or found is before:
            return
        self._current = found
        _log.info("taken: %s", "; ".join(_differences(before, found, self._domain)))
        for listener in self._listeners:
            listener()

    @property
    def _set(self) -> _TlsSet:
        if self._current is None:
            raise RuntimeError("is read when it is made")
        return self._current

    def _read(self) -> _TlsSet:
        before, now = self._current, self._time_source()
        files = read_tls_files(self._tls, now, before.files if before else None)
        data: dict[str, bytes] = {}
        authorities = {self._domain: files.authorities}
        for name, path in self._bundle_paths.items():
            setting = f"trust_domains.{name}.bundle"
            data[name] = read_bounded(path, setting, MAX_BUNDLE)
            # What is as it was need not be valid any more: one domain's old CA must not keep another's new one out.
            if before is not None and data[name] == before.bundle_files[name]:
                authorities[name] = before.bundles.authorities[name]
            else:
                authorities[name] = check_bundle(data[name], path, setting, now)
        if before is not None and (files, data) == (before.files, before.bundle_files):
            return before
        bundles = TrustBundles(authorities, before.bundles.generation + 1 if before else 0)
        pair = [(files.key, files.certificate)]
        return _TlsSet(
            files,
            data,
            bundles,
            grpc.ssl_server_certificate_configuration(pair, bundles.pem),
            grpc.ssl_server_certificate_configuration(pair),
        )

    def _credentials(
        self, part: Callable[[_TlsSet], grpc.ServerCertificateConfiguration], *, require_client: bool
    ) -> grpc.ServerCredentials:
        taken = self._set

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # In a thread of gRPC's, at every handshake: it reads nothing.
            nonlocal taken
            current = self._set
            if current is taken:
                return None
            taken = current
            return part(current)

        # That there may be no change is missing in the type stubs.
        fetcher = cast(Callable[[], grpc.ServerCertificateConfiguration], fetch)
        return grpc.dynamic_ssl_server_credentials(part(taken), fetcher, require_client_authentication=require_client)


def _differences(before: _TlsSet, after: _TlsSet, domain: str) -> list[str]:
    """What a person should see of a change, each with its setting."""
    said = []
    leaf = after.files.leaf
    if leaf != before.files.leaf:
        said.append(f"gateway.tls.certificate, valid until {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    for name, ones in after.bundles.authorities.items():
        old, new = set(before.bundles.authorities[name]), set(ones)
        if old != new:
            setting = "gateway.tls.client_ca" if name == domain else f"trust_domains.{name}.bundle"
            said.append(f"{setting}, {len(new)} CA certificates, {len(new - old)} of them new, {len(old - new)} gone")
    return said or ["files with the same certificates as before"]
