"""The main job in one go: ``python -m sealkeeper.server.quickstart``.

Starts a gateway of its own on loopback, signs the project's wheel, verifies it offline, rotates the key, verifies
again, and shows that a tampered copy is refused. It uses the command line as a person would, and shows what it ran.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

_SOFTHSM = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
_TENANT, _KEY = "acme", "release"
_NAME = f"tenants/{_TENANT}/keys/{_KEY}"
_START_SECONDS = 60
_COMMAND_SECONDS = 120
_PR_SET_PDEATHSIG = 1


class QuickstartError(Exception):
    """A step did not go as it should."""


class Interrupted(BaseException):
    """Somebody wants it to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Step:
    """Tells a person what is going on."""

    console: Console

    def __call__(self, text: str) -> None:
        """A step begins."""
        self.console.print(f"\n[bold]{text}[/bold]", highlight=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        """What came out of it."""
        self.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)


def main() -> int:
    """Run it.

    Returns:
        The exit code: 0; 1 where a step failed; 128 and the signal's number where it was interrupted.
    """
    parser = argparse.ArgumentParser(description="Sign a real file end to end with an embedded gateway.")
    parser.add_argument("--output", type=Path, default=Path("quickstart"), help="folder to leave the files in")
    parser.add_argument("--source", type=Path, default=Path.cwd(), help="the project, whose wheel is signed")
    arguments = parser.parse_args()
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _run(arguments.output.absolute(), arguments.source.absolute(), Step(console))
    except QuickstartError as error:
        console.print(f"failed: {error}", style="red", markup=False, highlight=False)
        return 1
    except Interrupted as error:
        console.print("interrupted; what was started has ended", markup=False, highlight=False)
        return 128 + error.number
    return 0


def _interrupt(number: int, _: FrameType | None) -> None:
    # Once is enough: ending what was started is not interrupted again.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(number)


def _run(output: Path, source: Path, step: Step) -> None:
    _clear(output)
    step("1. Build something to sign: this project's wheel")
    artifact = _build_wheel(source, output)
    step.detail(f"{artifact.name}, {artifact.stat().st_size:,} bytes")
    step("2. Make a gateway: its own keys, a local CA, certificates for admin, custodian, ci and verifier")
    environment = _make_gateway(output, step)
    step("3. Start it on loopback")
    with _gateway(output, environment) as addresses:
        step.detail(f"gRPC {addresses['grpc']}, public log http://{addresses['http']}/transparency/checkpoint")
        cli = _Cli(output, step)
        _main_job(cli, artifact, output, addresses["http"])
    step.detail("the gateway has stopped")
    step("Done. To look at:")
    _show_files(output, step)


def _main_job(cli: _Cli, artifact: Path, output: Path, http: str) -> None:
    step = cli.step
    trust = output / "trust"
    verify = ("verify", str(artifact), "--trust", str(trust), "--key", _NAME)
    step("4. A custodian makes a key; its private half never leaves the provider")
    cli.run("custodian", "keys", "create", _KEY)
    step("5. CI signs the wheel: only the digest travels, and the log has it before the signature leaves")
    cli.run("ci", "sign", str(artifact), "--key", _KEY)
    step("6. A verifier fetches the trust root once, then verifies offline")
    cli.run("verifier", "trust", "export", str(trust))
    cli.run(None, *verify)
    step("7. The custodian rotates the key; CI signs again, this time with a certificate; both verify")
    cli.run("custodian", "keys", "rotate", _KEY, "--publish-period", "0s")
    second = output / f"{artifact.name}.v2.sigstore.json"
    cli.run("ci", "sign", str(artifact), "--key", _KEY, "--material", "certificate", "--output", str(second))
    cli.run("verifier", "trust", "export", str(trust))
    cli.run(None, *verify, brief=True)
    cli.run(None, *verify, "--bundle", str(second), brief=True)
    step("8. A tampered copy is refused")
    tampered = output / f"tampered-{artifact.name}"
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    tampered.write_bytes(data)
    bundle = output / f"{artifact.name}.sigstore.json"
    arguments = ("verify", str(tampered), "--bundle", str(bundle), "--trust", str(trust), "--key", _NAME)
    cli.run(None, *arguments, expected=1, brief=True)
    step("9. Anybody can walk the public log; the audit log has every call, refusals too")
    cli.run(None, "log", "verify", f"http://{http}/transparency", "--trust", str(trust))
    refused = output / "refused.sigstore.json"
    cli.run("custodian", "sign", str(artifact), "--key", _KEY, "--output", str(refused), expected=1)
    cli.run("admin", "log", "checkpoint", "--log", "audit", "--output", str(output / "audit.checkpoint"))
    cli.run(
        None, "log", "verify", str(output / "gateway/state/logs/audit"), "--log-key", str(output / "gateway/audit.vkey")
    )


@dataclass(frozen=True, slots=True)
class _Cli:
    """Runs the command line as a person would, and shows both what was typed and what came."""

    output: Path
    step: Step

    def run(self, role: str | None, *arguments: str, expected: int = 0, brief: bool = False) -> None:
        """Run a command as a role; ``brief`` shows its last line only.

        Raises:
            QuickstartError: it ended with another exit code than expected.
        """
        config = ("--config", str(self.output / f"gateway/clients/{role}.toml")) if role is not None else ()
        shown = [_relative(one, self.output) for one in ("sealkeeper", *config, *arguments)]
        self.step.detail(f"$ {' '.join(shown)}")
        done = _command(("-m", "sealkeeper.client.cli", *config, *arguments))
        lines = (done.stdout + done.stderr).splitlines()
        for line in lines[-1:] if brief else lines:
            self.step.detail(f"  {_relative(line, self.output)}")
        if done.returncode != expected:
            raise QuickstartError(f"exit code {done.returncode}, expected {expected}:\n{done.stdout}{done.stderr}")


def _relative(text: str, output: Path) -> str:
    return text.replace(f"{output}/", f"{output.name}/")


def _command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    # Arguments of our own, no shell.
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS)  # noqa: S603


def _clear(output: Path) -> None:
    if output.exists():
        # Only what an earlier run has made is removed.
        if any(output.iterdir()) and not (output / ".quickstart").exists():
            raise QuickstartError(f"{output} holds something else; name another folder with --output")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / ".quickstart").touch()


def _build_wheel(source: Path, output: Path) -> Path:
    done = _command(("-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(source)))
    wheels = list(output.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise QuickstartError(f"the wheel could not be built:\n{done.stdout}{done.stderr}")
    return wheels[0]


def _make_gateway(output: Path, step: Step) -> dict[str, str]:
    ports = _free_ports(3)
    names = ("--listen", "--http-listen", "--metrics-listen")
    arguments = [part for name, port in zip(names, ports, strict=True) for part in (name, f"127.0.0.1:{port}")]
    environment: dict[str, str] = {}
    token = softhsm_token(output)
    if token is not None:
        uri, environment = token
        arguments += ["--provider-uri", uri]
        arguments += [part for name, value in environment.items() for part in ("--environment", f"{name}={value}")]
        step.detail("SoftHSM2 is here: keys will live in a PKCS#11 token")
    else:
        step.detail("no SoftHSM2 on this machine (Debian: apt-get install softhsm2): keys will live in sealed files")
    done = _command(("-m", "sealkeeper.client.cli", "init", str(output / "gateway"), "--tenant", _TENANT, *arguments))
    if done.returncode != 0:
        raise QuickstartError(f"the gateway could not be made:\n{done.stderr}")
    for line in done.stdout.splitlines()[:-1]:
        step.detail(_relative(line.strip(), output))
    return environment


def softhsm_token(output: Path) -> tuple[str, dict[str, str]] | None:
    """A token for this run alone; ``None`` where SoftHSM2 or its tool is missing."""
    library = next((one for one in _SOFTHSM if one.exists()), None)
    tool = shutil.which("softhsm2-util")
    if library is None or tool is None:
        return None
    folder = output / "softhsm"
    (folder / "tokens").mkdir(parents=True, mode=0o700)
    settings, pin = folder / "softhsm2.conf", folder / "pin"
    settings.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin.touch(mode=0o600)
    pin.write_text(f"{int.from_bytes(os.urandom(4), 'big'):010}\n")
    environment = {"SOFTHSM2_CONF": str(settings)}
    command = [tool, "--init-token", "--free", "--label", "quickstart"]
    if not _answered(command, pin.read_text(), {**os.environ, **environment}):
        return None
    return f"pkcs11:token=quickstart?module-path={library}&pin-source=file:{pin}", environment


def _answered(command: Sequence[str], answer: str, environment: dict[str, str]) -> bool:
    """Run a tool that asks for PINs on a terminal, and answer each question: in argv, everybody could read them."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(  # noqa: S603
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    heard = b""
    try:
        with suppress(OSError):  # how a terminal says that nobody is at its other end
            while said := os.read(ours, 1024):
                heard += said
                if heard.rstrip().endswith(b"PIN:"):
                    os.write(ours, answer.encode())
                    heard = b""
        return process.wait(_COMMAND_SECONDS) == 0
    finally:
        os.close(ours)
        process.kill()
        process.wait()


@contextmanager
def _gateway(output: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A running gateway, ended by its pid."""
    command = [sys.executable, "-m", "sealkeeper.client.cli", "serve", str(output / "gateway")]
    libc = ctypes.CDLL(None)
    with (output / "gateway.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
            # Where this process is killed, it cannot end the gateway: the kernel does.
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),  # noqa: PLW1509  (no threads)
        )
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    try:
        signal.alarm(_START_SECONDS)
        line = process.stdout.readline() if process.stdout is not None else b""
        signal.alarm(0)
        if not line:
            raise QuickstartError(f"the gateway did not start:\n{(output / 'gateway.log').read_text()[-2000:]}")
        yield json.loads(line)["serving"]
    finally:
        process.terminate()
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _show_files(output: Path, step: Step) -> None:
    notes = {
        r".*\.whl\.sigstore\.json": "a bundle: signature, timestamp, log entry with inclusion proof",
        r".*\.v2\.sigstore\.json": "the same by the new version, with a certificate",
        r"tampered-.*": "one bit of it is wrong",
        r"trust": "what a verifier needs",
        r"gateway": "settings, certificates, logs: run it again with sealkeeper serve",
        r"gateway\.log": "its log lines, JSON",
        r"audit\.checkpoint": "what the audit log was when this ended",
    }
    for path in sorted(output.iterdir()):
        for pattern, note in notes.items():
            if re.fullmatch(pattern, path.name):
                step.detail(f"{output.name}/{path.name:48} {note}")


if __name__ == "__main__":
    sys.exit(main())
