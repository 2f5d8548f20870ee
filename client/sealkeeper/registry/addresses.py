"""Which addresses may be connected to: nobody gets through a registry to where they could not get by themselves.

Three kinds of places are told apart. A registry may be at a local address where it is allowed to be. What it names
beyond itself, the target of a redirect or the realm of its tokens, may be no more local than the registry is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeAlias

from sealkeeper.registry.deadline import Deadline
from sealkeeper.registry.errors import AddressRefusedError, RegistryTimeoutError, RegistryUnavailableError

Resolve: TypeAlias = Callable[[str, int], list[str]]
"""From host and port to addresses; raises ``OSError``. It may block."""
_MAX_ADDRESSES = 8
_NAT64 = IPv6Network("64:ff9b::/96")


class Locality(IntEnum):
    """How near an address is; what is nearer is guarded more."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    NEVER = 3
    """Link-local ones, where clouds have their metadata service, and what is no address of one host."""


def locality_of(address: str) -> Locality:
    """What kind of address it is; an IPv4 address in an IPv6 one counts as itself.

    Raises:
        ValueError: it is no IP address.
    """
    found = _embedded(ip_address(address.partition("%")[0]))
    if found.is_loopback:
        return Locality.LOOPBACK
    if found.is_link_local or found.is_multicast or found.is_unspecified or found == IPv4Address("255.255.255.255"):
        return Locality.NEVER
    # 169.254.169.254's counterparts: AWS' is in fd00:ec2::/32, a unique local network.
    if isinstance(found, IPv6Address) and found in IPv6Network("fd00:ec2::/32"):
        return Locality.NEVER
    return Locality.PUBLIC if found.is_global else Locality.PRIVATE


def is_loopback_name(host: str) -> bool:
    """The host is this machine by its very name."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """The host is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def addresses_of(host: str, port: int, most_local: Locality, deadline: Deadline, resolve: Resolve) -> tuple[str, ...]:
    """The addresses of a host that may be connected to.

    Args:
        host: name or address.
        port: of it.
        most_local: how local they may be.
        deadline: of the operation.
        resolve: asks the resolver.

    Raises:
        AddressRefusedError: there are only others.
        RegistryUnavailableError: there are none.
        RegistryTimeoutError: the resolver does not answer in time.
    """
    found = _resolved(host, port, deadline, resolve)
    allowed = tuple(dict.fromkeys(one for one in found if locality_of(one) <= most_local))[:_MAX_ADDRESSES]
    if not allowed:
        kind = locality_of(found[0]).name.lower().replace("never", "link-local or special")
        raise AddressRefusedError(f"{host}: is at a {kind} address, which must not be connected to")
    return allowed


def system_resolver(host: str, port: int) -> list[str]:
    """What the system says are the addresses of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _resolved(host: str, port: int, deadline: Deadline, resolve: Resolve) -> list[str]:
    if is_address(host):
        return [host]
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(host, port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # The system's resolver knows no deadline; one that hangs is left to its own, which ends it some time.
    Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.remaining(host))
    except Empty:
        raise RegistryTimeoutError(f"{host}: its name is not resolved in time") from None
    if isinstance(answer, Exception) or not answer:
        raise RegistryUnavailableError(f"{host}: its name has no address")
    return answer


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
