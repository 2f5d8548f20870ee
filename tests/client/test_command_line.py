"""The command line without a gateway: how arguments are read, and how what goes wrong is told."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from sealkeeper.client.cli import app, log, run
from sealkeeper.client.cli.arguments import in_order
from sealkeeper.client.cli.failures import failure_of
from sealkeeper.client.cli.server_commands import server_command
from sealkeeper.client.cli.sign import _Artifact, _digest
from tests.shapes.world import KEY
from tests.verify.signed import ARTIFACT, changed, signed

COMMAND = [sys.executable, "-m", "sealkeeper.client.cli"]
AS_KEY = ("--key", KEY)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, in which nothing is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def bundle(folder: Path) -> Path:
    """An artifact ``a`` with its bundle, and what is trusted."""
    one = signed()
    (folder / "a").write_bytes(ARTIFACT)
    (folder / "a.sigstore.json").write_bytes(one.key_bundle)
    (folder / "trust").mkdir()
    (folder / "trust" / "trusted_root.json").write_bytes(one.world.trusted_root())
    (folder / "trust" / "keys.json").write_bytes(one.world.keys(one.key))
    return folder / "a.sigstore.json"


def alone(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        (["verify", "nofile", *AS_KEY], 2, "nofile"),
        (["verify", "a", "--bundle", "nobundle", *AS_KEY], 2, "nobundle"),
        (["verify", "a", *AS_KEY, "--trust", "nowhere"], 2, None),
        (["verify", "trust", *AS_KEY], 2, "FILE"),
        (["verify", "a", "--key", "release"], 2, "tenant"),
        (["verify", "a"], 2, "--key"),
        (["verify", "a", "--speed", "3"], 2, None),
        (["verify", "a", "--any-signer", "--digest", "sha256:00"], 2, "--digest"),
        (["nonsense"], 2, None),
        (["keys", "list"], 2, None),
        (["keys", "set-state", "release/1", "COMPROMISED", "--compromise-time", "17"], 2, None),
        (["sign"], 2, "FILE"),
        (["sign", "a"], 2, "--key"),
        (["verify", "a", "--timeout", "soon"], 2, "--timeout"),
        (["log", "verify", "nowhere"], 2, "SOURCE"),
        (["log", "verify", "trust"], 2, "SOURCE"),
        (["log", "verify", "ftp://localhost/log"], 2, "SOURCE"),
        (["log", "verify", "http://127.0.0.1:abc/"], 2, "SOURCE"),
        (["log", "verify", "http://[::1"], 2, "SOURCE"),
        (["log", "verify", "http:///log"], 2, "SOURCE"),
        (["log", "verify", "http://host.invalid/log"], 3, None),
        (["log", "verify", "http://127.0.0.1:1/log"], 3, None),
        (["log", "consistency"], 2, "FIRST"),
        (["log", "consistency", "1", "--since", "x"], 2, "FIRST"),
        (["trust", "show", "nowhere"], 2, None),
        (["keys", "list", "--insecure", "--endpoint", "127.0.0.1:1", "--tenant", "acme", "--timeout", "0.1"], 3, None),
    ],
)
def test_an_error_is_one_json_document_with_the_documented_exit_code(
    bundle: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, field: str | None
) -> None:
    assert run([*arguments, "--json"]) == code
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert (err, document["exit_code"], bool(document["error"]), document["reason"].isupper()) == ("", code, True, True)
    assert document.keys() == {"error", "reason", "next_step", "violations", "exit_code"}
    if field is not None:
        assert field in document["violations"][0]["field"]


def test_the_missing_artifact_is_named_before_its_missing_bundle(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "nofile", *AS_KEY]) == 2
    err = capfd.readouterr().err
    assert "nofile: No such file" in err
    assert "next:" in err
    assert "sigstore.json" not in err


def test_verifying_needs_neither_a_gateway_nor_a_file_that_names_one(
    bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tenant, _, name = KEY.split("/")
    assert run(["verify", "a", "--key", name, "--tenant", tenant]) == 0
    monkeypatch.setenv("SEALKEEPER_TENANT", tenant)
    assert run(["verify", "a", "--key", name]) == 0
    monkeypatch.delenv("SEALKEEPER_TENANT")
    Path("client.toml").write_text(f'tenant = "{tenant}"\n')
    assert run(["verify", "a", "--key", name, "--config", "client.toml", "--json"]) == 0
    capfd.readouterr()
    assert run(["verify", "a", "--key", name]) == 2
    assert "full name" in capfd.readouterr().err


@pytest.mark.parametrize("place", [0, 1, 2])
def test_json_and_options_of_the_gateway_may_stand_anywhere(
    bundle: Path, capfd: pytest.CaptureFixture[str], place: int
) -> None:
    arguments = ["verify", "a", "--any-signer"]
    assert run([*arguments[:place], "--json", "--timeout", "3", *arguments[place:]]) == 0
    assert json.loads(capfd.readouterr().out)["verified"] is True


def test_an_option_that_a_command_has_of_its_own_stays_with_it() -> None:
    command: Any = get_command(app)
    command.add_command(server_command("init", ["init"]), "init")
    assert in_order(command, ["init", "gw", "--tenant", "acme", "--timeout=3"]) == [
        "--timeout=3",
        "init",
        "gw",
        "--tenant",
        "acme",
    ]
    assert in_order(command, ["--tenant", "keys", "keys", "list", "--tenant", "beta"]) == [
        "--tenant",
        "keys",
        "--tenant",
        "beta",
        "keys",
        "list",
    ]


def test_what_follows_two_dashes_is_no_option(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "--any-signer", "--", "--json"]) == 2
    assert "--json: No such file" in capfd.readouterr().err


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"[" * 100_000,
        lambda data: data + b" " * (24 * 1024 * 1024),
        lambda data: b"\xff" + data,
        lambda data: data.replace(b'"mediaType"', b'"mediaType": "x", "mediaType"', 1),
        lambda data: changed(data, lambda one: one.update(messageSignature=7)),
        lambda data: changed(data, lambda one: one["verificationMaterial"]["tlogEntries"][0].update(logIndex="-1")),
    ],
)
def test_a_malformed_bundle_is_refused_with_its_step(
    bundle: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[bytes], bytes]
) -> None:
    bundle.write_bytes(spoil(bundle.read_bytes()))
    assert run(["verify", "a", *AS_KEY, "--json"]) == 1
    out, err = capfd.readouterr()
    steps = json.loads(out)["steps"]
    assert (steps[-1]["name"], steps[-1]["passed"], err) == ("bundle", False, "")


def test_a_pipe_is_verified_as_a_file_is(bundle: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, ARTIFACT)
    os.close(writing)
    arguments = ["verify", f"/dev/fd/{reading}", "--bundle", str(bundle), *AS_KEY]
    assert run(arguments) == 0
    os.close(reading)


@pytest.mark.parametrize("missing", ["sqlalchemy", "pydantic_settings"])
@pytest.mark.parametrize(
    "arguments", [["init", "gw"], ["init", "gw", "--domain", "x", "--json"], ["serve", "gw", "--insecure"]]
)
def test_without_the_server_its_commands_name_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str, arguments: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(arguments) == 2
    assert "pip install 'sealkeeper[server]'" in "".join(capfd.readouterr())


def test_without_the_server_doctor_names_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    assert run(["doctor", "--gateway", "gw", "--json"]) == 1
    assert "pip install 'sealkeeper[server]'" in json.loads(capfd.readouterr().out)[0]["nextStep"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sealkeeper init --", "--provider-uri"),
        ("sealkeeper serve --", "--insecure"),
        ("sealkeeper keys set-state release/1 D", "DESTROY_SCHEDULED"),
        ("sealkeeper keys create x --algorithm PKIX_E", "PKIX_ED25519"),
        ("sealkeeper sign --material ", "certificate"),
        ("sealkeeper keys import ", "finish"),
        ("sealkeeper keys import begin x --algorithm ML", "ML_DSA_65"),
        ("sealkeeper keys import wrap a b --method RSA_OAEP_SHA1", "RSA_OAEP_SHA1_AES_256_KWP"),
        ("sealkeeper keys standby x --failover m", "manual"),
        ("sealkeeper providers s", "show"),
    ],
)
def test_a_shell_is_offered_options_states_and_algorithms(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, offered: str
) -> None:
    monkeypatch.setenv("_SEALKEEPER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    with pytest.raises(SystemExit):
        run([])
    assert offered in capfd.readouterr().out.split()


@pytest.mark.parametrize("command", ["verify", "sign", "keys", "trust", "log", "providers", "doctor"])
def test_help_says_the_exit_codes(capfd: pytest.CaptureFixture[str], command: str) -> None:
    assert run([command, "--help"]) == 0
    assert "Exit codes: 0" in capfd.readouterr().out


def test_what_nobody_foresaw_has_an_exit_code_of_its_own_and_no_traceback(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(log, "_open", fail)
    assert run(["log", "verify", "x"]) == 70
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.setenv("SEALKEEPER_DEBUG", "1")
    assert run(["log", "verify", "x"]) == 70
    assert "Traceback" in capfd.readouterr().err


def test_an_argument_that_is_not_utf8_is_wrong_usage() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "\udcff".encode()
    assert failure_of(caught.value).exit_code == 2


@pytest.mark.parametrize("option", ["--since", "--log-key"])
def test_small_files_are_not_read_without_end(bundle: Path, capfd: pytest.CaptureFixture[str], option: str) -> None:
    (bundle.parent / "tile").mkdir()
    (bundle.parent / "checkpoint").write_bytes(b"")
    (bundle.parent / "vkey").write_text(next(iter(signed().trust.logs.values())).verifier.vkey())
    with (bundle.parent / "endless").open("wb") as file:
        file.truncate(1024**4)
    given = {"--log-key": "vkey", option: "endless"}
    assert run(["log", "verify", ".", *(word for pair in given.items() for word in pair), "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["violations"][0]["field"] == option


def test_a_file_that_changes_while_it_is_hashed_is_named(folder: Path) -> None:
    path = folder / "a"
    path.write_bytes(b"one")

    def touch(_: int) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(Exception, match="changed while it was read") as caught:
        _digest(_Artifact(path, Path("-")), "SHA2_256", touch)
    assert getattr(caught.value, "param_hint", "") == "FILE"


def test_a_file_that_is_replaced_while_it_is_hashed_is_named(folder: Path) -> None:
    path = folder / "a"
    path.write_bytes(b"one")

    def replace(_: int) -> None:
        (folder / "b").write_bytes(b"two")
        (folder / "b").replace(path)

    with pytest.raises(Exception, match="changed while it was read"):
        _digest(_Artifact(path, Path("-")), "SHA2_256", replace)


def test_marks_are_ascii_where_there_is_nothing_else(bundle: Path) -> None:
    done = alone("verify", "a", *AS_KEY, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("v bundle")


def test_closed_streams_do_not_change_the_answer(bundle: Path) -> None:
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "verify", "a", *AS_KEY],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), closed


def test_a_standard_output_that_is_full_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert (done.returncode, "standard output: No space" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["verify", "a", *AS_KEY], ["--help"], ["--version"]])
def test_a_reader_that_has_gone_is_neither_a_refusal_nor_a_success(bundle: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_interruption_says_so_and_is_exit_code_130(bundle: Path, options: list[str]) -> None:
    os.mkfifo("pipe")
    command = [*COMMAND, "verify", "a", "--bundle", "pipe", *AS_KEY, *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where tests run in the background of a shell, they are deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # Opening it waits until the command reads it.
    with Path("pipe").open("wb"):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    said = json.loads(out)["error"] if options else err
    assert "interrupted" in said
    assert "Traceback" not in err


def test_verifying_imports_neither_grpc_nor_what_only_others_need(bundle: Path) -> None:
    code = (
        "import sys; from sealkeeper.client.cli import run; code = run(sys.argv[1:]); "
        "print(code, sorted({'grpc', 'asyncio', 'http.client', 'sqlalchemy'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "verify", "a", *AS_KEY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == "0 []\n"


def test_help_imports_no_cryptography() -> None:
    code = (
        "import sys; from sealkeeper.client.cli import run; run(['--help']); "
        "late = {'grpc', 'cryptography', 'sealkeeper.verify', 'http.client'}; "
        "print(sorted(late & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == "[]\n"


def test_a_progress_bar_is_shown_to_a_person_and_to_nobody_else(bundle: Path) -> None:
    with Path("big").open("wb") as file:
        file.truncate(33 * 1024 * 1024)
    arguments = ["verify", "big", "--bundle", str(bundle), *AS_KEY]
    assert alone(*arguments).stderr == ""
    assert "hashing big" in on_a_terminal(*arguments)
    assert "hashing" not in on_a_terminal(*arguments, "--json")


def on_a_terminal(*arguments: str) -> str:
    """What a person sees on standard error."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 65536):
            seen += data
    except OSError:
        # So a terminal ends whose other side is closed.
        pass
    os.close(ours)
    assert process.wait(60) == 1
    return seen.decode()
