"""The outermost layer: which requests are looked at, whoever sends them.

A web page can make its visitor's browser talk to this machine (DNS rebinding, cross-site requests,
cross-site WebSockets). So every request has to name a host this gateway answers for and, if it
comes from a page, a page of that host. Headers that decide something appear at most once.
Decides nothing about who asks (`identity`) and nothing about calls.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.serve.replies import problem, refuse

__all__ = ["BLANKS", "SINGLE", "HttpBorder", "HttpSecurity", "is_loopback"]

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SINGLE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"host",
        b"mcp-session-id",
        b"origin",
        b"sandgate-session",
        b"x-session-id",
    }
)
"""Headers that decide something: each appears at most once."""
BLANKS = b" \t"
"""What may stand around a header's value and is no part of it."""


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address to bind to) is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class HttpSecurity:
    """Hosts and origins that are answered. `hosts` is `None` where any host name may lead here."""

    hosts: frozenset[str] | None
    origins: frozenset[str] = frozenset()

    @staticmethod
    def bound_to(host: str, origins: Iterable[str] = ()) -> HttpSecurity:
        """Return the rules for a gateway bound to `host`; `origins` are further pages to answer."""
        allowed = frozenset(origin.lower().rstrip("/") for origin in origins)
        if is_loopback(host):
            return HttpSecurity(_LOOPBACK_NAMES | {host.strip("[]").lower()}, allowed)
        return HttpSecurity(None, allowed)

    @lru_cache(maxsize=1024)  # noqa: B019  few are made, and they live as long as the program
    def refusal(self, host: str | None, origin: str | None) -> str | None:
        """Return why a request with these headers is refused, or `None`."""
        name = _host_name(host or "")
        if name is None or (self.hosts is not None and name not in self.hosts):
            return "the Host header does not name this gateway"
        if origin is None or origin.lower() in self.origins or self._own_page(origin, host or ""):
            return None
        return "requests from pages of another origin are not answered"

    def _own_page(self, origin: str, host: str) -> bool:
        try:
            said = origin.lower()
            page = urlsplit(said)
            # An origin is scheme, name and port, and nothing around them.
            if page.scheme not in {"http", "https"} or said != f"{page.scheme}://{page.netloc}":
                return False
            if "@" in said:
                return False
            if self.hosts is None:
                return page.netloc == host.lower()
            return page.hostname in self.hosts
        except ValueError:
            return False


def _host_name(host: str) -> str | None:
    """Return the name or address in a Host header without its port, `None` if there is none."""
    try:
        parts = urlsplit(f"//{host}")
        proper = parts.netloc == host and "@" not in host and (parts.port is None or parts.port >= 0)
        return parts.hostname if proper else None
    except ValueError:
        return None


class HttpBorder:
    """ASGI middleware: trims and checks headers, refuses foreign hosts and origins with 403."""

    def __init__(self, app: ASGIApp, security: HttpSecurity) -> None:
        self._app = app
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        # The HTTP parser leaves trailing blanks on values, where comparisons would trip over them.
        headers = [(name, value.strip(BLANKS)) for name, value in scope["headers"]]
        scope = {**scope, "headers": headers}
        if twice := _repeated(headers):
            response = problem(400, "bad_request", f"the header {twice} appears more than once")
            await refuse(response, scope, receive, send)
            return
        read = Headers(scope=scope)
        reason = self._security.refusal(read.get("host"), read.get("origin"))
        if reason is not None:
            await refuse(problem(403, "forbidden", reason), scope, receive, send)
            return
        await self._app(scope, receive, send)


def _repeated(headers: list[tuple[bytes, bytes]]) -> str | None:
    counts = Counter(name for name, _ in headers if name in SINGLE)
    return next((name.decode() for name, count in counts.items() if count > 1), None)
