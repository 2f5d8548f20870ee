"""A token that misbehaves: taken out, wrong PIN, killed worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from pkcs11 import TokenFlag, exceptions

from sealkeeper.hsm import (
    ALGORITHMS,
    PinRefusedError,
    ProviderConfigurationError,
    ProviderError,
    ProviderKey,
    ProviderUnavailableError,
    open_provider,
)
from sealkeeper.hsm import pkcs11 as store
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.hsm.worker_provider import WorkerProvider
from tests.stores.softhsm import PIN, softhsm

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    with softhsm(tmp_path) as made:
        yield made


@pytest.fixture
async def provider(uri: str) -> AsyncIterator[WorkerProvider]:
    opened = await open_provider(uri)
    yield opened
    await opened.close()


def pid(provider: WorkerProvider) -> int:
    process = provider._slots[0].process
    assert process is not None
    return process.pid


def good(key: ProviderKey, signatures: list[bytes]) -> bool:
    return signature_verifies(P256, load_public_key(P256, key.public_key), bytes(32), signatures[0])


async def eventually_signs(provider: WorkerProvider, key: ProviderKey) -> None:
    """Sign, as a client that retries on unavailable does."""
    while True:
        try:
            assert good(key, await provider.sign(key.handle, P256, [bytes(32)]))
        except ProviderUnavailableError:
            await asyncio.sleep(0.02)
        else:
            return


async def test_a_killed_worker_is_replaced_and_the_key_is_still_there(provider: WorkerProvider) -> None:
    key = await provider.generate("release", P256)
    os.kill(pid(provider), signal.SIGSTOP)
    under_way = [asyncio.ensure_future(provider.sign(key.handle, P256, [bytes(32)])) for _ in range(20)]
    await asyncio.sleep(0)
    os.kill(pid(provider), signal.SIGKILL)
    outcomes = await asyncio.gather(*under_way, return_exceptions=True)
    assert all(isinstance(one, ProviderUnavailableError) for one in outcomes)
    assert good(key, await provider.sign(key.handle, P256, [bytes(32)]))


async def test_a_token_taken_out_is_unavailable_and_put_back_signs_again(
    provider: WorkerProvider, tmp_path: Path
) -> None:
    key = await provider.generate("release", P256)
    (tmp_path / "tokens").rename(tmp_path / "taken-out")
    (tmp_path / "tokens").mkdir()
    os.kill(pid(provider), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(ProviderUnavailableError):
            await provider.sign(key.handle, P256, [bytes(32)])
    (tmp_path / "tokens").rmdir()
    (tmp_path / "taken-out").rename(tmp_path / "tokens")
    await eventually_signs(provider, key)


async def test_keys_that_vanish_under_an_open_session_give_no_wrong_signature(
    provider: WorkerProvider, tmp_path: Path
) -> None:
    key = await provider.generate("release", P256)
    (tmp_path / "tokens").rename(tmp_path / "taken-out")
    (tmp_path / "tokens").mkdir()
    with suppress(ProviderError):
        assert good(key, await provider.sign(key.handle, P256, [bytes(32)]))
    (tmp_path / "tokens").rmdir()
    (tmp_path / "taken-out").rename(tmp_path / "tokens")
    await eventually_signs(provider, key)


def worker_starts(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    from sealkeeper.hsm import worker_provider

    real = worker_provider._spawn
    starts: list[None] = []

    async def counted(environment: Mapping[str, str], pace: worker_provider._Pace) -> object:
        starts.append(None)
        return await real(environment, pace)

    monkeypatch.setattr(worker_provider, "_spawn", counted)
    return starts


async def test_a_wrong_pin_is_sent_once_even_over_restarts(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = worker_starts(monkeypatch)
    (tmp_path / "pin").write_text("wrong\n")
    for _ in range(5):
        with pytest.raises(PinRefusedError):
            await open_provider(uri, workers=3, state_dir=tmp_path / "state")
    assert len(starts) == 1
    assert b"wrong" not in b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    # The token is not locked, and the corrected PIN is tried.
    (tmp_path / "pin").write_text(f"{PIN}\n# corrected")
    with pytest.raises(PinRefusedError):
        await open_provider(uri, state_dir=tmp_path / "state")
    (tmp_path / "pin").write_text(PIN)
    provider = await open_provider(uri, state_dir=tmp_path / "state")
    await provider.close()
    assert len(starts) == 3


async def test_a_pin_changed_on_the_token_is_sent_once_by_all_workers_together(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await open_provider(uri, workers=3)
    try:
        key = await provider.generate("release", P256)
        (tmp_path / "pin").write_text("stale-4711")
        starts = worker_starts(monkeypatch)
        for slot in provider._slots:
            assert slot.process is not None
            slot.process.kill()
            await slot.process.wait()
            while slot.channel is not None and slot.channel.alive:
                await asyncio.sleep(0)
        for _ in range(6):
            with pytest.raises((PinRefusedError, ProviderUnavailableError)):
                await provider.sign(key.handle, P256, [bytes(32)])
        assert len(starts) == 1
    finally:
        await provider.close()


class LostSession:
    def generate_random(self, _: int) -> bytes:
        raise exceptions.SessionHandleInvalid

    def close(self) -> None:
        return


class ForgetfulToken:
    """Loses its session, has another PIN by then, and does not say that wrong ones were tried, as SoftHSM2 does."""

    flags = TokenFlag(0)

    def __init__(self) -> None:
        self.opened = 0

    def open(self, **_: object) -> LostSession:
        self.opened += 1
        if self.opened == 1:
            return LostSession()
        raise exceptions.PinIncorrect


def test_a_pin_that_was_refused_after_a_lost_session_is_not_sent_with_every_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, pin = ForgetfulToken(), tmp_path / "pin"
    pin.write_text("stale-4711")
    pin.chmod(0o600)
    monkeypatch.setattr("pkcs11.lib", lambda _: SimpleNamespace(manufacturer_id=""))
    monkeypatch.setattr(store, "find_token", lambda *_: token)
    monkeypatch.setattr(store, "describe", lambda _: "a token")
    monkeypatch.setattr(store, "offered", lambda _: frozenset())
    monkeypatch.setattr("sealkeeper.hsm.pkcs11_import.wrap_methods", lambda *_: frozenset())
    backend = store.Pkcs11Backend(f"pkcs11:token=acme?module-path=/nowhere.so&pin-source=file:{pin}")
    for text in ("refused the PIN", "not tried again", "not tried again"):
        with pytest.raises(PinRefusedError, match=text):
            backend.check()
    assert token.opened == 2
    pin.write_text("corrected, but wrong again")
    for _ in range(3):
        with pytest.raises(PinRefusedError):
            backend.check()
    assert token.opened == 3


async def test_no_text_shows_the_pin(uri: str, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("very-secret-pin")
    with pytest.raises(PinRefusedError) as refused:
        await open_provider(uri)
    assert "very-secret" not in f"{refused.value!r} {refused.value.next_step}"
    (tmp_path / "pin").write_text(PIN)
    provider = await open_provider(uri)
    try:
        assert PIN.encode() not in Path(f"/proc/{pid(provider)}/cmdline").read_bytes()
        assert PIN not in repr(provider) + repr(provider.info)
    finally:
        await provider.close()


async def test_a_key_cannot_be_read_out_and_does_nothing_but_sign(provider: WorkerProvider, tmp_path: Path) -> None:
    await provider.generate("release", P256)
    script = (
        "import pkcs11, sys\n"
        "from pkcs11 import Attribute as A\n"
        f"token = pkcs11.lib('/usr/lib/softhsm/libsofthsm2.so').get_token(token_label='acme')\n"
        f"with token.open(user_pin={PIN!r}) as session:\n"
        "    [key] = session.get_objects({A.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})\n"
        "    names = (A.SENSITIVE, A.ALWAYS_SENSITIVE, A.NEVER_EXTRACTABLE)\n"
        "    names += (A.EXTRACTABLE, A.SIGN, A.DECRYPT, A.UNWRAP)\n"
        "    print([key[name] for name in names])\n"
    )
    found = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n")[0] == "[True, True, True, False, True, False, False]"


async def test_a_token_that_is_not_there_can_be_waited_for(uri: str, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.rename(tmp_path / "elsewhere")
    tokens.mkdir()
    with pytest.raises(ProviderUnavailableError, match="no token fits"):
        await open_provider(uri)
    provider = await open_provider(uri, patient=True)
    try:
        with pytest.raises(ProviderUnavailableError, match="no token fits"):
            await provider.generate("release", P256)
        tokens.rmdir()
        (tmp_path / "elsewhere").rename(tokens)
        assert (await provider.generate("release", P256)).public_key
    finally:
        await provider.close()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("libsofthsm2.so", "libnothing.so", "module cannot be loaded"),
        ("/pin", "/nopin", "PIN file cannot be read"),
    ],
)
async def test_what_cannot_be_opened_says_why(uri: str, old: str, new: str, text: str) -> None:
    with pytest.raises(ProviderConfigurationError, match=text):
        await open_provider(uri.replace(old, new))
