"""Kinds of settings, each with what is allowed and an error that says so."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from sealkeeper.server.resources import ID

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9a-f:]{2,39}\]):(?P<port>[0-9]{1,5})")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# OCI distribution spec v1.1, "Pulling manifests".
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_OTLP = re.compile(r"(?P<scheme>https?://)?(?P<address>.+)")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_ON_LOOPBACK = re.compile(rf"(?:{'|'.join(map(re.escape, LOOPBACK))})(?::[0-9]{{1,5}})?")


def is_loopback(netloc: str) -> bool:
    """Whether the host of a URL, with or without a port, is this machine itself."""
    return _ON_LOOPBACK.fullmatch(netloc) is not None


def _domain(value: str) -> str:
    if len(value) > 200 or not _DOMAIN.fullmatch(value):
        raise ValueError("must be a host name in lower case, for example sealkeeper.example.com")
    return value


def _address(value: str) -> str:
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("must be host:port, for example 127.0.0.1:8443")
    return value


def _otlp_endpoint(value: str) -> str:
    match = _OTLP.fullmatch(value)
    address = _ADDRESS.fullmatch(match["address"]) if match is not None else None
    if address is None or int(address["port"]) > 65535:
        raise ValueError("must be host:port, http://host:port or https://host:port, for example 127.0.0.1:4317")
    return value


def _identifier(value: str) -> str:
    if not ID.fullmatch(value):
        raise ValueError('must be 1 to 63 of a-z, 0-9 and "-", start with a letter and not end with "-"')
    return value


def _region(value: str) -> str:
    if value and not _REGION.fullmatch(value):
        raise ValueError('must be 1 to 63 of a-z, 0-9 and "-", for example eu-central-1')
    return value


def _registry_host(value: str) -> str:
    host, _, port = value.partition(":")
    try:
        _domain(host)
    except ValueError:
        host = ""
    if not host or (":" in value and not (port.isdecimal() and 0 < int(port) <= 65535)):
        raise ValueError("must be the host of a registry, with its port where it has one, for example ghcr.io")
    return value


def _repository_name(value: str) -> str:
    if not _REPOSITORY.fullmatch(value) or len(value) > 255:
        raise ValueError("must be the name of a repository, or what its name begins with, for example acme/tools")
    return value


Region = Annotated[str, AfterValidator(_region)]
Domain = Annotated[str, AfterValidator(_domain)]
Address = Annotated[str, AfterValidator(_address)]
OtlpEndpoint = Annotated[str, AfterValidator(_otlp_endpoint)]
RegistryHost = Annotated[str, AfterValidator(_registry_host)]
RepositoryName = Annotated[str, AfterValidator(_repository_name)]
Identifier = Annotated[str, AfterValidator(_identifier)]


class Section(BaseModel):
    """A section of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
