"""``sealkeeper keys evidence`` and ``keys ceremony``: what a store says of a key, and how the key came to be."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.ceremony_page import page
from sealkeeper.client.cli.input_files import read_limited, read_log_key, read_public_key
from sealkeeper.client.cli.options import Json, Options, Version, options_of
from sealkeeper.client.cli.output import mark, note, print_json, print_table, print_text, printable
from sealkeeper.client.cli.output_file import STDOUT, OutputFile, write_file
from sealkeeper.client.cli.resources import known_name
from sealkeeper.client.errors import RefusedError

if TYPE_CHECKING:
    from sealkeeper.v1 import resources_pb2
    from sealkeeper.verify import CeremonyResult, KeptCeremony

_EXPORTABLE = {True: "yes", False: "no", None: "the store does not say"}


def evidence(
    context: typer.Context,
    version: Version,
    attestation_output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write the attestation and its certificates to.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Show what the store says of a private key, read back just now."""
    options = options_of(context)
    name = options.key_name(version)
    with options.client() as client:
        found = client.get_key_evidence(name)
    written = _write_attestation(found, name, attestation_output) if attestation_output is not None else []
    if json_output:
        print_json({"keyVersion": name, **_document(found)})
        return
    attested = found.attestation
    rows: list[tuple[str, object]] = [
        ("protection level", known_name(found, "protection_level") or "the store does not say"),
        ("origin", known_name(found, "origin") or "the store does not say"),
        ("can be exported", _EXPORTABLE[_exportable(found)]),
        *((f"claim {claim}", said) for claim, said in sorted(found.claims.items())),
    ]
    if found.HasField("attestation"):
        size, count = len(attested.content), len(attested.certificates)
        rows.append(("attestation", f"{attested.format}, {size} bytes, {count} certificates (not checked)"))
    else:
        rows.append(("attestation", "none"))
    print_table(("WHAT THE STORE SAYS", ""), rows)
    for one in written:
        print_text(f"wrote {printable(one)}")


def _exportable(found: resources_pb2.KeyEvidence) -> bool | None:
    return found.exportable if found.HasField("exportable") else None


def _write_attestation(found: resources_pb2.KeyEvidence, name: str, folder: Path) -> list[Path]:
    if not found.HasField("attestation"):
        raise RefusedError(
            f"the store gives no attestation of {name}",
            reason="NO_ATTESTATION",
            next_step="what it says without one: sealkeeper keys evidence, without --attestation-output",
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / "attestation": found.attestation.content}
    for number, one in enumerate(found.attestation.certificates, 1):
        files[folder / f"certificate-{number}.der"] = one
    for path, data in files.items():
        write_file(path, data)
    return list(files)


def _document(found: resources_pb2.KeyEvidence) -> dict[str, Any]:
    attestation = None
    if found.HasField("attestation"):
        attestation = {
            "format": found.attestation.format,
            "content": _base64(found.attestation.content),
            "certificates": [_base64(one) for one in found.attestation.certificates],
        }
    return {
        "protectionLevel": known_name(found, "protection_level"),
        "origin": known_name(found, "origin"),
        "exportable": _exportable(found),
        "claims": dict(found.claims),
        "attestation": attestation,
    }


def ceremony(
    context: typer.Context,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="NAME/NUMBER, or tenants/T/keys/NAME/versions/NUMBER.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to keep the record and its proof in, for --verify.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check a record that was kept, offline, instead of fetching it.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The version's public key from another hand, PEM or DER.")
    ] = None,
    log_key: Annotated[
        Path | None, typer.Option(help="File with the audit log's verifier key: audit.vkey of the gateway.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Verify how a version came to be, and print it as a page for the file: `... | lpr`."""
    from sealkeeper.verify import verify_ceremony

    if verify is None and version is None:
        raise typer.BadParameter("name a version, or a file with --verify", param_hint="VERSION")
    if verify is not None and public_key is None:
        raise typer.BadParameter("is needed to check a record offline: it is not in there", param_hint="--public-key")
    if verify is not None and output is not None:
        raise typer.BadParameter("the record is in a file already", param_hint="--output")
    options = options_of(context)
    name = options.key_name(version) if version is not None else None
    given = read_public_key(public_key, "--public-key") if public_key is not None else None
    log = read_log_key(log_key, "--log-key") if log_key is not None else None
    if verify is not None and given is not None:
        kept, key = _read(verify), given
    else:
        kept, key = _fetch(options, name or "", given)
    result = verify_ceremony(kept.record, kept.proof, public_key=key, log=log, key_version=name)
    if result.verified and output is not None:
        with OutputFile(output, room=len(kept.encode())) as place:
            place.write(kept.encode())
        # Standard output holds the one document already.
        if str(output) == STDOUT:
            return
    if json_output:
        print_json(_result_document(result, kept))
    else:
        _print_result(result, kept, from_gateway=given is None)
    if not result.verified:
        raise typer.Exit(1)


def _read(path: Path) -> KeptCeremony:
    from sealkeeper.verify import KeptCeremony
    from sealkeeper.verify.ceremony import MAX_KEPT

    return KeptCeremony.parse(read_limited(path, MAX_KEPT, "--verify"))


def _fetch(options: Options, name: str, given: bytes | None) -> tuple[KeptCeremony, bytes]:
    """The record, and the public key to check it with: that which was given, or the gateway's."""
    from sealkeeper.verify import KeptCeremony, LogProof

    with options.client() as client:
        found = client.get_key_ceremony(name)
        key = given if given is not None else client.get_key_version(name).public_key
    proof = LogProof(found.log_index, found.tree_size, tuple(found.hashes), found.checkpoint)
    return KeptCeremony(found.record, proof), key


def _print_result(result: CeremonyResult, kept: KeptCeremony, *, from_gateway: bool) -> None:
    if not result.verified:
        for step in result.steps:
            print_text(f"{mark(step.passed)} {step.name:16} {printable(step.detail)}")
        print_text(f"refused at {result.steps[-1].name}: {printable(result.steps[-1].detail)}")
        return
    for line in page(result, kept.proof, from_gateway=from_gateway):
        print_text(line)
    if from_gateway:
        note("warning: the public key came from the gateway too; give --public-key to check against another hand's")
    if not result.log_verified:
        note("warning: the log's signature was not checked; give --log-key audit.vkey, from the gateway's folder")


def _result_document(result: CeremonyResult, kept: KeptCeremony) -> dict[str, Any]:
    steps = [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in result.steps]
    document: dict[str, Any] = {"verified": result.verified, "logVerified": result.log_verified, "steps": steps}
    found, checkpoint = result.ceremony, result.checkpoint
    if found is None or checkpoint is None:
        return document
    return {
        **document,
        "event": found.event,
        "time": found.time.isoformat(),
        "gateway": found.gateway,
        "keyVersion": found.key_version,
        "algorithm": found.algorithm,
        "publicKeyFingerprint": f"sha256:{found.fingerprint.hex()}",
        "principal": {"tenant": found.tenant, "subject": found.subject, "role": found.role},
        "provider": dict(found.provider),
        "standby": found.standby,
        "protectionLevel": found.evidence.protection_level,
        "origin": found.evidence.origin,
        "exportable": found.evidence.exportable,
        "claims": dict(found.evidence.claims),
        "import": found.imported.name if found.imported is not None else None,
        "log": checkpoint.origin,
        "logIndex": kept.proof.index,
        "treeSize": checkpoint.size,
        "rootHash": _base64(checkpoint.root_hash),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
