"""Which hosts and ports egress may reach: patterns, and what needs and grants have in common.

A pattern is `host[:port]`: a name, `*.name` (one or more labels before it, never the name itself), `*`
(any name, no address) or a dotted quad; the port is 443 where none is written. Resolves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import canonical_host

__all__ = ["DEFAULT_PORT", "HostRule", "common", "parse_host_rule"]

DEFAULT_PORT = 443
_MOST_DIGITS, _MOST_PORT = 5, 65_535


@dataclass(frozen=True, slots=True)
class HostRule:
    """One pattern: `host` is a canonical name or dotted quad, what follows `*.`, or empty for any name."""

    host: str
    port: int
    wild: bool

    def __str__(self) -> str:
        """Return the pattern as it could be written, with its port."""
        name = f"*.{self.host}" if self.host else "*"
        return f"{name if self.wild else self.host}:{self.port}"

    def allows(self, host: str, port: int) -> bool:
        """Whether the pattern names the canonical `host` at `port`."""
        return port == self.port and self._names(host)

    def _names(self, host: str) -> bool:
        if not self.wild:
            return host == self.host
        if _is_address(host):
            return False
        return not self.host or (host.endswith("." + self.host) and len(host) > len(self.host) + 1)

    def covers(self, other: HostRule) -> bool:
        """Whether everything that `other` names is named here too."""
        if self.port != other.port:
            return False
        if not other.wild:
            return self._names(other.host)
        return self.wild and (self.host in ("", other.host) or other.host.endswith("." + self.host))


def parse_host_rule(text: str) -> HostRule:
    """Read a pattern; raises `ValueError` that says what is wrong with it."""
    host, port = _split(text)
    if host == "*":
        return HostRule("", port, wild=True)
    wild = host.startswith("*.")
    name = host.removeprefix("*.")
    if "*" in name:
        raise ValueError(f"{text!r}: a pattern matches whole labels: write name, *.name or *")
    if name.startswith("[") or ":" in name:
        raise ValueError(f"{text!r}: IPv6 addresses are not reached: name the host")
    canonical = canonical_host(name)
    if isinstance(canonical, Unfit):
        raise ValueError(f"{text!r} is no host[:port]: {canonical.reason}")
    if wild and _is_address(canonical):
        raise ValueError(f"{text!r}: an address has no labels before it")
    return HostRule(canonical, port, wild)


def _split(text: str) -> tuple[str, int]:
    host, colon, digits = text.rpartition(":")
    if not colon or "[" in digits or ":" in host:
        return text, DEFAULT_PORT
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _MOST_DIGITS:
        raise ValueError(f"{text!r}: the port is a number from 1 to {_MOST_PORT}")
    port = int(digits)
    if not 1 <= port <= _MOST_PORT:
        raise ValueError(f"{text!r}: the port is a number from 1 to {_MOST_PORT}")
    return host, port


def _is_address(host: str) -> bool:
    """Whether a canonical host is an address: no name ends in a label of digits."""
    return host[host.rfind(".") + 1 :].isdigit()


def common(needs: Iterable[str], grants: Iterable[str]) -> tuple[HostRule, ...]:
    """Return what both name: of two patterns that overlap, the narrower one."""
    granted = [parse_host_rule(text) for text in grants]
    found: dict[HostRule, None] = {}
    for need in map(parse_host_rule, needs):
        for grant in granted:
            if grant.covers(need):
                found[need] = None
            elif need.covers(grant):
                found[grant] = None
    return tuple(found)
