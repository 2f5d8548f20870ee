"""Weak RSA keys are found by their public half, and no others are taken for weak."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache
from math import prod

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.hsm import private_keys
from sealkeeper.hsm.algorithms import ALGORITHMS, require_strong
from sealkeeper.hsm.errors import AlgorithmNotSupportedError, WeakKeyError
from sealkeeper.hsm.weak_rsa import weakness
from tests.wrapping import new_private_key, spki

PRIMES = [number for number in range(2, 1428) if all(number % other for other in range(2, number))]


def is_prime(number: int) -> bool:
    """Miller and Rabin's test, which errs less than once in 4^20."""
    if any(number % prime == 0 for prime in PRIMES):
        return number in PRIMES
    odd, halvings = number - 1, 0
    while odd % 2 == 0:
        odd, halvings = odd // 2, halvings + 1
    for _ in range(20):
        power = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if power in {1, number - 1}:
            continue
        for _ in range(halvings - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def prime_from(candidates: Callable[[], int]) -> int:
    while not is_prime(number := candidates()):
        pass
    return number


def roca_prime(bits: int, count: int) -> int:
    """A prime as the library of CVE-2017-15361 makes it, with M the product of the first ``count`` primes."""
    primorial = prod(PRIMES[:count])
    low, high = (3 << (bits - 2)) // primorial + 1, (1 << bits) // primorial - 1
    return prime_from(
        lambda: (low + secrets.randbelow(high - low)) * primorial + pow(65537, secrets.randbits(256), primorial)
    )


@cache
def honest_modulus(bits: int) -> int:
    return rsa.generate_private_key(65537, bits).public_key().public_numbers().n


def rsa_spki(modulus: int, exponent: int) -> bytes:
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "4096" not in name])
def test_keys_made_by_the_library_are_strong(name: str) -> None:
    require_strong(ALGORITHMS[name], spki(new_private_key(ALGORITHMS[name].parameter)))


@pytest.mark.parametrize(("bits", "primes"), [(2048, 126), (3072, 126), (4096, 225)])
def test_a_modulus_of_roca_shape_is_refused(bits: int, primes: int) -> None:
    modulus = roca_prime(bits // 2, primes) * roca_prime(bits // 2, primes)
    assert modulus.bit_length() == bits
    with pytest.raises(WeakKeyError, match="CVE-2017-15361"):
        require_strong(ALGORITHMS[f"PKIX_RSA_PKCS1V15_{bits}_SHA256"], rsa_spki(modulus, 65537))


def test_one_factor_of_roca_shape_alone_does_not_show() -> None:
    other = prime_from(lambda: 3 << 1022 | secrets.randbits(1022) | 1)
    assert weakness(roca_prime(1024, 126) * other, 65537) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(min_value=0, max_value=2**300))
def test_exponents_within_the_bounds_are_taken_and_others_are_not(exponent: int) -> None:
    within = exponent % 2 == 1 and 2**16 < exponent < 2**256
    assert (weakness(honest_modulus(2048), exponent) is None) is within


@pytest.mark.parametrize("exponent", [1, 3, 17, 2**16, 2**16 - 1, 65538, 2**256 - 2, 2**256, 2**256 + 1, 0, -65537])
def test_exponents_at_the_edges_are_refused(exponent: int) -> None:
    assert "exponent" in (weakness(honest_modulus(2048), exponent) or "")


@pytest.mark.parametrize("exponent", [2**16 + 1, 2**16 + 3, 2**256 - 1])
def test_the_smallest_and_the_largest_exponent_are_taken(exponent: int) -> None:
    assert weakness(honest_modulus(2048), exponent) is None


def test_a_key_with_exponent_three_is_refused_with_the_reason() -> None:
    with pytest.raises(WeakKeyError, match="public exponent") as refused:
        require_strong(ALGORITHMS["PKIX_RSA_PSS_2048_SHA256"], rsa_spki(honest_modulus(2048), 3))
    assert refused.value.reason == "WEAK_KEY"
    assert refused.value.next_step


@pytest.mark.parametrize("factor", [3, 5, 701, 1427, 4093])
def test_a_modulus_with_a_tiny_factor_is_refused(factor: int) -> None:
    assert "tiny prime factor" in (weakness(honest_modulus(2048) * factor, 65537) or "")


def test_an_even_modulus_is_refused() -> None:
    assert "tiny" in (weakness(honest_modulus(2048) - 1, 65537) or "")


def test_factors_that_are_near_to_each_other_are_refused() -> None:
    first = prime_from(lambda: 3 << 1022 | secrets.randbits(1022) | 1)
    second = first + 2
    while not is_prime(second):
        second += 2
    for modulus in (first * second, first * first):
        with pytest.raises(WeakKeyError, match="near"):
            require_strong(ALGORITHMS["PKIX_RSA_PKCS1V15_2048_SHA256"], rsa_spki(modulus, 65537))


def test_a_key_of_another_size_or_off_its_curve_is_not_one_for_the_algorithm() -> None:
    with pytest.raises(AlgorithmNotSupportedError):
        require_strong(ALGORITHMS["PKIX_RSA_PKCS1V15_3072_SHA256"], rsa_spki(honest_modulus(2048), 65537))
    point = bytearray(spki(new_private_key("secp256r1")))
    point[-1] ^= 1
    with pytest.raises(AlgorithmNotSupportedError):
        require_strong(ALGORITHMS["PKIX_ECDSA_P256_SHA_256"], bytes(point))


@pytest.mark.parametrize("name", ["PKIX_ECDSA_P521_SHA_512", "PKIX_RSA_PSS_4096_SHA256", "ML_DSA_87"])
def test_a_private_key_of_any_length_costs_no_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A PKCS#8 of 16 KiB has room for RSA primes of 8,192 bits and more: to look at these takes a minute.
    def load(*_: object) -> None:
        pytest.fail("it was looked at")

    monkeypatch.setattr("cryptography.hazmat.primitives.serialization.load_der_private_key", load)
    head = bytes.fromhex("308223ac020100300d06092a864886f70d010101050004822396")
    with pytest.raises(AlgorithmNotSupportedError, match="too long"):
        private_keys.load_foreign(ALGORITHMS[name], head + bytes(9110))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_keys_that_are_as_long_as_they_have_to_be_are_taken(name: str) -> None:
    private = private_keys.generate(ALGORITHMS[name])
    loaded = private_keys.load_foreign(ALGORITHMS[name], private_keys.pkcs8_of(private))
    assert private_keys.public_half(loaded) == private_keys.public_half(private)


@pytest.mark.parametrize(
    "spki",
    [
        "300e300506032a030403050001020304",
        "3017300e06072a8648ce3d020106032a030403050001020304",
    ],
    ids=["algorithm", "curve"],
)
def test_a_public_key_of_a_kind_that_nobody_knows_is_refused(spki: str) -> None:
    with pytest.raises(AlgorithmNotSupportedError):
        require_strong(ALGORITHMS["PKIX_ECDSA_P256_SHA_256"], bytes.fromhex(spki))
