"""Which worker a request belongs to: the one that has its session. Decides nothing else.

    Mcp-Session-Id                 the worker that minted it
    Sandgate-Session, or none      the worker that took the first request for that name of that principal
    X-Session-ID, session_id       the worker that opened the episode session
    snapshot                       the worker that has the snapshot, where no session is named

An id that nobody holds is answered here, as it would be by a gateway alone: nobody knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core import strict_json
from gateway.core.calls import Role
from gateway.core.json_types import JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError
from gateway.errors import ClientError
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import named_session_id
from gateway.serve.gate import GateLimits
from gateway.serve.identity import Identity
from gateway.serve.mcp.envelope import names_modern_era
from gateway.serve.mcp.sessions import session_name
from gateway.serve.oauth.tokens import NotKnown
from gateway.serve.openenv.rpc import is_dialect
from gateway.serve.replies import client_error, problem
from gateway.serve.security import BLANKS
from gateway.serve.workers.bodies import whole_body
from gateway.serve.workers.moving import movable_of
from gateway.serve.workers.names import HeldNames

__all__ = ["Routed"]

_READ = frozenset(
    {b"authorization", b"mcp-protocol-version", b"mcp-session-id", b"sandgate-session", b"x-session-id"}
)
_NAMING = ("session_id", "snapshot")
_ROUTES = ("reset", "step", "state")


class Routed:
    """ASGI application of worker `own`: answers with `app` what belongs here, moves what does not."""

    def __init__(
        self,
        app: ASGIApp,
        gateway: Gateway,
        identity: Identity,
        *,
        own: int,
        limits: GateLimits,
        trains: bool,
    ) -> None:
        self.names = HeldNames(gateway, own)
        self._app = app
        self._places = gateway.places
        self._identity = identity
        self._own = own
        self._limits = limits
        self._trains = trains
        self._paths = _paths(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        kind = self._paths.get(scope["path"]) if scope["type"] == "http" else None
        headers = _read(scope) if kind is not None else {}
        if kind == "mcp" and names_modern_era(headers.get(b"mcp-protocol-version")):
            await self._named(headers, scope, receive, send)
        elif kind == "mcp" and (minted := headers.get(b"mcp-session-id")) is not None:
            await self._held_by(self._places.minted.holder(minted), None, scope, receive, send)
        elif kind == "env" or (kind == "mcp" and self._trains and scope["method"] == "POST"):
            await self._episode(headers, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def socket_holder(self, scope: Scope) -> int | None:
        """Return the other worker that a WebSocket belongs to, `None` where it is for here."""
        holder = self._holder(*(_query(scope, name) for name in _NAMING))
        return None if holder == self._own else holder

    async def _named(self, headers: Mapping[bytes, str], scope: Scope, receive: Receive, send: Send) -> None:
        principal = await self._identity.establish(headers.get(b"authorization"))
        if isinstance(principal, NotKnown) or Role.AGENT not in principal.roles:
            await self._app(scope, receive, send)  # where it is refused
            return
        try:
            name = session_name(headers.get(b"sandgate-session"))
        except ClientError:
            await self._app(scope, receive, send)
            return
        try:
            with self.names.answering(named_session_id(principal, name)) as holder:
                await self._held_by(holder, None, scope, receive, send)
        except ClientError as full:
            await client_error(full)(scope, receive, send)

    async def _episode(
        self, headers: Mapping[bytes, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        session_id, snapshot = headers.get(b"x-session-id") or _query(scope, "session_id"), None
        body: bytes | None = None
        if session_id is None and scope["method"] == "POST":
            body, receive = await whole_body(scope, receive, self._limits)
            session_id, snapshot = (None, None) if body is None else self._named_in(body)
        await self._held_by(self._holder(session_id, snapshot), body, scope, receive, send)

    def _holder(self, session_id: str | None, snapshot: str | None) -> int | None:
        if session_id is not None:
            return self._places.episodes.holder(session_id)
        return None if snapshot is None else self._places.snapshots.holder(snapshot)

    async def _held_by(
        self, holder: int | None, body: bytes | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if holder is None or holder == self._own:
            await self._app(scope, receive, send)
            return
        if not movable_of(scope).move(holder, body):
            message = "the worker that has this session cannot be reached by this connection: try again"
            response = problem(503, "unavailable", message, {"Retry-After": "1", "Connection": "close"})
            await response(scope, receive, send)

    def _named_in(self, body: bytes) -> tuple[str | None, str | None]:
        """Return the episode session, and the snapshot, that a body names."""
        try:
            message = strict_json.loads(body, JsonLimits(max_bytes=self._limits.max_body))
        except StrictJsonError:
            return None, None
        if not isinstance(message, dict):
            return None, None
        params = message.get("params")
        inner = params if is_dialect(message) and isinstance(params, dict) else message
        session_id, snapshot = (_text(inner.get(name)) for name in _NAMING)
        return session_id, snapshot


def _paths(gateway: Gateway) -> dict[str, Literal["mcp", "env"]]:
    prefixes = [f"/packs/{pack}" for pack in gateway.packs]
    paths: dict[str, Literal["mcp", "env"]] = {f"{prefix}/mcp": "mcp" for prefix in ["", *prefixes]}
    for prefix in prefixes if len(prefixes) > 1 else ["", *prefixes]:
        paths |= {f"{prefix}/{route}": "env" for route in _ROUTES}
    return paths


def _read(scope: Scope) -> dict[bytes, str]:
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _READ and name not in headers:
            headers[name] = value.strip(BLANKS).decode("latin-1")
    return headers


def _query(scope: Scope, name: str) -> str | None:
    values = parse_qs(scope["query_string"].decode("latin-1")).get(name)
    return values[0] if values else None


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
