"""Settings of the admission webhook: a TOML file, read strictly.

::

    listen = "0.0.0.0:8443"
    metrics_listen = "0.0.0.0:9464"      # metrics and probes, plaintext; empty for none
    connection = "client.toml"           # how the gateway is reached; relative to this file
    budget = 8.0                         # seconds for an answer

    [tls]
    certificate = "tls.crt"
    key = "tls.key"
    client_ca = "api-server-ca.crt"      # only callers with certificates of it are answered

    [[namespaces]]                       # the first that matches counts
    names = ["kube-system"]
    allow = true                         # nothing is asked there

    [[namespaces]]
    names = ["shop-*"]
    gate = "tenants/acme/gates/production"
    environment = "production"
    require_digest = "everywhere"        # tags are refused without asking; "pods", or "nowhere" for not at all
    failure_policy = "open"              # what cannot be decided may run

    [default]                            # where no rule matches; left out: everything is refused there
    gate = "tenants/acme/gates/default"

    [external_data.default]              # what Gatekeeper asks for
    gate = "tenants/acme/gates/production"
    environment = "production"

    [decider]                            # for whatever decides: registries, cache, offline
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from sealkeeper.client.admission.decider import Binding
from sealkeeper.client.errors import ConfigurationError, FieldViolation

MAX_BODY = 8 * 1024 * 1024
"""Bytes: the API server takes objects of 3 MiB, and a review holds the object before and after."""
_MAX_FILE = 1024 * 1024
_MAX_RULES, _MAX_NAMES = 1000, 1000
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_GATE = re.compile(rf"tenants/{_ID}/gates/{_ID}")
_ENVIRONMENT = re.compile(r"[a-z0-9-]{0,63}")
_PATTERN = re.compile(r"[a-z0-9*-]{1,63}")
_NAME = re.compile(_LABEL)
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


_Choice = TypeVar("_Choice", bound=StrEnum)


class FailurePolicy(StrEnum):
    """What becomes of an image that nobody could decide on."""

    CLOSED = "closed"
    OPEN = "open"


class DigestRule(StrEnum):
    """Where images must be named by digest, so that what runs is what was decided on."""

    NOWHERE = "nowhere"
    PODS = "pods"
    """In pods only: workloads may have tags, which a mutating webhook pins in their pods."""
    EVERYWHERE = "everywhere"


@dataclass(frozen=True, slots=True)
class NamespaceRule:
    """What holds in some namespaces.

    Attributes:
        names: patterns of their names, in which ``*`` stands for any characters; empty for the default.
        binding: which gate is asked; ``None`` where nothing is asked.
        require_digest: where images that are named by tag alone are refused, without asking.
        failure_policy: of what cannot be decided.
    """

    names: tuple[str, ...]
    binding: Binding | None
    require_digest: DigestRule = DigestRule.NOWHERE
    failure_policy: FailurePolicy = FailurePolicy.CLOSED


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """PEM files, read again when they change.

    Attributes:
        certificate: the webhook's, first, and those up to its CA.
        key: its private key.
        client_ca: of callers that are answered; ``None`` where anybody is.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken in at most.

    Attributes:
        budget: seconds for an answer; the webhook configuration's ``timeoutSeconds`` must be more.
        max_body: bytes of a review.
        max_bodies: bytes of all reviews under way.
        max_reviews: reviews under way.
        max_images: different images of a review.
        max_questions: images that are being decided on.
        max_connections: connections, of each port.
        drain: seconds that go on being served after the webhook has been told to end.
    """

    budget: float = 8.0
    max_body: int = MAX_BODY
    max_bodies: int = 8 * MAX_BODY
    max_reviews: int = 256
    max_images: int = 100
    max_questions: int = 1000
    max_connections: int = 1000
    drain: float = 5.0


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """All settings.

    Attributes:
        listen: ``host:port`` for the API server and Gatekeeper, TLS.
        tls: its files.
        rules: of namespaces; the first that matches counts.
        default: where none does; ``None`` to refuse.
        external_data: gates that Gatekeeper asks, by the name in the URL.
        metrics_listen: ``host:port`` for metrics and probes, plaintext; empty for none.
        connection: client's file that says how the gateway is reached.
        limits: what is taken in.
        decider: table of whatever decides; that checks it.
        folder: what relative paths are relative to.
    """

    listen: str
    tls: TlsPaths
    rules: tuple[NamespaceRule, ...] = ()
    default: NamespaceRule | None = None
    external_data: Mapping[str, Binding] = field(default_factory=lambda: MappingProxyType({}))
    metrics_listen: str = ""
    connection: Path | None = None
    limits: Limits = Limits()
    decider: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    folder: Path = Path()

    def rule_for(self, namespace: str) -> NamespaceRule | None:
        """The rule that holds in a namespace; ``None`` where everything is refused.

        Args:
            namespace: its name; empty for objects that are in none, for which the default holds.
        """
        if namespace:
            for rule in self.rules:
                if any(fnmatchcase(namespace, pattern) for pattern in rule.names):
                    return rule
        return self.default


def read_settings(path: Path) -> WebhookSettings:
    """Read a file of settings.

    Raises:
        ConfigurationError: it cannot be read, or a setting is unknown, missing or wrong; the text names it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}", next_step="name the file of settings"
        ) from None
    if len(data) > _MAX_FILE:
        raise ConfigurationError(f"{path} has more than {_MAX_FILE} bytes", next_step="name the file of settings")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}", next_step="correct the file") from None
    return parse_settings(document, path.parent)


def parse_settings(document: Mapping[str, Any], folder: Path) -> WebhookSettings:
    """Settings of a parsed file.

    Args:
        document: the file.
        folder: what relative paths are relative to.

    Raises:
        ConfigurationError: a setting is unknown, missing or wrong; the text names it.
    """
    top = _Table(document, "")
    tls = top.table("tls", required=True)
    fallback = top.choice("failure_policy", FailurePolicy.CLOSED)
    paths = TlsPaths(
        folder / tls.text("certificate"),
        folder / tls.text("key"),
        tls.optional("client_ca", lambda name: folder / name),
    )
    tls.end()
    settings = WebhookSettings(
        listen=top.matching("listen", _ADDRESS, "host:port"),
        tls=paths,
        rules=tuple(_rule(one, fallback) for one in top.tables("namespaces", _MAX_RULES)),
        default=_default(top, fallback),
        external_data=_external_data(top),
        metrics_listen=top.matching("metrics_listen", _ADDRESS, "host:port", missing=""),
        connection=top.optional("connection", lambda name: folder / name),
        limits=_limits(top),
        decider=MappingProxyType(dict(top.table("decider").take_all())),
        folder=folder,
    )
    top.end()
    if not settings.rules and settings.default is None and not settings.external_data:
        _wrong("namespaces", "no namespace is mapped to a gate, so that everything would be refused")
    return settings


def _rule(table: _Table, fallback: FailurePolicy) -> NamespaceRule:
    names = table.texts("names", _MAX_NAMES)
    for place, name in enumerate(names):
        if not _PATTERN.fullmatch(name):
            _wrong(f"{table.path}.names[{place}]", "must be a namespace's name, in which * stands for any characters")
    return _bound(table, names, fallback)


def _default(top: _Table, fallback: FailurePolicy) -> NamespaceRule | None:
    return _bound(top.table("default"), (), fallback) if "default" in top else None


def _bound(table: _Table, names: tuple[str, ...], fallback: FailurePolicy) -> NamespaceRule:
    if table.boolean("allow", missing=False):
        # What is asked nowhere has nothing else to say: "allow" with a gate would be read in two ways.
        table.end()
        return NamespaceRule(names, None)
    binding = _binding(table)
    digest = table.choice("require_digest", DigestRule.NOWHERE)
    policy = table.choice("failure_policy", fallback)
    table.end()
    return NamespaceRule(names, binding, digest, policy)


def _binding(table: _Table) -> Binding:
    gate = table.matching("gate", _GATE, "tenants/{tenant}/gates/{gate}")
    return Binding(gate, table.matching("environment", _ENVIRONMENT, "at most 63 of a-z, 0-9 and -", missing=""))


def _external_data(top: _Table) -> Mapping[str, Binding]:
    table, found = top.table("external_data"), dict[str, Binding]()
    for name in list(table):
        if not _NAME.fullmatch(name):
            _wrong(f"{table.path}.{name[:64]}", "the name must be 1 to 63 of a-z, 0-9 and -")
        one = table.table(name)
        found[name] = _binding(one)
        one.end()
    return MappingProxyType(found)


def _limits(top: _Table) -> Limits:
    usual = Limits()
    limits = Limits(
        budget=top.number("budget", 0.1, 29.0, usual.budget),
        max_body=top.integer("max_body", 64 * 1024, 4 * MAX_BODY, usual.max_body),
        max_bodies=top.integer("max_bodies", 64 * 1024, 1024 * MAX_BODY, usual.max_bodies),
        max_reviews=top.integer("max_reviews", 1, 10_000, usual.max_reviews),
        max_images=top.integer("max_images", 1, 1000, usual.max_images),
        max_questions=top.integer("max_questions", 1, 100_000, usual.max_questions),
        max_connections=top.integer("max_connections", 1, 100_000, usual.max_connections),
        drain=top.number("drain", 0.0, 60.0, usual.drain),
    )
    if limits.max_bodies < limits.max_body:
        _wrong("max_bodies", "must not be less than max_body")
    return limits


class _Table:
    """A table of the file, whose members are taken one by one; what is left is unknown."""

    def __init__(self, members: Any, path: str) -> None:
        if not isinstance(members, dict):
            _wrong(path, "must be a table")
        self.path = path
        self._left: dict[str, Any] = dict(members)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def __iter__(self) -> Any:
        return iter(self._left)

    def place(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def table(self, name: str, *, required: bool = False) -> _Table:
        if required and name not in self._left:
            _wrong(self.place(name), "is missing")
        return _Table(self._left.pop(name, {}), self.place(name))

    def tables(self, name: str, most: int) -> list[_Table]:
        found = self._left.pop(name, [])
        if not isinstance(found, list) or len(found) > most:
            _wrong(self.place(name), f"must be at most {most} tables")
        return [_Table(one, f"{self.place(name)}[{place}]") for place, one in enumerate(found)]

    def text(self, name: str, missing: str | None = None) -> str:
        found = self._left.pop(name, missing)
        if found is None:
            _wrong(self.place(name), "is missing")
        if not isinstance(found, str) or len(found) > 4096 or (not found and missing is None) or "\0" in found:
            _wrong(self.place(name), "must be a text of 1 to 4096 characters")
        return found

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        found = self._left.pop(name, None)
        if not isinstance(found, list) or not 1 <= len(found) <= most or not all(isinstance(one, str) for one in found):
            _wrong(self.place(name), f"must be 1 to {most} texts")
        return tuple(found)

    def matching(self, name: str, pattern: re.Pattern[str], form: str, missing: str | None = None) -> str:
        if name not in self._left and missing is not None:
            return missing
        found = self.text(name)
        if not pattern.fullmatch(found):
            _wrong(self.place(name), f"must be {form}")
        return found

    def optional(self, name: str, made: Callable[[str], Path]) -> Path | None:
        return made(self.text(name)) if name in self._left else None

    def boolean(self, name: str, *, missing: bool) -> bool:
        found = self._left.pop(name, missing)
        if not isinstance(found, bool):
            _wrong(self.place(name), "must be true or false")
        return found

    def choice(self, name: str, missing: _Choice) -> _Choice:
        found, kind = self._left.pop(name, missing), type(missing)
        if not isinstance(found, str) or found not in list(kind):
            _wrong(self.place(name), f"must be one of {', '.join(kind)}")
        return kind(found)

    def integer(self, name: str, least: int, most: int, missing: int) -> int:
        found = self._left.pop(name, missing)
        if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
            _wrong(self.place(name), f"must be a whole number from {least} to {most}")
        return found

    def number(self, name: str, least: float, most: float, missing: float) -> float:
        found = self._left.pop(name, missing)
        # Not a number compares with nothing, so it is out of any range.
        if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= most:
            _wrong(self.place(name), f"must be a number from {least} to {most}")
        return float(found)

    def take_all(self) -> dict[str, Any]:
        found, self._left = self._left, {}
        return found

    def end(self) -> None:
        for name in self._left:
            _wrong(self.place(name[:64]), "is no setting")


def _wrong(path: str, problem: str) -> NoReturn:
    raise ConfigurationError(
        f"{path}: {problem}",
        next_step="correct the webhook's settings; docs/gates/kubernetes.md lists them",
        violations=[FieldViolation(path, problem)],
    )
