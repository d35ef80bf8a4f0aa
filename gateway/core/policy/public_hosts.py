"""Whether a host or an address is on the public network. Resolves nothing.

A public name may still resolve to a private address: that is for egress to refuse, which asks
`is_public_address` about each address that it would connect to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, TypeAlias

__all__ = ["Address", "Network", "is_public", "is_public_address", "plain_address", "reachable"]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOCAL_SUFFIXES: Final = (
    *(".localhost", ".local", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".localdomain"),
    *(".home.arpa", ".test", ".invalid", ".onion", ".alt"),
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: Final = tuple(
    # What the interpreters that this program runs on do not all know of.
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # a public address by number, a metadata service in fact
            "64:ff9b:1::/48",  # translation to IPv4 within a network
            "100::/64",  # discarded
            "2001::/23",  # protocol assignments
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
            "fec0::/10",  # site-local
        ),
    )
)


def is_public(host: str) -> bool:
    """Whether a canonical host is a public address, or a name with several labels that is not kept local."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." in host and not host.endswith(_LOCAL_SUFFIXES)
    return is_public_address(address)


def is_public_address(address: Address) -> bool:
    """Whether the whole internet knows the address, also as tunnels and translators take it."""
    return all(map(_is_global, _meant(address)))


def reachable(address: Address, networks: Sequence[Network]) -> bool:
    """Whether egress may connect: a public address, or one of a network that the operator listed."""
    plain = plain_address(address)
    if plain.is_multicast or plain.is_unspecified:
        return False
    return is_public_address(plain) or any(plain in network for network in networks)


def plain_address(address: Address) -> Address:
    """Return the address that a connection would go to: a mapped one is connected as IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _meant(address: Address) -> list[Address]:
    """Return the address and those that tunnels and translators take it for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    # A tunnelled address says where its packets go, and that is all that counts.
    return [found for found in inner if found is not None] or [address]


def _is_global(address: Address) -> bool:
    if any(address in network for network in _NOT_PUBLIC if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
