"""``sealkeeper log`` and ``trust``: what is checked is checked against a signed checkpoint, and what is not says so."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import run_here, settings
from tests.e2e.running import Running
from tests.e2e.test_logs import sign_some, wait_until_published


@pytest.fixture(autouse=True)
def folder(gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the trust root, in which an admin calls."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALKEEPER_CONFIG", str(settings(gateway, "admin", tmp_path)))
    assert run_here("trust", "export", "trust") == 0
    return tmp_path


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json, and give its exit code and its one document."""

    def run(*arguments: str) -> tuple[int, Any]:
        capfd.readouterr()
        code = run_here(*arguments, "--json")
        out, err = capfd.readouterr()
        assert err == ""
        return code, json.loads(out)

    return run


@pytest.fixture
def another_key(folder: Path) -> Path:
    """A verifier key that did not sign the log's checkpoints, under the log's name."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from sealkeeper.verify.note import NoteVerifier

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (folder / "another.vkey").write_text(NoteVerifier("log.sealkeeper.example", spki).vkey())
    return folder / "another.vkey"


PROOFS = [("inclusion", "0"), ("inclusion", "1", "--tree-size", "2"), ("consistency", "1"), ("consistency", "0", "2")]


@pytest.mark.parametrize("arguments", PROOFS)
def test_a_proof_is_checked_with_a_trust_root_and_not_without(
    gateway: Running,
    key: str,
    printed: Callable[..., Any],
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    sign_some(gateway, key, 5)
    code, document = printed("log", *arguments, "--trust", "trust")
    assert (code, document["checked"]) == (0, True)
    code, document = printed("log", *arguments)
    assert (code, document["checked"]) == (0, False)
    assert run_here("log", *arguments) == 0
    out = capfd.readouterr().out
    assert ("✓" in out, "not checked" in out) == (False, True)


@pytest.mark.parametrize("arguments", PROOFS)
def test_a_checkpoint_that_another_key_signed_proves_nothing(
    gateway: Running, key: str, printed: Callable[..., Any], another_key: Path, arguments: tuple[str, ...]
) -> None:
    sign_some(gateway, key, 5)
    code, document = printed("log", *arguments, "--log-key", str(another_key))
    assert (code, document["reason"]) == (1, "LOG_CORRUPT")


def test_a_log_is_checked_from_one_signed_checkpoint_to_the_next(
    gateway: Running, key: str, printed: Callable[..., Any], folder: Path
) -> None:
    sign_some(gateway, key, 3)
    assert run_here("log", "checkpoint", "--output", "before") == 0
    before = int((folder / "before").read_text().split("\n")[1])
    sign_some(gateway, key, 3)
    code, document = printed("log", "consistency", "--since", "before", "--trust", "trust")
    assert (code, document["checked"], document["firstSize"]) == (0, True, before)
    assert printed("log", "consistency", "--since", "before")[0] == 2
    text = (folder / "before").read_text().split("\n")
    (folder / "forged").write_text("\n".join([text[0], str(before - 1), *text[2:]]))
    code, document = printed("log", "consistency", "--since", "forged", "--trust", "trust")
    assert (code, document["reason"]) == (2, "NOTE_INVALID")


def test_every_other_command_prints_one_document_too(printed: Callable[..., Any], capfd: Any) -> None:
    for arguments in (
        ["keys", "list"],
        ["log", "checkpoint"],
        ["log", "checkpoint", "--output", "-"],
        ["log", "checkpoint", "--output", "kept"],
        ["log", "show", "0"],
        ["trust", "export", "trust"],
        ["trust", "show", "trust"],
        ["doctor", "--trust", "trust"],
    ):
        assert printed(*arguments)[0] == 0
    assert printed("log", "show", "1000000")[1]["reason"] == "INDEX_OUT_OF_RANGE"
    capfd.readouterr()
    assert run_here("log", "entries", "--limit", "3", "--json") == 0
    assert [json.loads(line)["logIndex"] for line in capfd.readouterr().out.splitlines()] == [0, 1, 2]


def test_a_tampered_log_is_refused_and_its_first_bad_entry_is_named(
    gateway: Running, key: str, printed: Callable[..., Any], folder: Path
) -> None:
    sign_some(gateway, key, 5)
    wait_until_published(gateway)
    shutil.copytree(gateway.logs / "transparency", folder / "log")
    assert printed("log", "verify", "log")[1]["verified"] is True
    # All of them: of partial tiles the older ones are read no more.
    for tile in (path for path in (folder / "log" / "tile" / "entries").rglob("*") if path.is_file()):
        data = bytearray(tile.read_bytes())
        data[10] ^= 1
        tile.write_bytes(data)
    code, document = printed("log", "verify", "log")
    assert (code, document["verified"], document["firstBadEntry"] is not None) == (1, False, True)


def test_a_log_over_http_that_does_not_answer_is_given_up_in_time(printed: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/log"
        code, document = printed("log", "verify", url, "--timeout", "0.2")
    assert (code, document["reason"]) == (3, "UNAVAILABLE")


def test_a_url_without_a_log_and_one_without_tls_are_told_apart(gateway: Running, printed: Callable[..., Any]) -> None:
    assert printed("log", "verify", f"http://{gateway.addresses['http']}/nothing")[0] == 2
    assert printed("log", "verify", f"https://{gateway.addresses['http']}/transparency")[0] == 3


@pytest.mark.parametrize("file", ["trusted_root.json", "keys.json"])
def test_a_broken_trust_root_is_replaced_and_this_is_said(
    folder: Path, capfd: pytest.CaptureFixture[str], file: str
) -> None:
    (folder / "trust" / file).write_text("{")
    assert run_here("trust", "show", "trust") == 2
    capfd.readouterr()
    assert run_here("trust", "export", "trust", "--json") == 0
    out, err = capfd.readouterr()
    assert (json.loads(out)["directory"], "cannot be read" in err) == ("trust", True)
    assert run_here("trust", "show", "trust") == 0
