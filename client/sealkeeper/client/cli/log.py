"""``sealkeeper log``: checkpoints, entries, proofs, and the walk over a whole log."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.input_files import read_limited, read_log_key
from sealkeeper.client.cli.options import Json, options_of
from sealkeeper.client.cli.output import mark, print_json, print_text, printable, progress
from sealkeeper.client.cli.output_file import STDOUT, OutputFile
from sealkeeper.client.errors import ConfigurationError, FieldViolation, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import log_pb2
    from sealkeeper.verify.log import LogReport, TileSource
    from sealkeeper.verify.note import Checkpoint, NoteVerifier

_EXIT_CODES = (
    "Exit codes: 0 done or verified; 1 refused, or the log is not what it should be; 2 wrong usage or input; "
    "3 what is asked does not answer."
)
app = typer.Typer(no_args_is_help=True, help="The gateway's logs.", epilog=_EXIT_CODES)
Log = Annotated[str, typer.Option("--log", help="transparency, ct or audit.")]
Trust = Annotated[
    Path | None,
    typer.Option(envvar="SEALKEEPER_TRUST", help="Trust root to check against; without it nothing is checked."),
]
LogKey = Annotated[
    Path | None, typer.Option(help="File with the log's verifier key instead, as audit.vkey of the gateway.")
]
_MAX_FILE = 64 * 1024 * 1024
_MAX_NOTE = 1024 * 1024
_TIMEOUT = 30.0


@app.command()
def checkpoint(
    context: typer.Context,
    log: Log = "transparency",
    output: Annotated[Path, typer.Option("--output", "-o", help="File to keep it in, for --since.")] = Path(STDOUT),
    json_output: Json = False,
) -> None:
    """Print the newest checkpoint, a signed note."""
    with OutputFile(output) as place, options_of(context).client() as client:
        found = client.checkpoint(f"logs/{log}")
        if not json_output or str(output) != STDOUT:
            place.write(found.checkpoint.encode())
    if json_output:
        root = _base64(found.root_hash)
        print_json({"checkpoint": found.checkpoint, "treeSize": found.tree_size, "rootHash": root})


@app.command()
def show(
    context: typer.Context,
    index: Annotated[int, typer.Argument(help="Index of the entry.", min=0)],
    log: Log = "transparency",
    json_output: Json = False,
) -> None:
    """Show one entry."""
    with options_of(context).client() as client:
        for entry in client.entries(f"logs/{log}", index, 1):
            _print_entry(entry, as_json=json_output)
            return
    raise NotFoundError(f"there is no entry {index} yet", reason="INDEX_OUT_OF_RANGE")


@app.command()
def entries(
    context: typer.Context,
    start: Annotated[int, typer.Option(help="Index of the first one.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="At most this many; 0 for all.", min=0)] = 100,
    log: Log = "transparency",
    json_output: Json = False,
) -> None:
    """Print entries in order; with --json a stream of documents, one a line (NDJSON)."""
    with options_of(context).client() as client:
        for entry in client.entries(f"logs/{log}", start, limit):
            _print_entry(entry, as_json=json_output)


def _print_entry(entry: log_pb2.LogEntry, *, as_json: bool) -> None:
    leaf = base64.b64encode(entry.leaf_hash).decode()
    body: Any = None
    if entry.body:
        try:
            body = json.loads(entry.body)
        except ValueError:
            body = base64.b64encode(entry.body).decode()
    if as_json:
        print_json({"logIndex": entry.log_index, "leafHash": leaf, "body": body})
        return
    text = json.dumps(body, ensure_ascii=False) if body is not None else "(of another tenant)"
    print_text(f"{entry.log_index}\t{printable(text)}")


@app.command()
def inclusion(
    context: typer.Context,
    index: Annotated[int, typer.Argument(help="Index of the entry.", min=0)],
    tree_size: Annotated[int, typer.Option(help="Size of the tree; 0 for the newest.", min=0)] = 0,
    log: Log = "transparency",
    trust: Trust = None,
    log_key: LogKey = None,
    json_output: Json = False,
) -> None:
    """Ask for a proof that an entry is in the log; with --trust, check it against the signed checkpoint."""
    from sealkeeper.verify.merkle import verify_inclusion

    name = f"logs/{log}"
    with options_of(context).client() as client:
        signed = _signed(client, name, trust, log_key)
        proof = client.inclusion_proof(name, index, tree_size or (signed.checkpoint.size if signed is not None else 0))
        if signed is not None:
            verify_inclusion(proof.leaf_hash, index, proof.tree_size, list(proof.hashes), proof.root_hash)
            _check_beginning(client, name, proof.tree_size, proof.root_hash, signed.checkpoint)
    document = {"logIndex": index, "treeSize": proof.tree_size, "rootHash": _base64(proof.root_hash)}
    text = f"entry {index} is in the tree of {proof.tree_size} entries, root hash {document['rootHash']}"
    _print_proof(
        {**document, "leafHash": _base64(proof.leaf_hash)}, text, proof.hashes, signed=signed, as_json=json_output
    )


@app.command()
def consistency(
    context: typer.Context,
    first: Annotated[int | None, typer.Argument(help="The smaller size [default: that of --since]", min=0)] = None,
    second: Annotated[int, typer.Argument(help="The larger size; 0 for the newest.", min=0)] = 0,
    log: Log = "transparency",
    trust: Trust = None,
    log_key: LogKey = None,
    since: Annotated[Path | None, typer.Option(help="Checkpoint kept from before, instead of FIRST.")] = None,
    json_output: Json = False,
) -> None:
    """Ask for a proof that a log only grew; with --trust, check it against the signed checkpoint, and --since."""
    from sealkeeper.verify.merkle import verify_consistency

    if (first is None) == (since is None):
        raise typer.BadParameter("give a size, or a checkpoint with --since", param_hint="FIRST")
    name = f"logs/{log}"
    with options_of(context).client() as client:
        signed = _signed(client, name, trust, log_key)
        earlier = _earlier(since, signed)
        start = earlier.size if earlier is not None else first or 0
        proof = client.consistency_proof(name, start, second or (signed.checkpoint.size if signed is not None else 0))
        if signed is not None:
            old = earlier.root_hash if earlier is not None else _root(client, name, start, signed.checkpoint)
            new = _root(client, name, proof.second_size, signed.checkpoint)
            verify_consistency(start, proof.second_size, list(proof.hashes), old, new)
    document = {"firstSize": start, "secondSize": proof.second_size}
    text = f"the tree of {start} entries is the beginning of that of {proof.second_size}"
    _print_proof(document, text, proof.hashes, signed=signed, as_json=json_output)


def _print_proof(
    document: dict[str, Any], text: str, proof: Sequence[bytes], *, signed: _Signed | None, as_json: bool
) -> None:
    hashes = [_base64(one) for one in proof]
    if as_json:
        print_json({**document, "hashes": hashes, "checked": signed is not None})
        return
    if signed is not None:
        print_text(f"{mark(True)} {text}, as signed by {printable(signed.verifier.name)}")
    else:
        print_text(f"not checked, as there is no --trust: the gateway says that {text}")
    for one in hashes:
        print_text(f"  {one}")


@dataclass(frozen=True, slots=True)
class _Signed:
    """The newest checkpoint, and the key whose signature on it has been checked."""

    checkpoint: Checkpoint
    verifier: NoteVerifier


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A log of which only the checkpoint is here."""

    checkpoint: bytes

    def read(self, path: str) -> bytes | None:
        return self.checkpoint if path == "checkpoint" else None


def _signed(client: Client, name: str, trust: Path | None, log_key: Path | None) -> _Signed | None:
    """The log's newest checkpoint, checked; ``None`` where there is nothing to check it with."""
    from sealkeeper.verify.log import read_checkpoint

    if trust is None and log_key is None:
        return None
    source = _Fetched(client.checkpoint(name).checkpoint.encode())
    verifier = _verifier(source, trust or Path(), log_key)
    return _Signed(read_checkpoint(source, verifier), verifier)


def _earlier(since: Path | None, signed: _Signed | None) -> Checkpoint | None:
    if since is None:
        return None
    if signed is None:
        raise typer.BadParameter("needs --trust or --log-key, to check signatures with", param_hint="--since")
    earlier = _checkpoint(since, signed.verifier)
    if earlier.origin != signed.checkpoint.origin:
        raise typer.BadParameter(f"is of another log: {printable(earlier.origin)}", param_hint="--since")
    return earlier


def _root(client: Client, name: str, size: int, signed: Checkpoint) -> bytes:
    """Root hash of the first entries of the signed tree; whatever the gateway says of it is checked."""
    from sealkeeper.verify.merkle import EMPTY_ROOT

    if size == 0:
        return EMPTY_ROOT
    root = client.inclusion_proof(name, size - 1, size).root_hash
    _check_beginning(client, name, size, root, signed)
    return root


def _check_beginning(client: Client, name: str, size: int, root: bytes, signed: Checkpoint) -> None:
    """The tree with this root is the signed one, or its beginning."""
    from sealkeeper.verify.merkle import verify_consistency

    hashes = client.consistency_proof(name, size, signed.size).hashes if size < signed.size else ()
    verify_consistency(size, signed.size, list(hashes), root, signed.root_hash)


@app.command()
def verify(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Folder with checkpoint and tile/, or its http(s) URL.")],
    trust: Annotated[
        Path, typer.Option(envvar="SEALKEEPER_TRUST", help="Folder that sealkeeper trust export wrote.")
    ] = Path("trust"),
    log_key: LogKey = None,
    since: Annotated[
        Path | None, typer.Option(help="Checkpoint kept from before, which the log must still contain.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Walk a whole log from its tiles, offline; where it is not one history, name the first bad entry."""
    from sealkeeper.verify import LogCorruptError

    opened = _open(source, options_of(context).timeout)
    verifier = _verifier(opened, trust, log_key)
    earlier = _checkpoint(since, verifier) if since is not None else None
    try:
        report = _walk(opened, verifier, earlier, quiet=json_output)
    except LogCorruptError as error:
        if json_output:
            print_json({"verified": False, "log": verifier.name, "firstBadEntry": error.index, "problem": str(error)})
        else:
            print_text(f"{mark(False)} {printable(verifier.name)}: {printable(error)}")
            if error.index is not None:
                print_text(f"  first bad entry: {error.index}")
        raise typer.Exit(1) from None
    root, size = _base64(report.checkpoint.root_hash), report.checkpoint.size
    if json_output:
        print_json({"verified": True, "log": verifier.name, "treeSize": size, "rootHash": root})
    else:
        print_text(f"{mark(True)} {printable(verifier.name)}: {size} entries lead to the signed root hash {root}")


def _walk(source: TileSource, verifier: NoteVerifier, earlier: Checkpoint | None, *, quiet: bool) -> LogReport:
    from sealkeeper.verify.log import read_checkpoint, verify_log

    total = read_checkpoint(source, verifier).size
    with progress("checking entries", total, quiet=quiet, least=50_000) as advance:
        done = 0

        def told(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        return verify_log(source, verifier, earlier=earlier, progress=told)


def _verifier(source: TileSource, trust: Path, log_key: Path | None) -> NoteVerifier:
    from sealkeeper.verify import TrustRoot
    from sealkeeper.verify.log import trusted_verifier

    if log_key is None:
        return trusted_verifier(source, TrustRoot.from_directory(trust))
    return read_log_key(log_key, "--log-key")


def _checkpoint(path: Path, verifier: NoteVerifier) -> Checkpoint:
    from sealkeeper.verify.note import parse_checkpoint, parse_signed_note

    note = parse_signed_note(read_limited(path, _MAX_NOTE, "--since"))
    verifier.verify(note)
    return parse_checkpoint(note.text)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _open(source: str, timeout: float) -> TileSource:
    from sealkeeper.verify.log import DirectorySource

    opened: TileSource
    if "://" in source:
        opened = HttpSource(source, timeout)
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise typer.BadParameter(f"{printable(source)} is not a folder", param_hint="SOURCE")
        opened = DirectorySource(folder)
        if (folder / "tile").exists():
            return opened
    if opened.read("checkpoint") is None:
        raise typer.BadParameter(f"there is no log at {printable(source)}: no checkpoint", param_hint="SOURCE")
    return opened


class HttpSource:
    """A log over HTTP, on one connection.

    Args:
        url: where its checkpoint and tile/ are.
        timeout: seconds that each answer may take.

    Raises:
        ConfigurationError: it is no http or https URL.
    """

    def __init__(self, url: str, timeout: float = _TIMEOUT) -> None:
        import http.client
        from urllib.parse import urlsplit

        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            self._url = urlsplit(url)
            kind = kinds[self._url.scheme if self._url.hostname else ""]
            self._connection = kind(self._url.netloc, timeout=timeout)
        except (ValueError, KeyError, http.client.InvalidURL):
            raise ConfigurationError(
                f"{url!r} is not a URL that a log can be read from",
                reason="URL_INVALID",
                next_step="give a folder, or a URL as http://127.0.0.1:8080/transparency",
                violations=[FieldViolation("SOURCE", "must be a folder or an http or https URL")],
            ) from None

    def read(self, path: str) -> bytes | None:
        """The file; ``None`` where there is none.

        Raises:
            UnavailableError: it cannot be read.
        """
        import http.client

        host = self._url.netloc
        try:
            self._connection.request("GET", f"{self._url.path.rstrip('/')}/{path}")
            response = self._connection.getresponse()
            data: bytes = response.read(_MAX_FILE)
            response.close()
        except http.client.InvalidURL as error:
            raise ConfigurationError(f"the log's URL: {error}", reason="URL_INVALID") from None
        except http.client.HTTPException as error:
            raise UnavailableError(f"{host} does not speak HTTP: {type(error).__name__}") from None
        except OSError as error:
            raise UnavailableError(
                f"{host} cannot be read: {error.strerror or error}",
                next_step="check the URL, and that something answers there",
            ) from None
        if response.status == http.client.NOT_FOUND:
            return None
        if response.status != http.client.OK:
            raise UnavailableError(f"{host} answered {response.status} for {path}")
        return data
