"""SLSA Provenance: how an artifact was built (https://slsa.dev/spec/v1.1/provenance, and v0.2 for older artifacts)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sealkeeper.verify.predicates.times import read_period
from sealkeeper.verify.statement import (
    MAX_VALUES,
    ResourceDescriptor,
    read_descriptor,
    read_digests,
    read_text,
    read_uri,
)
from sealkeeper.verify.strict_json import JsonError, Value

PROVENANCE_V1 = "https://slsa.dev/provenance/v1"
PROVENANCE_V0_2 = "https://slsa.dev/provenance/v0.2"


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an artifact was built, by whom and from what.

    Version 0.2 is read as its successor's text says ("Migrating from 0.2"): ``external_parameters`` are the parameters
    with ``entryPoint`` and ``source`` of the configuration's source, which is also the last of the dependencies.

    Attributes:
        version: of the predicate, ``1`` or ``0.2``.
        build_type: URI of the template that says what the parameters mean.
        external_parameters: that whoever asked for the build could choose.
        internal_parameters: that the build platform chose.
        resolved_dependencies: what went into the build, as far as it is known.
        builder_id: URI of the build platform.
        builder_version: of its parts, by name.
        invocation_id: of this build; empty where it is not told.
        started_on: ``None`` where it is not told.
        finished_on: ``None`` where it is not told.
        byproducts: what else the build made.
    """

    version: str
    build_type: str
    external_parameters: Mapping[str, Any] = field(repr=False)
    internal_parameters: Mapping[str, Any] = field(repr=False)
    resolved_dependencies: tuple[ResourceDescriptor, ...] = field(repr=False)
    builder_id: str
    builder_version: Mapping[str, str]
    invocation_id: str
    started_on: datetime | None
    finished_on: datetime | None
    byproducts: tuple[ResourceDescriptor, ...] = field(repr=False)


def read_provenance(predicate_type: str, predicate: Value) -> Provenance:
    """Read provenance of version 1 or 0.2 that its schema has passed.

    Raises:
        JsonError: a URI, a time, a digest or a descriptor is malformed, or the build ended before it started.
    """
    return _read_v0_2(predicate) if predicate_type == PROVENANCE_V0_2 else _read_v1(predicate)


def read_descriptors(value: Value | None) -> tuple[ResourceDescriptor, ...]:
    """Read ResourceDescriptors, each with a URI, a digest or content.

    Raises:
        JsonError: naming the one.
    """
    return () if value is None else tuple(_read_complete(one) for one in value.items(MAX_VALUES))


def _read_v1(predicate: Value) -> Provenance:
    definition, run = predicate.member("buildDefinition"), predicate.member("runDetails")
    builder, metadata = run.member("builder"), run.optional("metadata")
    started, finished = read_period(metadata, "startedOn", "finishedOn")
    read_descriptors(builder.optional("builderDependencies"))
    return Provenance(
        "1",
        read_uri(definition.member("buildType")),
        definition.member("externalParameters").json,
        _object(definition, "internalParameters"),
        read_descriptors(definition.optional("resolvedDependencies")),
        read_uri(builder.member("id")),
        _object(builder, "version"),
        _invocation(metadata, "invocationId"),
        started,
        finished,
        read_descriptors(run.optional("byproducts")),
    )


def _read_v0_2(predicate: Value) -> Provenance:
    invocation = predicate.optional("invocation") or Value({}, "$.invocation")
    source = invocation.optional("configSource") or Value({}, "$.invocation.configSource")
    metadata = predicate.optional("metadata")
    started, finished = read_period(metadata, "buildStartedOn", "buildFinishedOn")
    materials = predicate.optional("materials")
    dependencies = () if materials is None else tuple(_material(one) for one in materials.items(MAX_VALUES))
    config, entry_point = _material(source), read_text(source, "entryPoint")
    # A parameter of the same name, which anybody may have chosen, must not stand for them.
    chosen = {"entryPoint": entry_point, "source": config.uri}
    return Provenance(
        "0.2",
        read_uri(predicate.member("buildType")),
        _object(invocation, "parameters") | {name: one for name, one in chosen.items() if one},
        _object(invocation, "environment"),
        (*dependencies, config) if config.uri or config.digests else dependencies,
        read_uri(predicate.member("builder").member("id")),
        {},
        _invocation(metadata, "buildInvocationId"),
        started,
        finished,
        (),
    )


def _invocation(metadata: Value | None, name: str) -> str:
    # The specifications have Id; what in-toto's Go library writes, and with it most builders, has ID.
    if metadata is None:
        return ""
    return read_text(metadata, name) or read_text(metadata, f"{name[:-2]}ID")


def _object(value: Value, name: str) -> dict[str, Any]:
    found: dict[str, Any] = value.json.get(name) or {}
    return found


def _material(value: Value) -> ResourceDescriptor:
    return ResourceDescriptor(uri=read_text(value, "uri"), digests=read_digests(value.optional("digest")))


def _read_complete(value: Value) -> ResourceDescriptor:
    descriptor = read_descriptor(value)
    if not descriptor.uri and not descriptor.digests and descriptor.content is None:
        raise JsonError(f"{value.path}: must have a uri, a digest or content")
    return descriptor
