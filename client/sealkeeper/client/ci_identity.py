"""Tokens that CI systems give to their jobs: which system this is, and how its tokens are had."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sealkeeper.client.https import ask, checked_url
from sealkeeper.client.token_source import (
    ID_TOKEN,
    FileToken,
    FixedToken,
    Token,
    TokenSource,
    TokenUnavailableError,
    parse_token,
)

MAX_OUTPUT = 64 * 1024
"""Bytes that a command which prints a token may print."""
TIMEOUT = 10.0
"""Seconds that it may take."""
_ATTEMPTS = 3
_PROJECTED = "var/run/secrets/tokens/sealkeeper"
_SERVICE_ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount/token"


@dataclass(frozen=True, slots=True)
class GitHubTokens:
    """Tokens of a job of GitHub Actions, each for one audience.

    Attributes:
        url: where they are asked for.
        request_token: what they are asked for with.
        audience: whom they are for.
        sleep: waits, in seconds, between attempts; injected in tests.
    """

    url: str
    request_token: str = field(repr=False)
    audience: str
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    renewable: bool = True

    def fetch(self, *, renew: bool = False) -> Token:
        """As ``TokenSource``."""
        place = "ACTIONS_ID_TOKEN_REQUEST_URL"
        separator = "&" if "?" in self.url else "?"
        url = f"{checked_url(self.url, place)}{separator}audience={quote(self.audience, safe='')}"
        for attempt in range(_ATTEMPTS):
            if attempt:
                self.sleep(0.5 * 2**attempt)
            answer = ask(url, "GitHub's issuer of tokens", bearer=self.request_token)
            if answer.status < 500:
                break
        if answer.status != 200:
            raise TokenUnavailableError(
                f"GitHub's issuer of tokens answered with HTTP status {answer.status}",
                next_step="give the job the permission id-token: write, and run it again",
                transient=answer.status >= 500,
            )
        return parse_token(answer.text("value"), "GitHub's answer", "run the job again")

    def changed(self) -> bool:
        """Never by itself."""
        return False


@dataclass(frozen=True, slots=True)
class CommandTokens:
    """Tokens that a command of the CI system prints.

    Attributes:
        command: without a shell.
        next_step: where it does not work.
        timeout: seconds that it may take.
    """

    command: Sequence[str]
    next_step: str
    timeout: float = TIMEOUT
    renewable: bool = True

    def fetch(self, *, renew: bool = False) -> Token:
        """As ``TokenSource``."""
        output = _output(self.command, self.timeout, self.next_step)
        return parse_token(output.decode("utf-8", "replace"), f"what {self.command[0]} printed", self.next_step)

    def changed(self) -> bool:
        """Never by itself."""
        return False


def _output(command: Sequence[str], timeout: float, next_step: str) -> bytes:
    def failed(problem: str) -> TokenUnavailableError:
        return TokenUnavailableError(f"{command[0]} {problem}", next_step=next_step)

    deadline = time.monotonic() + timeout
    try:
        process = subprocess.Popen(  # noqa: S603  # no shell; the words are ours, and the audience is one of them
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise failed(f"cannot be run: {error.strerror}") from None
    with process:
        try:
            data = _read(process.stdout, deadline)
            if data is None or len(data) > MAX_OUTPUT:
                raise failed("took too long" if data is None else "printed more than 64 KiB")
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise failed("took too long") from None
        finally:
            process.kill()
    if code != 0:
        raise failed(f"ended with exit code {code}")
    return data


def _read(stream: IO[bytes] | None, deadline: float) -> bytes | None:
    """What it prints, up to a little more than is allowed; ``None`` where that is not over in time."""
    data = bytearray()
    if stream is None:
        return b""
    with selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        while len(data) <= MAX_OUTPUT:
            if not ready.select(max(0.0, deadline - time.monotonic())):
                return None
            piece = os.read(stream.fileno(), MAX_OUTPUT)
            if not piece:
                break
            data += piece
    return bytes(data)


def detect(environment: Mapping[str, str], audience: str, root: Path = Path("/")) -> TokenSource | None:
    """The tokens of the CI system that this runs in; ``None`` where it is none that is known.

    Nothing is asked for here.

    Args:
        environment: variables.
        audience: whom tokens are for.
        root: of the file system; another in tests.

    Raises:
        TokenUnavailableError: it is one, and gives this job no token.
    """
    for variable, system in _SYSTEMS.items():
        if environment.get(variable) == "true":
            return system(environment, audience)
    return _kubernetes(root, audience)


def _github(environment: Mapping[str, str], audience: str) -> TokenSource:
    url, token = environment.get("ACTIONS_ID_TOKEN_REQUEST_URL"), environment.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not url or not token:
        raise TokenUnavailableError(
            "GitHub Actions gives this job no token",
            next_step="add to the job: permissions: id-token: write (jobs for pull requests from forks get none)",
        )
    return GitHubTokens(url, token, audience)


def _gitlab(environment: Mapping[str, str], audience: str) -> TokenSource:
    # The token itself, where the job declares it, is found before: it is SEALKEEPER_ID_TOKEN.
    raise TokenUnavailableError(
        "GitLab gives this job no token for the gateway",
        next_step=f"add to the job: id_tokens: {ID_TOKEN}: aud: {audience}",
    )


def _buildkite(environment: Mapping[str, str], audience: str) -> TokenSource:
    command = ("buildkite-agent", "oidc", "request-token", "--audience", audience)
    return CommandTokens(command, f"see in the job what this says: {' '.join(command)} > /dev/null")


def _circleci(environment: Mapping[str, str], audience: str) -> TokenSource:
    step = "let the job run with a context, or without being for a fork: only such jobs get tokens"
    if shutil.which("circleci", path=environment.get("PATH")):
        return CommandTokens(("circleci", "run", "oidc", "get", "--claims", json.dumps({"aud": audience})), step)
    if environment.get("CIRCLE_OIDC_TOKEN_V2"):
        return FixedToken(environment["CIRCLE_OIDC_TOKEN_V2"], "the variable CIRCLE_OIDC_TOKEN_V2", step)
    raise TokenUnavailableError("CircleCI gives this job no token", next_step=step)


def _kubernetes(root: Path, audience: str) -> TokenSource | None:
    if (root / _PROJECTED).exists():
        return FileToken(root / _PROJECTED)
    if (root / _SERVICE_ACCOUNT).exists():
        raise TokenUnavailableError(
            f"/{_SERVICE_ACCOUNT} is for the Kubernetes API, not for the gateway: it is not sent",
            next_step=f"project a token for the audience {audience} at /{_PROJECTED}, or name its file: token_file",
        )
    return None


_SYSTEMS: Mapping[str, Callable[[Mapping[str, str], str], TokenSource]] = {
    "GITHUB_ACTIONS": _github,
    "GITLAB_CI": _gitlab,
    "BUILDKITE": _buildkite,
    "CIRCLECI": _circleci,
}
