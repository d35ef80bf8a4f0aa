"""URLs and hosts as rules judge them and servers receive them: one spelling for one place.

Resolves no name and opens nothing. Spellings that clients read differently (user info, backslashes,
numeric hosts other than dotted quads) are refused instead of repaired.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from gateway.core.policy.unfit import Unfit

__all__ = ["MAX_URL", "Url", "canonical_host", "canonical_url", "split_url"]

MAX_URL = 8192
"""Longest URL in characters."""

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_MAX_HOST = 253
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([/?#].*)?", re.DOTALL)
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?=[/?#]|\Z)", re.IGNORECASE)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")
_QUAD = re.compile(r"(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})")


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a canonical URL; `port` is the scheme's own where none is written, or `None`."""

    scheme: str
    host: str
    port: int | None


def canonical_url(value: str) -> str | Unfit:
    """Return the URL with lower-case scheme, punycode host and no default port; or why it is refused.

    A web URL without a path has the path `/`.
    """
    parsed = _parse(value)
    if isinstance(parsed, Unfit):
        return parsed
    url, rest = parsed
    port = "" if url.port in (None, _DEFAULT_PORTS.get(url.scheme)) else f":{url.port}"
    root = "" if rest.startswith("/") or url.scheme not in _DEFAULT_PORTS else "/"
    return f"{url.scheme}://{_bracketed(url.host)}{port}{root}{rest}"


def split_url(value: str) -> Url | Unfit:
    """Return the parts rules judge."""
    parsed = _parse(value)
    return parsed if isinstance(parsed, Unfit) else parsed[0]


def canonical_host(value: str) -> str | Unfit:
    """Return a host name in lower-case punycode, or an address in its one spelling; or why it is refused."""
    if len(value) > _MAX_HOST + 1:
        return Unfit(f"a host name is longer than {_MAX_HOST} characters")
    if value.startswith("[") and value.endswith("]"):
        return _address6(value[1:-1])
    if ":" in value:
        return _address6(value)
    name = _punycode(value)
    if isinstance(name, Unfit):
        return name
    labels = name.split(".")
    if len(name) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        return Unfit("a host name has an empty, overlong or malformed label")
    if _NUMERIC.fullmatch(labels[-1]):
        return _address4(name)
    return name


def _parse(value: str) -> tuple[Url, str] | Unfit:
    if len(value) > MAX_URL:
        return Unfit(f"a URL is longer than {MAX_URL} characters")
    if _UNSAFE.search(value):
        return Unfit("a URL holds a space, a control character or a backslash")
    match = _URL.fullmatch(value)
    if not match:
        return Unfit("a URL is written scheme://host/path")
    scheme, authority, rest = match.group(1).lower(), match.group(2), match.group(3) or ""
    if "@" in authority:
        return Unfit("a URL holds user info")
    if _DOTS.search(re.split("[?#]", rest, maxsplit=1)[0]):
        return Unfit("a URL's path holds '.' or '..' segments, which clients resolve")
    name, port = _split_port(authority)
    host = canonical_host(name)
    if isinstance(host, Unfit):
        return host
    if isinstance(port, Unfit):
        return port
    return Url(scheme, host, port if port is not None else _DEFAULT_PORTS.get(scheme)), rest


def _split_port(authority: str) -> tuple[str, int | Unfit | None]:
    name, colon, digits = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority, None
    if not digits:
        return name, None
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 5 or int(digits) > 65535:
        return name, Unfit("a URL's port is not a number up to 65535")
    return name, int(digits)


def _punycode(value: str) -> str | Unfit:
    try:
        # The codec knows dots that only look like dots; what comes out is plain ASCII.
        name = value.lower() if value.isascii() else value.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return Unfit("a host name has no punycode form")
    return name.removesuffix(".")


def _address4(name: str) -> str | Unfit:
    if not _QUAD.fullmatch(name):
        return Unfit("a numeric host is not a dotted quad")
    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError:
        return Unfit("a numeric host is not a dotted quad")


def _address6(text: str) -> str | Unfit:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return Unfit("a host is a name, a dotted quad or an IPv6 address, without a port")
    if address.scope_id is not None:
        return Unfit("an IPv6 address names a zone")
    # Clients connect a mapped address as IPv4: judge it as that.
    return str(address.ipv4_mapped or address)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
