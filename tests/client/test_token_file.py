"""Tokens of logins are kept for their owner alone, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.errors import ConfigurationError
from sealkeeper.client.token_file import KeptLogin, TokenFile
from sealkeeper.client.token_source import TokenUnavailableError, claims_of, parse_token

LOGIN = KeptLogin(
    "https://issuer.example", "client", "id_token", "secret.id.token", "secret-access", 7, "secret-refresh"
)


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile.of({"XDG_STATE_HOME": str(tmp_path)})


def keep(file: TokenFile, login: KeptLogin = LOGIN) -> None:
    with file.locked():
        file.keep(login)


def test_a_login_is_kept_for_its_owner_alone(file: TokenFile, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keep(file)
    finally:
        os.umask(before)
    assert file.path == tmp_path / "sealkeeper" / "tokens.json"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.folder.stat().st_mode) == 0o700
    assert file.find(LOGIN.issuer, LOGIN.client_id) == LOGIN
    assert file.find(LOGIN.issuer, "other") is None


def test_there_is_one_login_for_an_issuer_and_client(file: TokenFile) -> None:
    other = KeptLogin(LOGIN.issuer, "other", "access_token")
    newer = KeptLogin(LOGIN.issuer, LOGIN.client_id, "access_token")
    for one in (LOGIN, other, newer):
        keep(file, one)
    assert file.read() == [other, newer]
    with file.locked():
        assert file.remove(other.issuer, other.client_id)
        assert not file.remove(other.issuer, other.client_id)
    assert file.read() == [newer]


def test_without_a_state_folder_it_is_in_the_home(tmp_path: Path) -> None:
    expected = tmp_path / ".local/state/sealkeeper/tokens.json"
    assert TokenFile.of({"HOME": str(tmp_path)}).path == expected
    assert TokenFile.of({"HOME": str(tmp_path), "XDG_STATE_HOME": "relative"}).path == expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(file: TokenFile, mode: int) -> None:
    keep(file)
    file.path.chmod(mode)
    with pytest.raises(ConfigurationError, match="by others") as caught:
        file.read()
    assert "chmod 600" in caught.value.next_step


def test_a_folder_that_others_can_use_is_refused(file: TokenFile) -> None:
    keep(file)
    file.folder.chmod(0o755)
    with pytest.raises(ConfigurationError, match="by others"):
        file.read()
    with pytest.raises(ConfigurationError, match="by others"):
        keep(file)


def test_a_file_of_somebody_else_is_refused(file: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(file)
    monkeypatch.setattr(os, "geteuid", lambda: file.path.stat().st_uid + 1)
    with pytest.raises(ConfigurationError, match="somebody else"):
        file.read()


def test_a_link_is_not_followed(file: TokenFile, tmp_path: Path) -> None:
    keep(file)
    file.path.rename(tmp_path / "real.json")
    file.path.symlink_to(tmp_path / "real.json")
    with pytest.raises(ConfigurationError, match="cannot read"):
        file.read()


def test_a_pipe_is_not_waited_for(file: TokenFile) -> None:
    with file.locked():
        os.mkfifo(file.path, 0o600)
    with pytest.raises(ConfigurationError, match="not a file"):
        file.read()


@pytest.mark.parametrize(
    "change", ["", "{", "[]", "{}", '{"logins": [3]}', '{"logins": 3}', '{"logins": [{"issuer": 3}]}']
)
def test_a_file_that_was_spoilt_is_named_and_not_quoted(file: TokenFile, change: str) -> None:
    keep(file)
    file.path.write_text(change)
    with pytest.raises(ConfigurationError) as caught:
        file.read()
    assert "tokens.json" in str(caught.value)
    assert caught.value.__cause__ is None


def test_members_of_another_type_are_refused(file: TokenFile) -> None:
    keep(file)
    document = json.loads(file.path.read_text())
    document["logins"][0]["access_expires"] = "soon"
    file.path.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError):
        file.read()


def test_a_write_that_fails_leaves_what_was_there(file: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(file)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space"):
        keep(file, KeptLogin(LOGIN.issuer, "other", "id_token"))
    assert file.read() == [LOGIN]
    assert sorted(one.name for one in file.folder.iterdir()) == ["tokens.json", "tokens.lock"]


def test_two_processes_do_not_change_it_at_once(file: TokenFile) -> None:
    code = (
        "import fcntl, sys\n"
        "with open(sys.argv[1]) as lock:\n"
        "    try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: print('locked')\n"
        "    else: print('free')\n"
    )

    def seen() -> str:
        command = [sys.executable, "-c", code, str(file.folder / "tokens.lock")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    with file.locked():
        file.keep(LOGIN)
        assert seen() == "locked"
    assert seen() == "free"


def test_tokens_are_not_shown() -> None:
    assert "secret" not in repr(LOGIN)
    assert "secret" not in repr(parse_token("secret.id.token", "it", "x"))


@given(st.text(max_size=100))
def test_what_is_no_token_is_refused_without_being_quoted(text: str) -> None:
    good = re.fullmatch(r"\s*[A-Za-z0-9._~+/-]+=*\s*", text) is not None
    if good:
        assert parse_token(text, "the place", "a step").text == text.strip()
        return
    with pytest.raises(TokenUnavailableError, match=r"the place is empty|the place does not hold a token"):
        parse_token(text, "the place", "a step")


@given(st.binary(max_size=200))
def test_claims_of_anything_are_claims_or_none(data: bytes) -> None:
    import base64

    middle = base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert isinstance(claims_of(f"a.{middle}.b"), dict)
