"""What egress decides: may this connection be made. Pure: resolves, opens and records nothing.

A *door* is the one way out of a sandbox: a proxy that takes `CONNECT host:port` and nothing else. Each
attempt gets one `Verdict`. What cannot be read strictly is refused, never repaired.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.core.policy.egress import HostRule
from gateway.core.policy.public_hosts import Address, Network, plain_address, reachable
from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import canonical_host

__all__ = [
    "Destination",
    "EgressCode",
    "Verdict",
    "judge",
    "judge_addresses",
    "past_the_proxy",
    "read_connect",
    "refuse",
]

MAX_HEAD = 8192
"""Longest request in bytes, up to and with its empty line."""
_REQUEST = re.compile(rb"([A-Z]{1,16}) (\S{1,1024}) HTTP/1\.[01]")
_AUTHORITY = re.compile(r"([^:\s@/]{1,253}):([0-9]{1,5})")
_SHOWN = 200


class EgressCode(StrEnum):
    """Why an attempt came out as it did."""

    GRANTED = "granted"
    BAD_REQUEST = "bad_request"
    BAD_HOST = "bad_host"
    NOT_GRANTED = "not_granted"
    UNRESOLVED = "unresolved"
    ADDRESS_REFUSED = "address_refused"
    BUDGET_SPENT = "budget_spent"
    TOO_MANY = "too_many_connections"
    UNREACHABLE = "unreachable"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    PAST_THE_PROXY = "past_the_proxy"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a connection is to go: a canonical host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `host:port`."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One decision: `rule` is the pattern that let it through, `addresses` what may be connected to.

    `asked` is what was asked for, as far as it can be shown. `protocol` is what was tried: `connect` is the
    proxy's, and `tcp`, `udp` and `dns` went past it, `attempts` times.
    """

    allowed: bool
    code: EgressCode
    reason: str
    asked: str
    rule: str | None = None
    destination: Destination | None = None
    addresses: tuple[Address, ...] = ()
    protocol: str | None = "connect"
    attempts: int = 1


def refuse(code: EgressCode, reason: str, asked: str) -> Verdict:
    """Return a refusal; `asked` is cut and made printable."""
    return Verdict(False, code, reason, _shown(asked))


def past_the_proxy(protocol: str, address: str, port: int, name: str, attempts: int) -> Verdict:
    """Return the verdict on what a sandbox tried by itself, which its own kernel refused already.

    `name` is what a DNS query asked for. Without a `protocol` it is `attempts` more, of any kind.
    """
    reason = "a sandbox reaches the network by its proxy alone"
    if not protocol:
        asked = f"{attempts} more past the proxy"
        return Verdict(False, EgressCode.PAST_THE_PROXY, reason, asked, protocol=None, attempts=attempts)
    where = ipaddress.ip_address(address)
    protocol, host = ("dns", _shown(name)) if name else (protocol, str(where))
    shown = f"[{host}]" if ":" in host else host
    asked = f"dns {host}" if name else f"{protocol} {shown}:{port}"
    there = Destination(host, port)
    code = EgressCode.PAST_THE_PROXY
    return Verdict(False, code, reason, asked, None, there, (where,), protocol, attempts)


def _shown(text: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text[:_SHOWN])


def read_connect(head: bytes) -> tuple[str, int] | Verdict:
    """Return host and port of a `CONNECT` request's bytes (with the empty line), or the refusal."""
    first, _, rest = head.partition(b"\r\n")
    asked = first.decode("ascii", "replace")
    match = _REQUEST.fullmatch(first)
    if not match:
        return refuse(EgressCode.BAD_REQUEST, "this is a proxy for HTTPS: send CONNECT host:port", asked)
    if match[1] != b"CONNECT":
        reason = "only CONNECT passes: use https, plain http is not proxied"
        return refuse(EgressCode.BAD_REQUEST, reason, asked)
    if any(line[:1] in (b" ", b"\t") or b"\0" in line for line in rest.split(b"\r\n")):
        return refuse(EgressCode.BAD_REQUEST, "the request's headers are malformed", asked)
    if not match[2].isascii():
        return refuse(EgressCode.BAD_HOST, "a host is written in ASCII: use its punycode", asked)
    return _split(match[2].decode("ascii"))


def _split(target: str) -> tuple[str, int] | Verdict:
    match = _AUTHORITY.fullmatch(target)
    if not match or not 1 <= int(match[2]) <= 65_535:
        reason = "an IPv6 address is not reached: name the host" if "[" in target else "write host:port"
        return refuse(EgressCode.BAD_HOST, reason, target)
    return match[1], int(match[2])


def judge(host: str, port: int, rules: Sequence[HostRule]) -> Verdict:
    """Decide on a name and port as they were sent; if allowed, its addresses have to be judged still."""
    asked = f"{host}:{port}"
    canonical = canonical_host(host) if host.isascii() else Unfit("a host is written in ASCII")
    if isinstance(canonical, Unfit):
        return refuse(EgressCode.BAD_HOST, canonical.reason, asked)
    if canonical != host.lower():
        return refuse(EgressCode.BAD_HOST, f"write the host as {canonical!r}", asked)
    if ":" in canonical:
        return refuse(EgressCode.BAD_HOST, "an IPv6 address is not reached: name the host", asked)
    rule = next((rule for rule in rules if rule.allows(canonical, port)), None)
    if rule is None:
        return refuse(EgressCode.NOT_GRANTED, f"{canonical}:{port} is not among the hosts granted", asked)
    reason = f"granted by {rule}"
    there = Destination(canonical, port)
    return Verdict(True, EgressCode.GRANTED, reason, str(there), str(rule), there)


def judge_addresses(allowed: Verdict, found: Sequence[str], networks: Sequence[Network]) -> Verdict:
    """Decide on what a name resolved to: one address that must not be reached refuses the name."""
    addresses: list[Address] = []
    for text in found:
        try:
            address = plain_address(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return refuse(EgressCode.ADDRESS_REFUSED, f"{text!r} is no address", allowed.asked)
        if not reachable(address, networks):
            reason = f"{allowed.asked} is at {address}, which is not on the public network"
            return refuse(EgressCode.ADDRESS_REFUSED, reason, allowed.asked)
        if address not in addresses:
            addresses.append(address)
    if not addresses:
        return refuse(EgressCode.UNRESOLVED, f"{allowed.asked} has no address", allowed.asked)
    reason, there = allowed.reason, allowed.destination
    return Verdict(True, allowed.code, reason, allowed.asked, allowed.rule, there, tuple(addresses))
