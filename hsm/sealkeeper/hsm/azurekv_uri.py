"""``azurekv:`` URIs: which vault or Managed HSM, and as whom to log in there.

``azurekv://acme.vault.azure.net?auth=managed-identity&protection=HSM&region=germanywestcentral``

The host says which kind of store it is and which cloud's Entra ID to log in to. Hosts that are not Azure's are refused
but for 127.0.0.1, where tests have their own. Secrets stand in files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sealkeeper.hsm.errors import ProviderUriError
from sealkeeper.hsm.provider import ProtectionLevel
from sealkeeper.hsm.uri import absolute_path, after_scheme, attributes, file_source


class Kind(StrEnum):
    """Which of Azure's two stores it is."""

    VAULT = "vault"
    MANAGED_HSM = "managed-hsm"


class Auth(StrEnum):
    """How to log in."""

    MANAGED_IDENTITY = "managed-identity"
    WORKLOAD_IDENTITY = "workload-identity"
    CLIENT_CERTIFICATE = "client-certificate"
    CLIENT_SECRET = "client-secret"  # noqa: S105  (a way to log in, no secret)
    TOKEN = "token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class AzureKeyVaultUri:
    """A store, and as whom to log in.

    Attributes:
        host: its DNS name; with a port on loopback.
        kind: what it is.
        protection: of keys that are made there.
        authority: host of the Entra ID that the store trusts.
        auth: how to log in.
        tenant_id: directory of the identity; empty for a managed identity and for a token.
        client_id: of the identity; empty for a system-assigned managed identity and for a token.
        source: file with the token, the federated token, the certificate or the secret; ``None`` where none is needed.
        region: where the store must say that it is; empty where it is taken at its word.
        ca_file: certificates (PEM) to trust for TLS instead of the public ones.
    """

    host: str
    kind: Kind
    protection: ProtectionLevel
    authority: str
    auth: Auth
    tenant_id: str = ""
    client_id: str = ""
    source: Path | None = None
    region: str = ""
    ca_file: Path | None = None


# DNS suffixes and Entra ID hosts of Azure, Azure operated by 21Vianet, and Azure Government.
_CLOUDS = {
    "azure.net": "login.microsoftonline.com",
    "azure.cn": "login.chinacloudapi.cn",
    "usgovcloudapi.net": "login.microsoftonline.us",
}
_HOST = re.compile(r"[a-z][a-z0-9-]{1,22}[a-z0-9]\.(vault|managedhsm)\.(azure\.net|azure\.cn|usgovcloudapi\.net)")
_LOOPBACK = re.compile(r"127\.0\.0\.1:[1-9][0-9]{0,4}")
_IDENTIFIER = re.compile(r"[0-9A-Za-z.-]{1,64}")
_REGION = re.compile(r"[a-z0-9]{1,32}")
_NEEDED = {
    Auth.MANAGED_IDENTITY: (),
    Auth.WORKLOAD_IDENTITY: ("tenant-id", "client-id", "token-source"),
    Auth.CLIENT_CERTIFICATE: ("tenant-id", "client-id", "certificate-source"),
    Auth.CLIENT_SECRET: ("tenant-id", "client-id", "client-secret-source"),
    Auth.TOKEN: ("token-source",),
}
_SOURCES = ("token-source", "certificate-source", "client-secret-source")
_LOGIN = ("tenant-id", "client-id", *_SOURCES)
_KNOWN = ("auth", "protection", "region", "ca-file", "kind", *_LOGIN)


def parse_azurekv_uri(uri: str) -> AzureKeyVaultUri:
    """Parse an ``azurekv:`` URI.

    Raises:
        ProviderUriError: naming what is malformed, unknown, given twice, missing, not needed or not allowed.
    """
    where, _, query = after_scheme(uri, "azurekv").partition("?")
    if any(part.startswith(("client-secret=", "token=")) for part in query.split("&")):
        raise ProviderUriError(
            "a secret is not allowed in the URI: it would show wherever settings are shown",
            next_step="put it into a file of its own and name that: client-secret-source=file:/path",
        )
    how = attributes(query, "&", _KNOWN)
    host, kind, authority = _place(where, how.get("kind"))
    auth = _auth(how)
    source = next((file_source(how[name], name) for name in _SOURCES if name in how), None)
    region = how.get("region", "")
    if region and not _REGION.fullmatch(region):
        raise ProviderUriError("region is not a name like germanywestcentral")
    return AzureKeyVaultUri(
        host=host,
        kind=kind,
        protection=_protection(how.get("protection", "HSM"), kind),
        authority=authority,
        auth=auth,
        tenant_id=_identifier(how, "tenant-id"),
        client_id=_identifier(how, "client-id"),
        source=source,
        region=region,
        ca_file=absolute_path(how["ca-file"], "ca-file") if "ca-file" in how else None,
    )


def _place(where: str, kind: str | None) -> tuple[str, Kind, str]:
    host = where.removeprefix("//").removesuffix("/").lower()
    if _LOOPBACK.fullmatch(host) and int(host.partition(":")[2]) < 2**16:
        if kind not in set(Kind):
            raise ProviderUriError("an azurekv: URI on 127.0.0.1 needs kind=vault or kind=managed-hsm")
        # A store of tests logs its clients in by itself.
        return host, Kind(kind), host
    found = _HOST.fullmatch(host)
    if not found:
        raise ProviderUriError(
            "the host of an azurekv: URI is not that of a vault or a Managed HSM",
            next_step="write it like azurekv://acme.vault.azure.net or azurekv://acme.managedhsm.azure.net",
        )
    if kind is not None:
        raise ProviderUriError("kind is for 127.0.0.1 only: elsewhere the host says what it is")
    return host, Kind.VAULT if found[1] == "vault" else Kind.MANAGED_HSM, _CLOUDS[found[2]]


def _auth(how: dict[str, str]) -> Auth:
    given = how.get("auth", Auth.MANAGED_IDENTITY)
    if given not in set(Auth):
        raise ProviderUriError(f"auth is none of {', '.join(Auth)}")
    auth = Auth(given)
    needed = _NEEDED[auth]
    for name in needed:
        if name not in how:
            raise ProviderUriError(f"{name} is missing from the azurekv: URI: auth={auth} needs it")
    allowed = {*needed, "client-id"} if auth is Auth.MANAGED_IDENTITY else set(needed)
    for name in _LOGIN:
        if name in how and name not in allowed:
            raise ProviderUriError(f"auth={auth} makes no use of {name}")
    return auth


def _protection(given: str, kind: Kind) -> ProtectionLevel:
    if given not in {"HSM", "SOFTWARE"}:
        raise ProviderUriError("protection is neither HSM nor SOFTWARE")
    if given == "SOFTWARE" and kind is Kind.MANAGED_HSM:
        raise ProviderUriError("protection=SOFTWARE is not allowed: a Managed HSM has no keys outside its hardware")
    return ProtectionLevel(given)


def _identifier(how: dict[str, str], name: str) -> str:
    value = how.get(name, "")
    if value and not _IDENTIFIER.fullmatch(value):
        raise ProviderUriError(f"{name} is not an identifier like 11111111-2222-3333-4444-555555555555")
    return value
