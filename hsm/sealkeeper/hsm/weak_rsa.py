"""What can be told of an RSA public key alone: whether it is one that others can break.

Found are: public exponents outside the bounds of FIPS 186-5 (section A.1.1), moduli with a tiny factor, moduli whose
factors are near to each other, and those of ROCA (CVE-2017-15361; Nemec, Sys, Svenda, Klinec, Matyas: "The Return of
Coppersmith's Attack", 2017). A key in which nothing is found can be weak all the same.
"""

from __future__ import annotations

from functools import cache
from math import gcd, isqrt, prod

_TINY = 4096
_FERMAT_ROUNDS = 100
_ROCA_GENERATOR = 65537


def weakness(modulus: int, exponent: int) -> str | None:
    """What is weak about an RSA public key, for a person; ``None`` where nothing was found."""
    if exponent % 2 == 0 or not 2**16 < exponent < 2**256:
        return "its public exponent is not an odd number between 2^16 and 2^256"
    if modulus % 2 == 0 or gcd(modulus, _product_of_tiny_primes()) != 1:
        return "its modulus has a tiny prime factor"
    if _factors_are_near(modulus):
        return "the two prime factors of its modulus are so near to each other that anybody can find them"
    if _has_roca_shape(modulus):
        return "it was made by a library whose keys can be factored (ROCA, CVE-2017-15361)"
    return None


def _factors_are_near(modulus: int) -> bool:
    """Fermat's factorization, a few rounds of it: enough where the factors agree in about their upper half."""
    root = isqrt(modulus)
    root += root * root < modulus
    for candidate in range(root, root + _FERMAT_ROUNDS):
        rest = candidate * candidate - modulus
        if isqrt(rest) ** 2 == rest:
            return True
    return False


def _has_roca_shape(modulus: int) -> bool:
    """Primes of that library are ``k * M + (65537^a mod M)``: the modulus is a power of 65537 modulo each factor of M.

    Fewer than one in 10^50 of other moduli are taken for one of these.
    """
    return all(powers >> modulus % prime & 1 for prime, powers in _roca_powers())


@cache
def _roca_powers() -> tuple[tuple[int, int], ...]:
    """Each prime factor of M, and the powers of 65537 modulo it as set bits.

    M is the product of the first 126 primes for moduli of 1984 to 3936 bits; longer ones have these among others.
    """
    table = []
    for prime in _primes(702):
        powers, power = 0, 1
        while not powers >> power & 1:
            powers |= 1 << power
            power = power * _ROCA_GENERATOR % prime
        table.append((prime, powers))
    return tuple(table)


@cache
def _product_of_tiny_primes() -> int:
    return prod(_primes(_TINY))


def _primes(limit: int) -> list[int]:
    return [number for number in range(2, limit) if all(number % other for other in range(2, isqrt(number) + 1))]
