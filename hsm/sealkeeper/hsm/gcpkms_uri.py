"""The URI of a Google Cloud KMS key ring.

``gcpkms://projects/acme-signing/locations/europe-west3/keyRings/release?protection=HSM``

Path: the key ring's resource name. Attributes, all of which may be left out: ``protection`` (``HSM``, which is meant
where it is missing, or ``SOFTWARE``) of keys that are made; ``credentials-source=file:/...`` with a service account's
key or a workload identity federation configuration, in place of Application Default Credentials; ``endpoint``, a host
with an optional port, in place of Google's global one. An endpoint that is a loopback address is spoken to in the clear
and without credentials; any other by TLS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from sealkeeper.hsm.errors import ProviderUriError
from sealkeeper.hsm.uri import after_scheme, attributes, decoded, file_source

Protection = Literal["HSM", "SOFTWARE"]

_PATH = re.compile(
    r"//projects/(?P<project>(?:[a-z0-9.-]{1,63}:)?[a-z0-9][a-z0-9-]{2,62})"
    r"/locations/(?P<location>[a-z0-9-]{1,63})"
    r"/keyRings/(?P<ring>[A-Za-z0-9_-]{1,63})"
)
_ENDPOINT = re.compile(
    r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class GcpKmsUri:
    """A key ring and how to reach it.

    Attributes:
        project: ID or number of the project that holds the ring.
        location: of the ring, for example ``europe-west3``.
        ring: ID of the key ring.
        protection: level of the keys that are made and imported.
        credentials_source: file to take credentials from; ``None``: Application Default Credentials.
        endpoint: host and port; empty: Google's own.
        plaintext: the endpoint is a loopback address, which gets neither TLS nor credentials.
    """

    project: str
    location: str
    ring: str
    protection: Protection = "HSM"
    credentials_source: Path | None = None
    endpoint: str = ""
    plaintext: bool = False

    @property
    def key_ring(self) -> str:
        """Resource name of the key ring."""
        return f"projects/{self.project}/locations/{self.location}/keyRings/{self.ring}"


def parse_gcpkms_uri(uri: str) -> GcpKmsUri:
    """Parse a ``gcpkms:`` URI.

    Raises:
        ProviderUriError: naming what is malformed, unknown, given twice or does not go together.
    """
    path, _, query = after_scheme(uri, "gcpkms").partition("?")
    where = _PATH.fullmatch(decoded(path, "the key ring"))
    if where is None:
        raise ProviderUriError(
            "a gcpkms: URI names a key ring: gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING",
            next_step="gcloud kms keyrings list --location LOCATION shows the names",
        )
    how = attributes(query, "&", ("protection", "credentials-source", "endpoint"))
    endpoint, plaintext = _endpoint(how["endpoint"]) if "endpoint" in how else ("", False)
    source = how.get("credentials-source")
    if plaintext and source is not None:
        raise ProviderUriError("credentials-source does not go with an endpoint on loopback, which gets no credentials")
    return GcpKmsUri(
        project=where["project"],
        location=where["location"],
        ring=where["ring"],
        protection=_protection(how.get("protection", "HSM")),
        credentials_source=None if source is None else file_source(source, "credentials-source"),
        endpoint=endpoint,
        plaintext=plaintext,
    )


def _protection(text: str) -> Protection:
    match text:
        case "HSM" | "SOFTWARE":
            return text
        case "EXTERNAL" | "EXTERNAL_VPC" | "HSM_SINGLE_TENANT":
            raise ProviderUriError(
                f"protection={text} is not supported: such keys need a set-up of their own in Google Cloud",
                next_step="use protection=HSM, or the key manager behind it as a provider of its own",
            )
    raise ProviderUriError("protection must be HSM or SOFTWARE")


def _endpoint(text: str) -> tuple[str, bool]:
    """Host and port, and whether it is on loopback."""
    parts = _ENDPOINT.fullmatch(text)
    if parts is None or not 0 < int(parts["port"] or 443) < 65_536:
        raise ProviderUriError("endpoint must be a host name or loopback address with an optional port")
    host, port = parts["host"], parts["port"]
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        if "." not in host or host.startswith("["):
            raise ProviderUriError("endpoint must be a full host name, or a loopback address in digits") from None
        return f"{host}:{port or 443}", False
    if not address.is_loopback:
        raise ProviderUriError("endpoint must be a host name, which TLS can check, unless it is a loopback address")
    if port is None:
        raise ProviderUriError("endpoint on loopback needs a port")
    return f"{host}:{port}", True
