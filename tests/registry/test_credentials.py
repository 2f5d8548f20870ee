"""Credentials are found as Docker and Podman find them, and are shown nowhere."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.registry import ConfigFiles, Credentials, Deadline
from sealkeeper.registry.errors import CredentialsError, RegistryTimeoutError
from tests.registry.attached import account_file


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def found_in(
    directory: Path,
    content: dict[str, Any],
    deadline: Deadline,
    registry: str = "ghcr.io",
    repository: str = "acme/app",
) -> Credentials | None:
    return ConfigFiles((account_file(directory, content),)).find(registry, repository, deadline)


@pytest.mark.parametrize(
    ("content", "registry", "username"),
    [
        ({"auths": {"ghcr.io": auth("a:b")}}, "ghcr.io", "a"),
        ({"auths": {"https://ghcr.io": auth("a:b")}}, "ghcr.io", "a"),
        ({"auths": {"https://ghcr.io/v2/": auth("a:b")}}, "ghcr.io", "a"),
        ({"auths": {"https://index.docker.io/v1/": auth("a:b")}}, "docker.io", "a"),
        ({"auths": {"docker.io": auth("a:b")}}, "docker.io", "a"),
        ({"auths": {"ghcr.io": auth("a:b"), "ghcr.io/acme": auth("c:d")}}, "ghcr.io", "c"),
        ({"auths": {"ghcr.io/acme/app": auth("e:f"), "ghcr.io/acme": auth("c:d")}}, "ghcr.io", "e"),
        ({"auths": {"ghcr.io/acm": auth("a:b")}}, "ghcr.io", None),
        ({"auths": {"ghcr.io:443": auth("a:b")}}, "ghcr.io", None),
        ({"auths": {"evil-ghcr.io": auth("a:b")}}, "ghcr.io", None),
        ({"auths": {"ghcr.io": {}}}, "ghcr.io", None),
        ({"auths": None}, "ghcr.io", None),
        ({}, "ghcr.io", None),
    ],
)
def test_the_entry_of_a_registry_is_found(
    tmp_path: Path, deadline: Deadline, content: dict[str, Any], registry: str, username: str | None
) -> None:
    found = found_in(tmp_path, content, deadline, registry)
    assert (found.username if found else None) == username


def test_a_password_may_have_colons_in_it(tmp_path: Path, deadline: Deadline) -> None:
    found = found_in(tmp_path, {"auths": {"ghcr.io": auth("ci:pass:word")}}, deadline)
    assert found == Credentials("ci", "pass:word")
    assert found.basic() == "Basic " + base64.b64encode(b"ci:pass:word").decode()


@pytest.mark.parametrize(
    "content",
    [
        {"auths": []},
        {"auths": {"ghcr.io": "word"}},
        {"auths": {"ghcr.io": {"auth": "not base64!"}}},
        {"auths": {"ghcr.io": auth("hunter2-without-colon")}},
        {"auths": {"ghcr.io": {"auth": 1}}},
        {"auths": {"ghcr.io": {"username": 1, "password": "hunter2"}}},
        {"credHelpers": []},
        {"credHelpers": {"ghcr.io": "../../evil"}},
        {"credsStore": "-x"},
        {"credsStore": "not-there-at-all"},
    ],
)
def test_a_file_that_is_no_such_file_is_refused_by_its_name(
    tmp_path: Path, deadline: Deadline, content: dict[str, Any]
) -> None:
    with pytest.raises(CredentialsError, match=r"config\.json|docker-credential") as refused:
        found_in(tmp_path, content, deadline)
    assert "hunter2" not in str(refused.value)


def test_files_that_are_not_there_have_none(tmp_path: Path, deadline: Deadline) -> None:
    assert ConfigFiles((tmp_path / "none", tmp_path / "no" / "file")).find("ghcr.io", "a/b", deadline) is None


def test_what_is_no_json_is_refused(tmp_path: Path, deadline: Deadline) -> None:
    path = tmp_path / "config.json"
    for text in ('{"auths": hunter2', "[" * 100_000, "[]"):
        path.write_text(text)
        with pytest.raises(CredentialsError) as refused:
            ConfigFiles((path,)).find("ghcr.io", "a/b", deadline)
        assert "hunter2" not in str(refused.value)


def test_the_files_are_those_of_docker_and_podman() -> None:
    home, docker = Path("/home/ci"), Path("/home/ci/.docker/config.json")
    assert ConfigFiles.of_environment({"HOME": "/home/ci"}).files == (docker, home / ".config/containers/auth.json")
    assert ConfigFiles.of_environment({"DOCKER_CONFIG": "/etc/d"}).files[0] == Path("/etc/d/config.json")
    runtime = ConfigFiles.of_environment({"HOME": "/home/ci", "XDG_RUNTIME_DIR": "/run/user/1"}).files
    assert runtime[1] == Path("/run/user/1/containers/auth.json")
    named = ConfigFiles.of_environment({"HOME": "/home/ci", "REGISTRY_AUTH_FILE": "/etc/auth.json"}).files
    assert named == (Path("/etc/auth.json"), docker)


# Helpers: real programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def helper(programs: Path, script: str, name: str = "docker-credential-tests") -> None:
    path = programs / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_helper_is_asked_for_the_registry(programs: Path, tmp_path: Path, deadline: Deadline) -> None:
    helper(programs, f'echo "$@" > {tmp_path}/argv; cat > {tmp_path}/asked; echo \'{{"Username":"ci","Secret":"s3"}}\'')
    for content, registry, server in (
        ({"credHelpers": {"ghcr.io": "tests"}}, "ghcr.io", "ghcr.io"),
        ({"credsStore": "tests"}, "docker.io", "https://index.docker.io/v1/"),
    ):
        assert found_in(tmp_path, content, deadline, registry) == Credentials("ci", "s3")
        assert (tmp_path / "asked").read_text() == server
        assert (tmp_path / "argv").read_text() == "get\n"


def test_a_helper_may_have_an_identity_token(programs: Path, tmp_path: Path, deadline: Deadline) -> None:
    helper(programs, 'cat > /dev/null; echo \'{"Username":"<token>","Secret":"refresh"}\'')
    assert found_in(tmp_path, {"credsStore": "tests"}, deadline) == Credentials("", identity_token="refresh")


def test_a_helper_of_another_registry_is_not_asked(programs: Path, tmp_path: Path, deadline: Deadline) -> None:
    helper(programs, f"touch {tmp_path}/asked")
    assert found_in(tmp_path, {"credHelpers": {"quay.io": "tests"}}, deadline) is None
    assert not (tmp_path / "asked").exists()


def test_a_helper_that_knows_none_leaves_the_others(programs: Path, tmp_path: Path, deadline: Deadline) -> None:
    helper(programs, 'echo "credentials not found in native keychain"; exit 1')
    content = {"credsStore": "tests", "auths": {"ghcr.io": auth("a:b")}}
    assert found_in(tmp_path, content, deadline) == Credentials("a", "b")


@pytest.mark.parametrize(
    "script", ["echo hunter2; exit 3", "echo hunter2", 'echo \'{"Username":"hunter2"}\'', "exit 0"]
)
def test_a_helper_that_fails_is_refused_without_its_words(
    programs: Path, tmp_path: Path, deadline: Deadline, script: str
) -> None:
    helper(programs, f"cat > /dev/null; {script}")
    with pytest.raises(CredentialsError, match="docker-credential-tests") as refused:
        found_in(tmp_path, {"credsStore": "tests"}, deadline)
    assert "hunter2" not in str(refused.value)


def test_a_helper_that_hangs_is_ended_with_what_it_started(programs: Path, tmp_path: Path) -> None:
    helper(programs, f"sleep 100 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(RegistryTimeoutError):
        found_in(tmp_path, {"credsStore": "tests"}, Deadline.after(0.5))
    state = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    # Gone, or dead and not yet collected by whoever has inherited it.
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials("ci", "the password", "the token"))
    assert "the password" not in shown
    assert "the token" not in shown
