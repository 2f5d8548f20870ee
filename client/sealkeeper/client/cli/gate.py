"""``sealkeeper gate``: may this artifact run? Asked of the gateway, or decided here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from sealkeeper.client.cli import gate_decisions, gate_exceptions, gate_policy
from sealkeeper.client.cli.gate_page import decision_document, print_decision
from sealkeeper.client.cli.gate_policy import gate_name, is_policy_file
from sealkeeper.client.cli.gate_scan import scan
from sealkeeper.client.cli.gate_webhook import webhook_command
from sealkeeper.client.cli.input_files import read_limited
from sealkeeper.client.cli.options import Json, Options, options_of
from sealkeeper.client.cli.output import mark, print_json, print_text, printable
from sealkeeper.client.cli.resources import enum_name
from sealkeeper.client.errors import REFUSED

if TYPE_CHECKING:
    from sealkeeper.client.gate_asking import Asking
    from sealkeeper.verify import TrustRoot
    from sealkeeper.verify.gate.cases import CaseResult
    from sealkeeper.verify.gate.policy import GatePolicy

EXIT_CODES = (
    "Exit codes: 0 it may run; 1 it may not; 2 wrong usage or input; 3 the gateway or registry does not answer; "
    "4 proposed: waits for approval."
)
_DEFAULT = "check"
_MAX_CASES = 4 * 1024 * 1024


def _decider(settings: Any) -> Any:
    from sealkeeper.client.admission.decider_settings import make_decider

    return make_decider(settings)


class _Group(typer.core.TyperGroup):
    """``sealkeeper gate IMAGE`` is ``sealkeeper gate check IMAGE``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            args = [_DEFAULT, *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="May this artifact run? `sealkeeper gate IMAGE@sha256:… --policy prod` is `sealkeeper gate check …`.",
    epilog=EXIT_CODES,
)
app.add_typer(gate_policy.app, name="policy")
# The shorter name of ``gate policy simulate``, where help has it.
app.command("simulate", hidden=True, epilog=gate_policy.SIMULATE_EXIT_CODES)(gate_policy.simulate)
app.add_typer(gate_exceptions.app, name="exceptions")
app.add_typer(gate_decisions.app, name="decisions")
app.command(epilog=EXIT_CODES)(scan)
app.command("webhook", epilog="Exit codes: 0 ended; 2 wrong usage or settings.")(webhook_command(_decider))

Policy: TypeAlias = Annotated[
    str, typer.Option(help="NAME of a gate of your tenant, tenants/T/gates/NAME, or a FILE.yaml, decided by here.")
]
Environment: TypeAlias = Annotated[str, typer.Option(help="Where it is to run.")]
Trust: TypeAlias = Annotated[
    Path, typer.Option(help="For deciding here: folder or file with the trust root, or public-good.")
]
TrustRoots: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--trust-root",
        metavar="NAME=PLACE",
        help="For deciding here: the trust root of another instance, by the policy's name for it; may be repeated.",
    ),
]


@app.command(epilog=EXIT_CODES)
def check(
    context: typer.Context,
    subjects: Annotated[
        list[str], typer.Argument(metavar="SUBJECT...", help="IMAGE@sha256:HEX, IMAGE:TAG, FILE or sha256:HEX.")
    ],
    policy: Policy,
    environment: Environment = "",
    bundle: Annotated[
        list[Path] | None, typer.Option(help="File or folder with Sigstore bundles about it; may be repeated.")
    ] = None,
    registry: Annotated[
        bool, typer.Option("--registry/--no-registry", help="Take what is attached to images in their registry.")
    ] = True,
    trust: Trust = Path("trust"),
    trust_root: TrustRoots = None,
    offline: Annotated[
        Path | None,
        typer.Option(help="Folder that `sealkeeper gate policy export` wrote: decide by the gate's snapshot."),
    ] = None,
    verdict_key: Annotated[
        str | None, typer.Option(help="With --offline: the key that must have signed the snapshot.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Record nothing, sign nothing.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what came of every rule.")] = False,
    json_output: Json = False,
) -> None:
    """Tell whether artifacts may run."""
    options = options_of(context)
    trusted = Trusted(trust, trust_root or ())
    with asking_of(options, policy, environment, trusted, offline, verdict_key, dry_run=dry_run) as asking:
        found = [_asked(options, asking, one, bundle or (), registry=registry) for one in subjects]
    if json_output:
        documents = [decision_document(one) for one in found]
        print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for decision in found:
            print_decision(decision, explain=explain)
    if any(enum_name(one, "outcome") != "ALLOW" for one in found):
        raise typer.Exit(REFUSED)


@app.command(epilog=EXIT_CODES)
def explain(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="IMAGE@sha256:HEX, IMAGE:TAG, FILE or sha256:HEX.")],
    policy: Policy,
    environment: Environment = "",
    bundle: Annotated[list[Path] | None, typer.Option(help="File or folder with bundles; may be repeated.")] = None,
    registry: Annotated[bool, typer.Option("--registry/--no-registry", help="Ask the image's registry.")] = True,
    trust: Trust = Path("trust"),
    trust_root: TrustRoots = None,
    json_output: Json = False,
) -> None:
    """Show what comes of each rule. Nothing is recorded, nothing is signed."""
    check(
        context,
        [subject],
        policy,
        environment,
        bundle,
        registry,
        trust,
        trust_root,
        None,
        None,
        dry_run=True,
        explain=True,
        json_output=json_output,
    )


@app.command("test", epilog="Exit codes: 0 every case came out as expected; 1 one did not; 2 wrong usage or input.")
def run_table(
    policy: Annotated[Path, typer.Argument(help="File with the policy, YAML.")],
    cases: Annotated[Path, typer.Argument(help="File with the cases, YAML.")],
    json_output: Json = False,
) -> None:
    """Run a table of what a policy must allow and refuse. Nothing is asked of the gateway."""
    from sealkeeper.verify.gate.cases import parse_cases, run_cases

    parsed = read_policy(policy, "POLICY")
    table = parse_cases(read_limited(cases, _MAX_CASES, "CASES"))
    with rego_of([parsed]) as rego:
        results = run_cases(parsed, table, rego)
    failed = sum(not one.passed for one in results)
    if json_output:
        print_json({"passed": not failed, "cases": [_case_document(one) for one in results]})
    else:
        for one in results:
            _print_case(one)
        print_text(f"{len(results) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(REFUSED)


def _print_case(one: CaseResult) -> None:
    print_text(f"{mark(one.passed)} {printable(one.case.name)}")
    if one.passed:
        return
    print_text(f"    is {one.decision.outcome}, expected {one.case.expect}")
    for code in one.missing:
        print_text(f"    the reason {printable(code)} was not given")
    for reason in one.decision.verdict.reasons:
        print_text(f"    {reason.code}: {printable(reason.message)}")


def _case_document(one: CaseResult) -> dict[str, Any]:
    return {
        "name": one.case.name,
        "passed": one.passed,
        "outcome": one.decision.outcome,
        "expected": one.case.expect,
        "reasons": [{"code": each.code, "message": each.message} for each in one.decision.verdict.reasons],
        "missing": list(one.missing),
    }


def read_policy(path: Path, place: str) -> GatePolicy:
    """Read a policy file.

    Raises:
        GatePolicyError: it is not valid.
        OSError: it cannot be read.
    """
    from sealkeeper.verify.gate.policy import MAX_POLICY, parse_policy

    return parse_policy(read_limited(path, MAX_POLICY, place))


@contextmanager
def rego_of(policies: Sequence[GatePolicy]) -> Iterator[Any]:
    """What asks Rego modules, where a policy has any; else ``None``: the interpreter takes a process of its own."""
    rules = [rules for one in policies for rules in (one.defaults, *one.environments.values())]
    if not any(one.rego for one in rules):
        yield None
        return
    from sealkeeper.verify.rego import RegoRunner

    with RegoRunner() as runner:
        yield runner


@dataclass(frozen=True, slots=True)
class Trusted:
    """What is trusted for deciding here.

    Attributes:
        place: of the trust root: folder, file or ``public-good``.
        others: of other instances, each ``NAME=PLACE``.
    """

    place: Path
    others: Sequence[str] = ()

    def read(self) -> TrustRoot:
        """The trust root, with the others.

        Raises:
            TrustRootError: one cannot be read.
        """
        from sealkeeper.verify import TrustRoot

        return self.beside(TrustRoot.of_place(self.place))

    def beside(self, root: TrustRoot) -> TrustRoot:
        """The others beside a trust root."""
        from dataclasses import replace

        from sealkeeper.verify import TrustRoot

        found = {}
        for one in self.others:
            name, separator, place = one.partition("=")
            if not separator or not name or not place:
                raise typer.BadParameter("must be NAME=PLACE", param_hint="--trust-root")
            found[name] = TrustRoot.of_place(Path(place))
        return replace(root, others=found)


@contextmanager
def asking_of(
    options: Options,
    policy: str,
    environment: str,
    trusted: Trusted,
    offline: Path | None = None,
    verdict_key: str | None = None,
    *,
    dry_run: bool,
) -> Iterator[Asking]:
    """What asks: the gateway, or a policy or a snapshot here.

    Raises:
        ClientError, VerifyError, OSError: it cannot be set up.
    """
    from sealkeeper.client.gate_asking import AskGateway, AskHere

    if is_policy_file(policy):
        parsed = read_policy(Path(policy), "--policy")
        with rego_of([parsed]) as rego:
            yield AskHere(parsed, trusted.read(), environment, rego=rego, offline=True)
    elif offline is not None:
        held = _snapshot(options, policy, offline, verdict_key)
        with rego_of([held.snapshot.policy]) as rego:
            yield AskHere(
                held.snapshot.policy,
                trusted.beside(held.trust),
                environment,
                held.snapshot.policy_name,
                held.snapshot.exceptions,
                rego,
                offline=True,
            )
    else:
        with options.client() as client:
            yield AskGateway(client, gate_name(options, policy), environment, dry_run)


def _snapshot(options: Options, policy: str, folder: Path, verdict_key: str | None) -> Any:
    from datetime import UTC, datetime

    from sealkeeper.client.gate_snapshots import SnapshotFolder

    if verdict_key is None:
        raise typer.BadParameter(
            "is needed with --offline: any key of the tenant could have signed the snapshot else",
            param_hint="--verdict-key",
        )
    return SnapshotFolder(folder).read(gate_name(options, policy), options.key_name(verdict_key), datetime.now(UTC))


def _asked(options: Options, asking: Asking, subject: str, bundles: Sequence[Path], *, registry: bool) -> Any:
    from sealkeeper.client.gate_evidence import FileEvidence, RegistryEvidence, gathered, target_of
    from sealkeeper.registry import ConfigFiles, Deadline, Registry

    deadline = Deadline.after(options.timeout)
    made: list[Registry] = []

    def opened() -> Registry:
        made.append(Registry(ConfigFiles.of_environment()))
        return made[0]

    target = target_of(subject, opened, deadline)
    sources: list[Callable[..., Any]] = [FileEvidence([*bundles, *_beside(subject)])]
    if registry and made:
        sources.append(RegistryEvidence(made[0], target, deadline))
    return asking.ask(target, gathered(*sources))


def _beside(subject: str) -> list[Path]:
    """Bundles that lie beside a file, under its name."""
    path = Path(subject)
    if not path.is_file():
        return []
    return sorted(path.parent.glob(f"{_escaped(path.name)}*.sigstore.json"))


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)
