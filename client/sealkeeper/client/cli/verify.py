"""``sealkeeper verify``: offline, without gRPC."""

from __future__ import annotations

import stat
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.options import Json, options_of
from sealkeeper.client.cli.output import SUFFIX, mark, print_json, print_text, printable, progress
from sealkeeper.client.cli.predicate_types import known_type

if TYPE_CHECKING:
    from sealkeeper.verify import Artifact, Policy, VerificationResult
    from sealkeeper.verify.statement import Statement

_DIGESTS = {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}


def verify(
    context: typer.Context,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="The artifact; - is standard input.")] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="Its bundle [default: FILE.sigstore.json]")
    ] = None,
    trust: Annotated[
        Path,
        typer.Option(
            envvar="SEALKEEPER_TRUST",
            help="Folder that sealkeeper trust export wrote, any instance's trusted_root.json, or public-good.",
        ),
    ] = Path("trust"),
    digest: Annotated[str | None, typer.Option(help="sha256:HEX, sha384:… or sha512:… instead of FILE.")] = None,
    key: Annotated[str | None, typer.Option(help="Key that must have signed: tenants/T/keys/NAME.")] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Public key that must have signed, PEM or DER: of a key that no gateway has.")
    ] = None,
    identity: Annotated[str | None, typer.Option(help="Name that the certificate must have, exactly.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Issuer of that identity, exactly.")] = None,
    predicate_type: Annotated[
        str | None, typer.Option("--type", help="Of an attestation, what it must be: slsa, spdx, …, or a URI.")
    ] = None,
    any_signer: Annotated[
        bool, typer.Option("--any-signer", help="Whoever the trust root vouches for: to look, not to decide.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Verify a bundle offline, step by step. Of an attestation, FILE must be one of its subjects."""
    from sealkeeper.client.cli.input_files import read_public_key
    from sealkeeper.verify import Policy, TrustRoot
    from sealkeeper.verify import verify as verify_bundle

    if file is not None and digest is not None:
        raise typer.BadParameter("give FILE or --digest, not both", param_hint="--digest")
    if key is None and identity is None and public_key is None and not any_signer:
        raise typer.BadParameter(
            "who must have signed? Give --key, --public-key, or --identity with --issuer", param_hint="--key"
        )
    name = options_of(context).key_name(key) if key is not None else None
    wanted = known_type(predicate_type, "--type") if predicate_type is not None else None
    pinned = read_public_key(public_key, "--public-key") if public_key is not None else None
    policy = Policy(key=name, identity=identity, issuer=issuer, any_signer=any_signer, public_key=pinned)
    size = _size(file)
    data = _read_bundle(file, bundle)
    root = TrustRoot.of_place(trust)
    with progress(f"hashing {file}", size, quiet=json_output) as advance:
        result = verify_bundle(data, _artifact(file, digest, advance), root, policy)
    statement = _statement(result)
    if wanted is not None:
        result = _of_type(result, statement, wanted)
    _report(result, policy, statement if result.verified else None, as_json=json_output)
    if not result.verified:
        raise typer.Exit(1)


def _size(file: str | None) -> int:
    """Bytes of the artifact; 0 where that is no regular file."""
    if file is None or file == "-":
        return 0
    found = Path(file).stat()
    if stat.S_ISDIR(found.st_mode):
        raise typer.BadParameter(f"{printable(file)} is a folder", param_hint="FILE")
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _read_bundle(file: str | None, bundle: Path | None) -> bytes:
    from sealkeeper.verify.bundle import MAX_BUNDLE

    if bundle is None:
        if file in (None, "-"):
            raise typer.BadParameter("is needed where there is no file name to guess it from", param_hint="--bundle")
        bundle = Path(f"{file}{SUFFIX}")
    with bundle.open("rb") as opened:
        return opened.read(MAX_BUNDLE + 1)


def _artifact(file: str | None, digest: str | None, advance: Any) -> Artifact | None:
    from sealkeeper.verify import Artifact

    if digest is not None:
        name, _, value = digest.partition(":")
        try:
            return Artifact.from_digest(_DIGESTS[name], bytes.fromhex(value))
        except (KeyError, ValueError):
            raise typer.BadParameter("must be sha256:HEX, sha384:HEX or sha512:HEX", param_hint="--digest") from None
    if file is None:
        return None
    if file == "-":
        if sys.stdin is None:
            raise typer.BadParameter("standard input is closed", param_hint="FILE")
        return Artifact.from_stream(sys.stdin.buffer)
    path = Path(file)
    if path.is_file():
        return Artifact.from_path(path, advance)
    # A pipe can be read once.
    with path.open("rb") as stream:
        return Artifact.from_stream(stream)


def _statement(result: VerificationResult) -> Statement | None:
    """What is attested; ``None`` where that is nothing, or is not verified."""
    from sealkeeper.verify.errors import StatementError
    from sealkeeper.verify.statement import PAYLOAD_TYPE, parse_statement

    if not result.verified or result.payload_type != PAYLOAD_TYPE:
        return None
    try:
        return parse_statement(result.payload)
    except StatementError:
        return None


def _of_type(result: VerificationResult, statement: Statement | None, wanted: str) -> VerificationResult:
    """The result with a step more: what is attested is of this type."""
    from dataclasses import replace

    from sealkeeper.verify.predicates import kind_of
    from sealkeeper.verify.steps import Step

    if not result.verified:
        return result
    found, kind = statement.predicate_type if statement is not None else "", kind_of(wanted)
    passed = found == wanted or (kind is not None and found in kind.types)
    detail = found if passed else f"{found or 'it is no attestation'}; the policy asks for {wanted}"
    return replace(result, verified=passed, steps=(*result.steps, Step("predicate-type", passed, detail)))


def _attested(statement: Statement) -> dict[str, Any]:
    """What is attested, and of SLSA provenance by whom and from what it was built."""
    from sealkeeper.verify.errors import PredicateError
    from sealkeeper.verify.predicates import Provenance, read_predicate

    found: dict[str, Any] = {"predicateType": statement.predicate_type, "subjects": len(statement.subjects)}
    try:
        predicate = read_predicate(statement.predicate_type, statement.predicate)
    except PredicateError:
        return found
    if isinstance(predicate, Provenance):
        found["builderId"] = predicate.builder_id
        if predicate.resolved_dependencies:
            source = predicate.resolved_dependencies[0]
            found["source"], found["commit"] = source.uri, source.digests.get("gitCommit")
    return found


def _report(result: VerificationResult, policy: Policy, statement: Statement | None, *, as_json: bool) -> None:
    if as_json:
        attested = {"attestation": _attested(statement)} if statement is not None else {}
        print_json(
            {
                "verified": result.verified,
                "steps": [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in result.steps],
                "time": result.time.isoformat() if result.time is not None else None,
                "keyVersion": result.key_name or None,
                "identity": result.identity or None,
                "issuer": result.issuer or None,
                "claims": dict(result.claims),
                "bundleVersion": result.bundle_version or None,
                "material": result.material or None,
                "keyDetails": result.key_details or None,
                "publicKeySha256": sha256(result.public_key).hexdigest() if result.public_key else None,
                "log": result.log_origin or None,
                "logIndex": result.log_index,
                **attested,
            }
        )
        return
    for step in result.steps:
        print_text(f"{mark(step.passed)} {step.name:22} {printable(step.detail)}")
    if result.verified:
        who = result.identity or result.key_name or "the public key given"
        print_text(
            f"verified: signed by {printable(who)}" + (" (any signer was accepted)" if policy.any_signer else "")
        )
        if statement is not None:
            attested = _attested(statement)
            print_text(f"  {printable(attested['predicateType'])} of {attested['subjects']} subjects")
            if "builderId" in attested:
                print_text(f"  built by {printable(attested['builderId'])}")
            if "source" in attested:
                print_text(f"  from {printable(attested['source'])} at {printable(attested['commit'])}")
    else:
        print_text(f"refused at {result.steps[-1].name}: {printable(result.steps[-1].detail)}")
