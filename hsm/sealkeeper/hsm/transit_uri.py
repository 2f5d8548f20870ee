"""``transit:`` URIs: which server, which mount of its transit engine, and how the gateway logs in there.

``transit://vault.example.com:8200/transit?auth=approle&role-id=ROLE&secret-id-source=file:/run/secrets/secret-id``

https always; ``tls=off`` is for a server on this machine. Secrets are named as files, never given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeAlias, cast

from sealkeeper.hsm.errors import ProviderUriError
from sealkeeper.hsm.uri import absolute_path, after_scheme, attributes, decoded, file_source

Method: TypeAlias = Literal["token", "approle", "jwt", "kubernetes", "cert"]

DEFAULT_PORT = 8200
KUBERNETES_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""Where Kubernetes puts a pod's service account token."""

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
# Of a mount or a namespace: no segment of dots alone, which would lead to another path.
_SEGMENTS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}){0,7}")
_ROLE = re.compile(r"[\x21-\x7e]{1,256}")
_ANY = ("auth", "namespace", "ca-file", "cert-file", "key-file", "tls")
_OF_METHOD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "token": (("token-source",), ()),
    "approle": (("role-id", "secret-id-source"), ("auth-mount",)),
    "jwt": (("role", "jwt-source"), ("auth-mount",)),
    "kubernetes": (("role",), ("auth-mount", "jwt-source")),
    "cert": (("cert-file", "key-file"), ("auth-mount", "role")),
}
"""By method: what it needs, and what else it takes."""


@dataclass(frozen=True, slots=True)
class TransitAuth:
    """How the gateway proves who it is.

    Attributes:
        method: of the server's auth methods.
        mount: where the server has it, below ``auth/``.
        role: role, role id of AppRole or name of a certificate's entry; empty where there is none.
        source: file with the token, secret id or JWT; ``None`` for certificates.
    """

    method: Method
    mount: str
    role: str
    source: Path | None


@dataclass(frozen=True, slots=True)
class TransitUri:
    """A mount of the transit engine and how to reach it.

    Attributes:
        host: name or address; an IPv6 address in brackets.
        port: TCP port.
        mount: path of the transit engine.
        auth: how to log in.
        namespace: that mount and auth method are in; empty for the root namespace.
        tls: false for plaintext, to loopback only.
        ca_file: PEM, the CAs that may vouch for the server; ``None`` for those of certifi.
        certificate: PEM files with the gateway's client certificate and its private key.
    """

    host: str
    port: int
    mount: str
    auth: TransitAuth
    namespace: str = ""
    tls: bool = True
    ca_file: Path | None = None
    certificate: tuple[Path, Path] | None = None

    @property
    def base(self) -> str:
        """Scheme and authority of the server's URLs."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


def parse_transit_uri(uri: str) -> TransitUri:
    """Parse a ``transit:`` URI.

    Raises:
        ProviderUriError: naming what is malformed, unknown, given twice, missing or not allowed.
    """
    place, _, query = after_scheme(uri, "transit").partition("?")
    for secret in ("token", "secret-id", "jwt"):
        if re.search(rf"(?:^|&){secret}=", query):
            raise ProviderUriError(
                f"{secret} is not allowed: it would show wherever settings are shown",
                next_step=f"put it into a file of its own and name that with {secret}-source=file:/path",
            )
    host, port, mount = _parse_place(place)
    how = attributes(query, "&", (*_ANY, *sorted({name for pair in _OF_METHOD.values() for name in sum(pair, ())})))
    auth = _parse_auth(how)
    return TransitUri(
        host=host,
        port=port,
        mount=mount,
        auth=auth,
        namespace=_segments(how["namespace"].strip("/"), "namespace") if "namespace" in how else "",
        tls=_parse_tls(how.get("tls"), host),
        ca_file=absolute_path(how["ca-file"], "ca-file") if "ca-file" in how else None,
        certificate=_parse_certificate(how),
    )


def _parse_place(place: str) -> tuple[str, int, str]:
    authority, _, path = place.removeprefix("//").partition("/")
    host, _, port = authority.rpartition(":") if re.search(r":[0-9]*$", authority) else (authority, "", "")
    if not place.startswith("//") or not _HOST.fullmatch(host):
        raise ProviderUriError(
            "a transit: URI names its server and mount, for example transit://vault.example.com:8200/transit",
            next_step="write an IPv6 address in brackets; a user name does not belong there",
        )
    if port and not 0 < int(port[:6]) < 65536:
        raise ProviderUriError("the port is not one from 1 to 65535")
    if not path.strip("/"):
        raise ProviderUriError(
            "the transit: URI names no mount", next_step="add the path of the transit engine, for example /transit"
        )
    return host, int(port or DEFAULT_PORT), _segments(decoded(path.strip("/"), "the mount"), "the mount")


def _parse_auth(how: dict[str, str]) -> TransitAuth:
    method = how.get("auth", "")
    if method not in _OF_METHOD:
        raise ProviderUriError(f"auth is not one of {', '.join(_OF_METHOD)}")
    needed, taken = _OF_METHOD[method]
    for name in needed:
        if name not in how:
            raise ProviderUriError(f"{name} is missing from the transit: URI; auth={method} needs it")
    for name in how:
        if name not in (*_ANY, *needed, *taken):
            raise ProviderUriError(f"{name} does not belong to auth={method}")
    role = how.get("role-id", how.get("role", ""))
    if role and not _ROLE.fullmatch(role):
        raise ProviderUriError("the role is not 1 to 256 printable ASCII characters")
    sources = [name for name in how if name.endswith("-source")]
    source = file_source(how[sources[0]], sources[0]) if sources else None
    return TransitAuth(
        method=cast("Method", method),
        mount=_segments(how.get("auth-mount", method).strip("/"), "auth-mount"),
        role=role,
        source=KUBERNETES_TOKEN if source is None and method == "kubernetes" else source,
    )


def _parse_tls(tls: str | None, host: str) -> bool:
    if tls is None:
        return True
    if tls != "off":
        raise ProviderUriError("tls is on unless it says tls=off")
    if not _is_loopback(host):
        raise ProviderUriError(
            "tls=off is allowed to this machine only: a token would travel in clear",
            next_step="leave tls=off out, and name the server's CA with ca-file=/path",
        )
    return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _parse_certificate(how: dict[str, str]) -> tuple[Path, Path] | None:
    given = [name for name in ("cert-file", "key-file") if name in how]
    if len(given) == 1:
        raise ProviderUriError("cert-file and key-file go together")
    if given and how.get("tls") == "off":
        raise ProviderUriError("a client certificate needs TLS; leave tls=off out")
    return (absolute_path(how["cert-file"], "cert-file"), absolute_path(how["key-file"], "key-file")) if given else None


def _segments(text: str, name: str) -> str:
    if not _SEGMENTS.fullmatch(text):
        raise ProviderUriError(f"{name} is not a path of letters, digits, '-', '_' and '.'")
    return text
