"""The gateway's settings: one typed tree, from a TOML file, overridden by environment variables.

``SEALKEEPER_GATEWAY__LISTEN=127.0.0.1:9443`` overrides ``[gateway] listen``. Relative paths are relative to the file's
folder. Errors name the setting. Secrets are never settings: a setting names the file that holds one.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.identity_settings import IdentitySettings, IssuerSettings, PersonSettings, TrustDomainSettings
from sealkeeper.server.quota_settings import QuotaSettings
from sealkeeper.server.setting_types import (
    LOOPBACK,
    Address,
    Domain,
    Identifier,
    OtlpEndpoint,
    Region,
    RegistryHost,
    RepositoryName,
    Section,
)
from sealkeeper.verify.trust import PUBLIC_GOOD

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_PREFIX, _DELIMITER = "SEALKEEPER_", "__"
SETTINGS_FILE = "sealkeeper.toml"
"""As ``sealkeeper init`` names it."""


def host_of(address: str) -> str:
    """The host of a ``host:port`` setting."""
    return address.rpartition(":")[0]


def is_wildcard(address: str) -> bool:
    """Whether a ``host:port`` setting means every address of the machine: nobody can connect to that."""
    try:
        return ipaddress.ip_address(host_of(address).strip("[]")).is_unspecified
    except ValueError:
        return False


def endpoint_of(listen: str, domain: str) -> str:
    """The ``host:port`` that callers connect to: of the domain where the gateway listens on every address."""
    return f"{domain}:{listen.rpartition(':')[2]}" if is_wildcard(listen) else listen


class TlsSettings(Section):
    """Mutual TLS of the gRPC port: PEM files."""

    certificate: Path
    key: Path
    client_ca: Path


class GatewaySettings(Section):
    """Where the gateway listens and what it is called.

    ``domain`` names the gateway for good: log origins, certificate names and SPIFFE IDs are made of it. Callers with a
    certificate connect to ``listen``, those with a token to ``token_listen``: a port of TLS either asks for
    certificates or does not.
    """

    domain: Domain
    listen: Address = "127.0.0.1:8443"
    token_listen: Address | None = None
    tls: TlsSettings | None = None
    insecure: bool = False
    max_concurrent_calls: int = Field(default=4096, ge=1, le=1_000_000)
    drain_period: timedelta = timedelta(seconds=20)

    @model_validator(mode="after")
    def _plaintext_only_on_loopback(self) -> GatewaySettings:
        if self.insecure and host_of(self.listen) not in LOOPBACK:
            raise ValueError("insecure = true is allowed with a loopback listen address only")
        if not self.insecure and self.tls is None:
            raise ValueError("needs tls (certificate, key, client_ca), or insecure = true on loopback")
        if self.insecure and self.token_listen is not None:
            raise ValueError("token_listen: tokens are taken over TLS only, and insecure = true has none")
        return self


class HttpSettings(Section):
    """The read-only HTTP front of the public logs (C2SP tiles)."""

    listen: Address | None = "127.0.0.1:8080"


class StorageSettings(Section):
    """Where the gateway keeps its state."""

    directory: Path
    database: str | None = None


class ProviderSettings(Section):
    """One HSM or KMS.

    Attributes:
        uri: where it is.
        workers: processes that it is used by. A store that takes long over a signature, as a network HSM does, is used
            by as many calls at a time; cloud stores are used by sixteen a process anyway.
        environment: for its worker processes; holds no secret.
        region: where it is. A store that knows its region must say the same.
        timeout: after which an answer to a request to sign is not waited for any more.
        tenants: whose it is; empty for all tenants'.
    """

    uri: str = Field(min_length=1, max_length=2048)
    workers: int = Field(default=2, ge=1, le=64)
    environment: dict[str, str] = Field(default={})
    region: Region = ""
    timeout: timedelta = Field(default=timedelta(seconds=20), ge=timedelta(seconds=1), le=timedelta(minutes=10))
    tenants: list[Identifier] = Field(default=[])


class KeySettings(Section):
    """How keys live."""

    default_provider: Identifier
    publish_period: timedelta = Field(default=timedelta(hours=1), ge=timedelta(0), le=timedelta(days=90))
    minimum_destroy_delay: timedelta = Field(default=timedelta(hours=24), ge=timedelta(0), le=timedelta(days=120))


class ApprovalSettings(Section):
    """Proposals under dual control."""

    lifetime: timedelta = Field(default=timedelta(hours=24), ge=timedelta(minutes=1), le=timedelta(days=30))


class RegistrySettings(Section):
    """An OCI registry that gates may ask. Of several that name an image, the one that names it most closely is asked.

    Attributes:
        host: with its port where it has one.
        repositories: that may be asked for, with what is below them; empty for all.
        tenants: whose gates may ask; empty for all tenants'. Of several tenants, those with credentials are named.
        credentials: Docker config file with the credentials to ask with; ``None`` asks as nobody.
        ca: PEM file of CAs to trust instead of the system's.
    """

    host: RegistryHost
    repositories: list[RepositoryName] = Field(default=[], max_length=1000)
    tenants: list[Identifier] = Field(default=[])
    credentials: Path | None = None
    ca: Path | None = None


class GateSettings(Section):
    """Deploy gates.

    Attributes:
        registries: that the gateway may ask for what is attached to an image, by name of the section; no others.
        trust_roots: of other Sigstore instances, by the name that policies' signers have for them: the path of a
            ``trusted_root.json``, or ``public-good`` for the root in the ``sigstore`` package.
        cache: for how long a verdict counts while nothing has changed that it rests on, what registries answered, and
            a summary that says the same.
        snapshot_lifetime: for how long a gate may decide by itself from a snapshot.
        keep_decisions: for how long decisions are kept.
        max_decisions: that are kept at most, of all gates together; the oldest make room.
    """

    registries: dict[Identifier, RegistrySettings] = Field(default={}, max_length=1000)
    trust_roots: dict[Identifier, Annotated[str, Field(min_length=1, max_length=4096)]] = Field(default={})
    cache: timedelta = Field(default=timedelta(minutes=5), ge=timedelta(0), le=timedelta(hours=1))
    snapshot_lifetime: timedelta = Field(default=timedelta(hours=24), ge=timedelta(minutes=5), le=timedelta(days=30))
    keep_decisions: timedelta = Field(default=timedelta(days=400), ge=timedelta(days=1), le=timedelta(days=3650))
    max_decisions: int = Field(default=1_000_000, ge=1000, le=100_000_000)


class CertificateSettings(Section):
    """Certificates of the gateway's CA for signing keys."""

    lifetime: timedelta = Field(default=timedelta(minutes=10), ge=timedelta(minutes=1), le=timedelta(days=1))


class TelemetrySettings(Section):
    """Metrics, traces, log lines."""

    metrics_listen: Address | None = "127.0.0.1:9464"
    otlp_endpoint: OtlpEndpoint | None = None
    otlp_insecure: bool = False
    trace_sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _scheme_agrees(self) -> TelemetrySettings:
        scheme, separator, address = (self.otlp_endpoint or "").rpartition("://")
        if separator and (scheme == "http") != self.otlp_insecure:
            if self.otlp_insecure:
                raise ValueError("otlp_endpoint: https:// and otlp_insecure = true contradict each other")
            raise ValueError("otlp_endpoint: http:// needs otlp_insecure = true, which is allowed with loopback only")
        if self.otlp_insecure and address and host_of(address) not in LOOPBACK:
            raise ValueError("otlp_insecure = true is allowed with a loopback otlp_endpoint only")
        return self


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            # As text it is refused like any other bad value: by its name, with what is expected.
            return value


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter=_DELIMITER,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    gateway: GatewaySettings
    http: HttpSettings = HttpSettings()
    storage: StorageSettings
    providers: dict[Identifier, ProviderSettings] = Field(min_length=1)
    keys: KeySettings
    tenants: list[Identifier] = Field(min_length=1)
    residency: dict[Identifier, Annotated[list[Region], Field(min_length=1)]] = Field(default={})
    # The first policy of a tenant, where it is not to be the one that comes with the gateway: a file of Cedar policies.
    initial_policies: dict[Identifier, Path] = Field(default={})
    approvals: ApprovalSettings = ApprovalSettings()
    identity: IdentitySettings = IdentitySettings()
    issuers: dict[Identifier, IssuerSettings] = Field(default={})
    trust_domains: dict[Domain, TrustDomainSettings] = Field(default={})
    people: dict[Identifier, PersonSettings] = Field(default={})
    quotas: QuotaSettings = QuotaSettings()
    certificates: CertificateSettings = CertificateSettings()
    gates: GateSettings = GateSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _default_provider_is_known(self) -> Settings:
        if self.keys.default_provider not in self.providers:
            raise ValueError(f"keys.default_provider: there is no [providers.{self.keys.default_provider}]")
        return self

    @model_validator(mode="after")
    def _tenants_are_known(self) -> Settings:
        named = [
            *((f"providers.{name}.tenants", tenant) for name, one in self.providers.items() for tenant in one.tenants),
            *(("initial_policies", tenant) for tenant in self.initial_policies),
            *(("quotas.tenants", tenant) for tenant in self.quotas.tenants),
            *(
                (f"gates.registries.{name}.tenants", tenant)
                for name, registry in self.gates.registries.items()
                for tenant in registry.tenants
            ),
            *(
                (f"issuers.{name}.principals[{place}].tenant", rule.tenant)
                for name, issuer in self.issuers.items()
                for place, rule in enumerate(issuer.principals)
            ),
            *(
                (f"trust_domains.{name}.principals[{place}].tenant", path.tenant)
                for name, domain in self.trust_domains.items()
                for place, path in enumerate(domain.principals)
            ),
        ]
        for setting, tenant in named:
            if tenant not in self.tenants:
                raise ValueError(f"{setting}: there is no tenant {tenant!r} in tenants")
        return self

    @model_validator(mode="after")
    def _credentials_are_somebodys(self) -> Settings:
        for name, one in self.gates.registries.items():
            if one.credentials is not None and not one.tenants and len(self.tenants) > 1:
                raise ValueError(
                    f"gates.registries.{name}: with credentials, name the tenants whose gates may ask with them"
                )
        return self

    @model_validator(mode="after")
    def _tokens_have_a_port(self) -> Settings:
        if self.issuers and self.gateway.token_listen is None and not self.gateway.insecure:
            raise ValueError("issuers: need gateway.token_listen, the port that callers with tokens connect to")
        if self.gateway.domain in self.trust_domains:
            raise ValueError(
                f"trust_domains.{self.gateway.domain}: is the gateway's own, whose bundle is gateway.tls.client_ca"
            )
        return self

    @model_validator(mode="after")
    def _residents_are_tenants(self) -> Settings:
        for tenant, regions in self.residency.items():
            if tenant not in self.tenants:
                raise ValueError(f"residency.{tenant}: there is no such tenant in tenants")
            if "" in regions:
                raise ValueError(f"residency.{tenant}: a region must not be empty")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which comes in as keyword arguments."""
        return _Environment(settings_cls), init_settings

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the metadata database."""
        return self.storage.database or f"sqlite:///{self.storage.directory / 'metadata.db'}"


def load_settings(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        ConfigurationError: the file cannot be read, is not TOML, or holds a bad setting; the text names it.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the settings file {path}: {error.strerror}", next_step="make one with: sealkeeper init DIR"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    _anchor_paths(document, path.absolute().parent)
    try:
        return Settings(**document)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False, include_input=False)]
        raise ConfigurationError(f"{path}: " + "; ".join(problems), next_step="correct the settings named") from None


def _problem(error: ErrorDetails) -> str:
    """What is wrong, by its setting's name. Inputs stay out of it: a database URL may hold a password."""
    place = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            text = f"there is no such setting; known here are {', '.join(_known(place[:-1]))}"
        case "missing":
            text = "is missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            text = "must be a section" + _with(_known(place)) + _in_variable(place, "{...}")
        case "list_type":
            text = "must be a list" + _in_variable(place, '["acme"]')
        case "value_error":
            text = str(error["ctx"]["error"])
        case _:
            text = error["msg"][:1].lower() + error["msg"][1:]
    return f"{_name(place)}: {text}"


def _name(place: Sequence[int | str]) -> str:
    """A setting, or the variable that it comes from."""
    named, rest = place[: _in_environment(place)], place[_in_environment(place) :]
    return ".".join(([_variable(named)] if named else []) + [str(one) for one in rest]) or "settings"


def _in_environment(place: Sequence[int | str]) -> int:
    """How much of a setting's name is that of a variable; 0 where it comes from the file."""
    return next((length for length in range(len(place), 0, -1) if _variable(place[:length]) in os.environ), 0)


def _variable(place: Sequence[int | str]) -> str:
    return _PREFIX + _DELIMITER.join(map(str, place)).upper()


def _with(names: Sequence[str]) -> str:
    return f" with {', '.join(names)}" if names else ""


def _in_variable(place: Sequence[int | str], example: str) -> str:
    return f", in a variable as JSON: {example}" if _in_environment(place) else ""


def _known(place: Sequence[int | str]) -> list[str]:
    """The names of a section's settings; none where it is no section, or its names are free."""
    section: Any = Settings
    for name in place:
        section = _inner(section, name)
    return list(getattr(section, "model_fields", ()))


def _inner(section: Any, name: int | str) -> Any:
    if get_origin(section) is dict:
        return get_args(section)[1]
    fields: Mapping[int | str, FieldInfo] = getattr(section, "model_fields", {})
    kind = fields[name].annotation if name in fields else None
    return get_args(kind)[0] if isinstance(kind, UnionType) else kind


# Settings that are paths, by where they are; "*" is any name or place.
_PATHS = (
    ("gateway", "tls", "certificate"),
    ("gateway", "tls", "key"),
    ("gateway", "tls", "client_ca"),
    ("storage", "directory"),
    ("initial_policies", "*"),
    ("identity", "deny_list"),
    ("gates", "registries", "*", "credentials"),
    ("gates", "registries", "*", "ca"),
    ("gates", "trust_roots", "*"),
    ("issuers", "*", "jwks_file"),
    ("issuers", "*", "ca"),
    ("trust_domains", "*", "bundle"),
    ("people", "*", "approval_keys", "*"),
)


def _anchor_paths(document: dict[str, Any], folder: Path) -> None:
    for path in _PATHS:
        _anchor(document, path, folder)


def _anchor(section: Any, path: Sequence[str], folder: Path) -> None:
    first, rest = path[0], path[1:]
    if isinstance(section, list):
        names: Sequence[Any] = range(len(section)) if first == "*" else ()
    elif isinstance(section, dict):
        names = list(section) if first == "*" else [first] if first in section else ()
    else:
        # What is of the wrong kind is refused later, by its name.
        return
    for name in names:
        if rest:
            _anchor(section[name], rest, folder)
        elif isinstance(section[name], str) and section[name] != PUBLIC_GOOD:
            section[name] = str(folder / section[name])
