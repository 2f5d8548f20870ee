"""``awskms:`` URIs: which region's KMS, with whose credentials, for which keys.

``awskms:region=eu-central-1?role-arn=arn:aws:iam::111122223333:role/sealkeeper&owner=acme``

A secret never stands in a URI: credentials come from the SDK's standard chain or from a file that the URI names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from sealkeeper.hsm.algorithms import ALGORITHMS
from sealkeeper.hsm.errors import ProviderUriError
from sealkeeper.hsm.uri import after_scheme, attributes, file_source

_REGION = re.compile(r"[a-z]{2,5}(-[a-z]{1,16}){1,3}-[0-9]{1,2}")
_ROLE = re.compile(r"arn:aws[a-z-]{0,16}:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")
_PROFILE = re.compile(r"[A-Za-z0-9+=,.@_ -]{1,128}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FLAGS = {"true": True, "false": False}
_HOW = (
    "algorithms",
    "credentials-source",
    "endpoint",
    "multi-region",
    "owner",
    "profile",
    "role-arn",
    "sts-endpoint",
)


@dataclass(frozen=True, slots=True)
class AwsKmsUri:
    """A region's KMS and how to reach it.

    Attributes:
        region: for example ``eu-central-1``; ``None`` to take the SDK's (``AWS_DEFAULT_REGION``, the profile's).
        owner: value of the tag ``sealkeeper-owner`` of every key that is made, which policies can look at.
        algorithms: names of those that may be used.
        multi_region: make multi-Region primary keys, which people can replicate into other regions.
        profile: section of the SDK's configuration files.
        credentials_source: file with an access key; instead of the SDK's chain.
        role_arn: role to take on with those credentials.
        endpoint: base URL of another endpoint than the region's own: of a VPC endpoint, or of a test server.
        sts_endpoint: the same of the service that gives out roles.
    """

    region: str | None
    owner: str
    algorithms: frozenset[str]
    multi_region: bool
    profile: str | None
    credentials_source: Path | None
    role_arn: str | None
    endpoint: str | None
    sts_endpoint: str | None


def parse_awskms_uri(uri: str) -> AwsKmsUri:
    """Parse an ``awskms:`` URI.

    Raises:
        ProviderUriError: naming the attribute that is malformed, unknown, given twice or does not go with another.
    """
    path, _, query = after_scheme(uri, "awskms").partition("?")
    where = attributes(path, ";", ("region",))
    how = attributes(query, "&", _HOW)
    if "profile" in how and "credentials-source" in how:
        raise ProviderUriError(
            "profile and credentials-source both say whose credentials to use", next_step="leave one of them out"
        )
    if "sts-endpoint" in how and "role-arn" not in how:
        raise ProviderUriError("sts-endpoint has no use without role-arn", next_step="leave sts-endpoint out")
    return AwsKmsUri(
        region=_matching(where, "region", _REGION, "a region such as eu-central-1"),
        owner=_matching(how, "owner", _OWNER, "1 to 64 of a-z, A-Z, 0-9, ., _, -") or "sealkeeper",
        algorithms=_algorithms(how.get("algorithms")),
        multi_region=_flag(how.get("multi-region", "false"), "multi-region"),
        profile=_matching(how, "profile", _PROFILE, "the name of a profile"),
        credentials_source=_file(how.get("credentials-source")),
        role_arn=_matching(how, "role-arn", _ROLE, "the ARN of an IAM role"),
        endpoint=_endpoint(how.get("endpoint"), "endpoint"),
        sts_endpoint=_endpoint(how.get("sts-endpoint"), "sts-endpoint"),
    )


def _matching(found: dict[str, str], name: str, pattern: re.Pattern[str], what: str) -> str | None:
    value = found.get(name)
    if value is not None and not pattern.fullmatch(value):
        raise ProviderUriError(f"{name} is not {what}")
    return value


def _algorithms(text: str | None) -> frozenset[str]:
    if text is None:
        return frozenset(ALGORITHMS)
    names = frozenset(text.split(","))
    for name in sorted(names - set(ALGORITHMS)):
        raise ProviderUriError(
            f"algorithms names {name[:64]!r}, which is none known here", next_step=f"known are {', '.join(ALGORITHMS)}"
        )
    return names


def _flag(text: str, name: str) -> bool:
    if text not in _FLAGS:
        raise ProviderUriError(f"{name} is neither true nor false")
    return _FLAGS[text]


def _file(text: str | None) -> Path | None:
    return None if text is None else file_source(text, "credentials-source")


def _endpoint(text: str | None, name: str) -> str | None:
    """A base URL: TLS, or plaintext to this machine alone."""
    if text is None:
        return None
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        raise ProviderUriError(f"{name} is not a URL") from None
    if url.scheme not in ("https", "http") or not host:
        raise ProviderUriError(f"{name} is not an https: URL")
    if url.username is not None or url.password is not None or url.path.strip("/") or url.query or url.fragment:
        raise ProviderUriError(f"{name} has more than scheme, host and port")
    if url.scheme == "http" and not _is_loopback(host):
        raise ProviderUriError(
            f"{name} is plaintext http to another machine", next_step="use https; http is for this machine alone"
        )
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
