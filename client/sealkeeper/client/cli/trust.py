"""``sealkeeper trust``: fetch what verifiers need, and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.options import EXIT_CODES, Json, options_of
from sealkeeper.client.cli.output import note, print_json, print_table, print_text, printable
from sealkeeper.client.cli.output_file import write_file

if TYPE_CHECKING:
    from sealkeeper.verify import TrustRoot
    from sealkeeper.verify.trust import Validity

app = typer.Typer(no_args_is_help=True, help="The trust root: what verifiers trust.", epilog=EXIT_CODES)
_FILES = ("trusted_root", "keys", "signing_config")


@app.command()
def export(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("trust"),
    json_output: Json = False,
) -> None:
    """Fetch the trust root: trusted_root.json, keys.json, signing_config.json."""
    from sealkeeper.verify import TrustRoot

    options = options_of(context)
    with options.client() as client:
        found = client.trust_root(options.parent())
    # Only what can be read is written, and never half of it.
    new = TrustRoot.from_json(found.trusted_root, found.keys)
    old = _old(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        write_file(directory / f"{name}.json", getattr(found, name))
    changes = _changes(old, _states(new))
    if json_output:
        print_json({"directory": str(directory), "keys": len(new.tenant_keys), "changes": changes})
        return
    print_text(f"wrote {directory}: {len(new.logs)} log, {len(new.tenant_keys)} key versions")
    for one in changes:
        print_text(f"  {one}")


def _old(directory: Path) -> dict[str, str]:
    """The states that the folder holds so far; none where it cannot be read, which is what the new one repairs."""
    from sealkeeper.verify import TrustRoot, TrustRootError

    if not (directory / "trusted_root.json").exists():
        return {}
    try:
        return _states(TrustRoot.from_directory(directory))
    except TrustRootError as error:
        note(f"warning: what was in {printable(directory)} cannot be read and is replaced: {printable(error)}")
        return {}


def _states(root: TrustRoot) -> dict[str, str]:
    return {key.name: str(key.state) for key in root.tenant_keys.values()}


def _changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name, 'new')} → {new.get(name, 'gone')}" for name in changed]


@app.command()
def show(
    directory: Annotated[
        Path, typer.Argument(help="Folder that sealkeeper trust export wrote, a trusted_root.json, or public-good.")
    ] = Path("trust"),
    json_output: Json = False,
) -> None:
    """Show who is trusted, and for how long."""
    from sealkeeper.verify import TrustRoot

    root = TrustRoot.of_place(directory)
    rows: list[tuple[str, str, str, str, Validity]] = [
        ("log", log.origin, "", log.log_id.hex()[:16], log.validity) for log in root.logs.values()
    ]
    rows += [("ct log", log.origin, "", log.log_id.hex()[:16], log.validity) for log in root.ct_logs.values()]
    for kind, authorities in (
        ("certificate authority", root.certificate_authorities),
        ("timestamp authority", root.timestamp_authorities),
    ):
        rows += [(kind, one.uri, "", f"{one.chain[0].serial_number:x}"[:16], one.validity) for one in authorities]
    keys = sorted(root.tenant_keys.values(), key=lambda key: key.name)
    rows += [("key", key.name, str(key.state), key.hint[:16], key.validity) for key in keys]
    if json_output:
        print_json([_row(*one) for one in rows])
        return
    table = [(kind, name, state, mark, _date(valid.start), _date(valid.end)) for kind, name, state, mark, valid in rows]
    print_table(("KIND", "NAME", "STATE", "ID", "FROM", "UNTIL"), table)


def _row(kind: str, name: str, state: str, mark: str, validity: Validity) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "state": state or None,
        "id": mark,
        "start": validity.start.isoformat() if validity.start is not None else None,
        "end": validity.end.isoformat() if validity.end is not None else None,
    }


def _date(moment: Any) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ") if moment is not None else ""
