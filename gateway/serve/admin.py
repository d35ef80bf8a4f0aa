"""`/api/sessions`, `/api/sandboxes`, `/api/calls`: what is going on, for the role `admin`.

A session can be ended as well. Small JSON; of a call what the ledger has of it and no more. Decides nothing
about calls.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio.to_thread
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.calls import Role
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps
from gateway.runtime.gateway import Gateway
from gateway.runtime.ledger_chains import chains_beside
from gateway.runtime.recent_calls import MOST_CALLS, recent_calls
from gateway.runtime.sessions import Session
from gateway.serve.identity import RequireRole, principal_of
from gateway.serve.replies import problem

__all__ = ["admin_routes"]

logger = logging.getLogger(__name__)

_USUAL_CALLS = 50
_FILTERS = ("session", "principal", "pack", "tool", "effect", "outcome")


def admin_routes(gateway: Gateway) -> list[BaseRoute]:
    """Return the routes; each needs the role `admin`."""
    http = _AdminHttp(gateway)
    guarded = [Middleware(RequireRole, Role.ADMIN)]
    return [
        Route("/api/sessions", http.sessions, middleware=guarded),
        Route("/api/sessions/{session:path}", http.end, methods=["DELETE"], middleware=guarded),
        Route("/api/sandboxes", http.sandboxes, middleware=guarded),
        Route("/api/calls", http.calls, middleware=guarded),
    ]


class _AdminHttp:
    """The handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def sessions(self, _: Request) -> Response:
        now = self._gateway.clock.monotonic()
        return _json([_session(session, now) for session in self._gateway.readings.sessions])

    async def sandboxes(self, _: Request) -> Response:
        driver = self._gateway.driver.name
        held = [(session.id, session.pack.name, session.lease) for session in self._gateway.readings.sessions]
        held += [(None, pack, lease) for pack, lease in self._gateway.readings.warm_leases]
        return _json(
            [
                {
                    "id": upstream.sandbox.id,
                    "driver": driver,
                    "pack": pack,
                    "server": upstream.name,
                    "session": session,  # null: kept warm, nobody's yet
                }
                for session, pack, lease in held
                for upstream in lease.running()
            ]
        )

    async def calls(self, request: Request) -> Response:
        folder, asked = self._gateway.readings.audit_folder, request.query_params
        limit = asked.get("limit", str(_USUAL_CALLS))
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MOST_CALLS:
            return problem(400, "bad_request", f"limit is a number from 1 to {MOST_CALLS}")
        if unknown := set(asked) - {"limit", *_FILTERS}:
            return problem(
                400, "bad_request", f"{min(unknown)[:64]!r} is none of limit, {', '.join(_FILTERS)}"
            )
        if folder is None:
            return _json([])
        wanted = {name: asked[name] for name in _FILTERS if name in asked}
        return _json(await anyio.to_thread.run_sync(recent_calls, chains_beside(folder), int(limit), wanted))

    async def end(self, request: Request) -> Response:
        """End every session of that id: a connection has one with each pack that it used."""
        wanted = request.path_params["session"]
        found = [session for session in self._gateway.readings.sessions if session.id == wanted]
        if not found:
            return problem(404, "unknown_session", "no session of that id is open")
        admin = principal_of(request.scope).name
        for session in found:
            logger.warning("session %s of pack %s is ended by %s", session.id, session.pack.name, admin)
            await self._gateway.close_session(session)
        return _json({"ended": len(found)})


def _session(session: Session, now: float) -> JsonObject:
    principal = session.principal
    return {
        "id": session.id,
        "pack": session.pack.name,
        "principal": principal.name,
        "client": principal.client,
        "roles": list[JsonValue](sorted(role.value for role in principal.roles)),
        "episode": session.episode,
        "in_flight": session.in_flight,
        "idle_seconds": 0.0 if session.in_flight else round(max(0.0, now - session.last_used), 1),
        "sandboxes": sum(1 for _ in session.lease.running()),
    }


def _json(value: Sequence[JsonObject] | JsonObject) -> Response:
    document: JsonValue = value if isinstance(value, dict) else list[JsonValue](value)
    return Response(dumps(document), headers={"Cache-Control": "no-store"}, media_type="application/json")
