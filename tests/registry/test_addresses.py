"""No name and no spelling of an address leads further than it may."""

from __future__ import annotations

from threading import Event

import pytest

from sealkeeper.registry import Deadline
from sealkeeper.registry.addresses import Locality, addresses_of, is_loopback_name, locality_of
from sealkeeper.registry.errors import AddressRefusedError, RegistryTimeoutError, RegistryUnavailableError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("140.82.121.34", Locality.PUBLIC),
        ("2606:50c0:8000::154", Locality.PUBLIC),
        ("10.1.2.3", Locality.PRIVATE),
        ("172.16.0.1", Locality.PRIVATE),
        ("192.168.1.1", Locality.PRIVATE),
        ("100.64.0.1", Locality.PRIVATE),
        ("198.18.0.1", Locality.PRIVATE),
        ("fd12:3456::1", Locality.PRIVATE),
        ("::ffff:10.0.0.1", Locality.PRIVATE),
        ("64:ff9b::a00:1", Locality.PRIVATE),
        ("2002:a00:1::", Locality.PRIVATE),
        ("127.0.0.1", Locality.LOOPBACK),
        ("127.8.8.8", Locality.LOOPBACK),
        ("::1", Locality.LOOPBACK),
        ("::ffff:127.0.0.1", Locality.LOOPBACK),
        ("64:ff9b::7f00:1", Locality.LOOPBACK),
        ("169.254.169.254", Locality.NEVER),
        ("::ffff:169.254.169.254", Locality.NEVER),
        ("64:ff9b::a9fe:a9fe", Locality.NEVER),
        ("2002:a9fe:a9fe::", Locality.NEVER),
        ("fe80::1", Locality.NEVER),
        ("fe80::1%eth0", Locality.NEVER),
        ("fd00:ec2::254", Locality.NEVER),
        ("0.0.0.0", Locality.NEVER),
        ("::", Locality.NEVER),
        ("224.0.0.1", Locality.NEVER),
        ("255.255.255.255", Locality.NEVER),
    ],
)
def test_an_address_is_as_local_as_it_is(address: str, expected: Locality) -> None:
    assert locality_of(address) is expected


def resolving(*addresses: str, most: Locality = Locality.PUBLIC) -> tuple[str, ...]:
    return addresses_of("registry.example", 443, most, Deadline.after(10), lambda *_: list(addresses))


def test_only_allowed_addresses_of_a_name_are_left() -> None:
    assert resolving("10.0.0.1", "140.82.121.34", "127.0.0.1") == ("140.82.121.34",)
    assert resolving("10.0.0.1", "127.0.0.1", most=Locality.PRIVATE) == ("10.0.0.1",)
    assert resolving("169.254.169.254", "127.0.0.1", most=Locality.LOOPBACK) == ("127.0.0.1",)


@pytest.mark.parametrize("most", [Locality.PUBLIC, Locality.PRIVATE, Locality.LOOPBACK])
def test_a_name_of_the_metadata_service_is_refused_whatever_is_allowed(most: Locality) -> None:
    with pytest.raises(AddressRefusedError, match="link-local"):
        resolving("169.254.169.254", most=most)


def test_a_name_without_an_address_is_unavailable() -> None:
    def unknown(*_: object) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(RegistryUnavailableError, match="no address"):
        addresses_of("registry.example", 443, Locality.PUBLIC, Deadline.after(10), unknown)
    with pytest.raises(RegistryUnavailableError):
        resolving()


def test_a_resolver_that_hangs_ends_with_the_deadline() -> None:
    over = Event()

    def hanging(*_: object) -> list[str]:
        over.wait(60)
        return ["140.82.121.34"]

    try:
        with pytest.raises(RegistryTimeoutError):
            addresses_of("registry.example", 443, Locality.PUBLIC, Deadline.after(0.05), hanging)
    finally:
        over.set()


def test_loopback_is_known_by_its_names_alone() -> None:
    assert all(map(is_loopback_name, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback_name, ("localhost.evil.example", "0x7f.1", "2130706433", "127.1", "", "10.0.0.1")))
