"""Whether a host is on the public network, as far as its name or address tells. Resolves nothing.

A public name may still resolve to a private address: that is for the sandbox's egress to refuse.
"""

from __future__ import annotations

import ipaddress
from typing import Final

__all__ = ["is_public"]

_LOCAL_SUFFIXES: Final = (
    *(".localhost", ".local", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".localdomain"),
    *(".home.arpa", ".test", ".invalid", ".onion", ".alt"),
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(host: str) -> bool:
    """Whether a canonical host is a public address, or a name with several labels that is not kept local."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." in host and not host.endswith(_LOCAL_SUFFIXES)
    return all(map(_is_global, _meant(address)))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _meant(address: _Address) -> list[_Address]:
    """Return the address and those that tunnels and translators take it for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner: list[_Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    # A tunnelled address says where its packets go, and that is all that counts.
    return [found for found in inner if found is not None] or [address]


def _is_global(address: _Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved
