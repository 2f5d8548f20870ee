"""Private keys that a SoftHSM token unwraps, what it says of them, and what it is left with afterwards."""

from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sealkeeper.hsm import (
    ALGORITHMS,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    Origin,
    ProtectionLevel,
    WrapMethod,
    WrappedKeyError,
    open_provider,
)
from sealkeeper.hsm.worker_provider import WorkerProvider
from tests.stores.softhsm import PIN, SOFTHSM, softhsm
from tests.wrapping import new_private_key, pkcs8, private_key, spki, wrap

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
RSA = ALGORITHMS["PKIX_RSA_PKCS1V15_2048_SHA256"]
SHA1 = WrapMethod.RSA_OAEP_SHA1_AES_256_KWP


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    with softhsm(tmp_path) as made:
        yield made


@pytest.fixture
async def provider(uri: str) -> AsyncIterator[WorkerProvider]:
    opened = await open_provider(uri)
    yield opened
    await opened.close()


_LIST = """
import json, pkcs11, sys
from pkcs11 import Attribute as A
token = pkcs11.lib(sys.argv[1]).get_token(token_label="acme")
names = (A.TOKEN, A.SENSITIVE, A.ALWAYS_SENSITIVE, A.EXTRACTABLE, A.NEVER_EXTRACTABLE, A.LOCAL)
names += (A.SIGN, A.DECRYPT, A.UNWRAP, A.DERIVE)
def read(one, name):
    try:
        return one[name]
    except pkcs11.PKCS11Error:
        return None
with token.open(user_pin=sys.stdin.read()) as session:
    found = [
        {"class": one[A.CLASS].name, "label": one[A.LABEL], "id": one[A.ID].hex()}
        | {name.name: read(one, name) for name in names}
        for one in session.get_objects()
    ]
print(json.dumps(found))
"""


def objects() -> list[dict[str, object]]:
    """All that is in the token, seen by a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", _LIST, str(SOFTHSM)], input=PIN, capture_output=True, text=True, check=True
    )
    listed: list[dict[str, object]] = json.loads(found.stdout)
    return sorted(listed, key=lambda one: (str(one["class"]), str(one["id"])))


async def test_a_wrapping_key_does_nothing_but_unwrap_and_a_person_sees_what_it_is_for(
    provider: WorkerProvider,
) -> None:
    offer = await provider.begin_import("acme-release", P256)
    private, public = objects()
    assert private["label"] == public["label"] == "sealkeeper wrapping key for import of acme-release"
    assert [private[name] for name in ("TOKEN", "SENSITIVE", "NEVER_EXTRACTABLE", "UNWRAP")] == [True] * 4
    assert [private[name] for name in ("EXTRACTABLE", "SIGN", "DECRYPT", "DERIVE")] == [False] * 4
    handle = f"id={''.join(f'%{byte:02x}' for byte in offer.state)};x-algorithm={RSA.name}"
    with pytest.raises(KeyHandleError):
        await provider.sign(handle, RSA, [bytes(32)])
    await provider.end_import(offer.state)
    await provider.end_import(offer.state)
    assert objects() == []


async def test_an_imported_key_can_only_sign_and_its_pair_is_all_that_is_left(provider: WorkerProvider) -> None:
    offer = await provider.begin_import("acme-release", P256)
    assert offer.methods == (SHA1,)
    key_pair = private_key("secp256r1")
    wrapped = wrap(SHA1, offer.public_key, pkcs8(key_pair))
    key = await provider.finish_import(offer.state, "acme-release", P256, SHA1, wrapped, spki(key_pair))
    await provider.end_import(offer.state)
    private, public = objects()
    assert private["class"] == "PRIVATE_KEY"
    assert public["class"] == "PUBLIC_KEY"
    assert private["id"] == public["id"]
    assert private["label"] == public["label"] == "acme-release"
    assert [private[name] for name in ("TOKEN", "SENSITIVE", "SIGN")] == [True] * 3
    assert [private[name] for name in ("EXTRACTABLE", "DECRYPT", "UNWRAP", "DERIVE", "LOCAL")] == [False] * 5
    await provider.destroy(key.handle)
    assert objects() == []


@pytest.mark.parametrize("algorithm", [P256, RSA], ids=lambda one: one.name)
async def test_what_is_refused_leaves_nothing_in_the_token(provider: WorkerProvider, algorithm: object) -> None:
    assert algorithm in (P256, RSA)
    one = P256 if algorithm is P256 else RSA
    offer = await provider.begin_import("brought", one)
    key_pair, other = private_key(one.parameter), private_key(2048 if one is P256 else "secp256r1")
    right = wrap(SHA1, offer.public_key, pkcs8(key_pair))
    before = objects()
    wrong = {
        "first part": bytes([right[0] ^ 1]) + right[1:],
        "second part": right[:-1] + bytes([right[-1] ^ 1]),
        "cut": right[:-8],
        "odd": right[:-3],
        "another kind": wrap(SHA1, offer.public_key, pkcs8(other)),
        "no key": wrap(SHA1, offer.public_key, bytes(64)),
        "another hash": wrap(WrapMethod.RSA_OAEP_SHA256_AES_256_KWP, offer.public_key, pkcs8(key_pair)),
    }
    for what, wrapped in wrong.items():
        with pytest.raises(WrappedKeyError) as refused:
            pytest.fail(f"{what}: {await provider.finish_import(offer.state, 'b', one, SHA1, wrapped, spki(key_pair))}")
        assert refused.value.next_step
    assert objects() == before


async def test_an_rsa_key_that_is_not_that_of_the_public_key_is_refused_at_once(provider: WorkerProvider) -> None:
    offer = await provider.begin_import("brought", RSA)
    before = objects()
    wrapped = wrap(SHA1, offer.public_key, pkcs8(new_private_key(2048)))
    with pytest.raises(WrappedKeyError, match="of the public key given"):
        await provider.finish_import(offer.state, "brought", RSA, SHA1, wrapped, spki(private_key(2048)))
    assert objects() == before


async def test_a_kind_of_key_that_the_token_does_not_unwrap_is_refused_before_it_is_wrapped(
    provider: WorkerProvider,
) -> None:
    with pytest.raises(ImportNotSupportedError, match="PKIX_ED25519"):
        await provider.begin_import("brought", ALGORITHMS["PKIX_ED25519"])
    assert objects() == []


async def test_a_signing_key_cannot_be_named_as_the_wrapping_key(provider: WorkerProvider) -> None:
    offer = await provider.begin_import("brought", P256)
    made = await provider.generate("made", RSA)
    identifier = bytes.fromhex(made.handle.partition(";")[0].removeprefix("id=").replace("%", ""))
    wrapped = wrap(SHA1, offer.public_key, pkcs8(private_key("secp256r1")))
    with pytest.raises(ImportExpiredError):
        await provider.finish_import(identifier, "b", P256, SHA1, wrapped, spki(private_key("secp256r1")))
    await provider.end_import(identifier)
    assert await provider.public_key(made.handle) == made


async def test_the_token_says_of_each_key_where_it_came_from(provider: WorkerProvider) -> None:
    made = await provider.evidence((await provider.generate("made", P256)).handle)
    assert (made.protection_level, made.origin, made.exportable) == (ProtectionLevel.HSM, Origin.GENERATED, False)
    assert made.claims == {
        "CKA_SENSITIVE": "true",
        "CKA_ALWAYS_SENSITIVE": "true",
        "CKA_EXTRACTABLE": "false",
        "CKA_NEVER_EXTRACTABLE": "true",
        "CKA_LOCAL": "true",
        "CKA_PRIVATE": "true",
        "CKA_TOKEN": "true",
        "CKA_SIGN": "true",
        "CKA_DECRYPT": "false",
        "CKA_UNWRAP": "false",
        "CKA_DERIVE": "false",
        "CKA_KEY_GEN_MECHANISM": "CKM_EC_KEY_PAIR_GEN",
    }
    offer = await provider.begin_import("brought", P256)
    key_pair = private_key("secp256r1")
    wrapped = wrap(SHA1, offer.public_key, pkcs8(key_pair))
    key = await provider.finish_import(offer.state, "brought", P256, SHA1, wrapped, spki(key_pair))
    brought = await provider.evidence(key.handle)
    assert (brought.origin, brought.exportable) == (Origin.IMPORTED, False)
    # It was outside once, and the token does not pretend otherwise.
    changed = {name: brought.claims.get(name) for name in made.claims if brought.claims.get(name) != made.claims[name]}
    assert changed == {
        "CKA_ALWAYS_SENSITIVE": "false",
        "CKA_NEVER_EXTRACTABLE": "false",
        "CKA_LOCAL": "false",
        "CKA_KEY_GEN_MECHANISM": None,
    }


async def test_an_import_that_is_finished_twice_makes_one_key(uri: str, provider: WorkerProvider) -> None:
    # A gateway that got no answer asks again, of another worker.
    offer = await provider.begin_import("brought", P256)
    key_pair = private_key("secp256r1")
    wrapped = wrap(SHA1, offer.public_key, pkcs8(key_pair))
    arguments = (offer.state, "brought", P256, SHA1, wrapped, spki(key_pair))
    first = await provider.finish_import(*arguments)
    other = await open_provider(uri)
    try:
        assert await other.finish_import(*arguments) == first
    finally:
        await other.close()
    await provider.end_import(offer.state)
    assert len(objects()) == 2
    with pytest.raises(ImportExpiredError):
        await provider.finish_import(*arguments)
    assert await provider.public_key(first.handle) == first


async def test_an_import_that_stopped_half_way_is_finished(provider: WorkerProvider) -> None:
    offer = await provider.begin_import("brought", P256)
    key_pair = private_key("secp256r1")
    wrapped = wrap(SHA1, offer.public_key, pkcs8(key_pair))
    arguments = (offer.state, "brought", P256, SHA1, wrapped, spki(key_pair))
    first = await provider.finish_import(*arguments)
    identifier = first.handle.partition(";")[0].removeprefix("id=").replace("%", "")
    remove = (
        "import pkcs11, sys\n"
        "token = pkcs11.lib(sys.argv[1]).get_token(token_label='acme')\n"
        "with token.open(rw=True, user_pin=sys.stdin.read()) as session:\n"
        "    wanted = {pkcs11.Attribute.ID: bytes.fromhex(sys.argv[2]), pkcs11.Attribute.CLASS: 2}\n"
        "    [public] = session.get_objects(wanted)\n"
        "    public.destroy()\n"
    )
    subprocess.run([sys.executable, "-c", remove, str(SOFTHSM), identifier], input=PIN, text=True, check=True)
    assert await provider.finish_import(*arguments) == first
    await provider.end_import(offer.state)
    assert len(objects()) == 2


def test_the_parameters_of_the_one_step_mechanism_are_laid_out_as_in_c() -> None:
    # PKCS #11 v3.0: CK_RSA_AES_KEY_WRAP_PARAMS is a length and a pointer; what is pointed to are five words.
    from pkcs11 import Mechanism
    from pkcs11.mechanisms import MGF

    from sealkeeper.hsm.pkcs11_rsa_aes import OneStep

    step = OneStep(Mechanism.SHA256, MGF.SHA256)
    assert isinstance(step.mechanism, Mechanism)
    assert int(step.mechanism) == 0x1054
    bits, pointer = struct.unpack("@LP", step.parameter)
    assert bits == 256
    words = struct.unpack("@LLLPL", ctypes.string_at(pointer, struct.calcsize("@LLLPL")))
    # CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, no label.
    assert words == (0x250, 2, 1, 0, 0)
