"""The HTTP routes of the environment contract for one pack. Translates, decides nothing.

    POST /reset  {seed?, episode_id?, task?, split?, index?, session_id?}   -> STEP, header X-Session-ID
    POST /step   {action, timeout_s?, request_id?, session_id?}             -> STEP
    GET  /state  ?session_id=                                               -> {episode_id, step_count, ...}
    WS   /ws, /mcp  ?session_id=                                            frames, JSON-RPC
    /batch/*, the Task API: `gateway.serve.openenv.batch`, `gateway.serve.openenv.tasks`

Stateful where the caller wants it: `/reset` answers with a session id, in the header and in the
metadata, and `/step` and `/state` continue that episode; without one a step is a one-shot on a
fresh episode, as the contract says.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from gateway.core.episode import StepResult
from gateway.core.json_types import JsonObject
from gateway.core.strict_json import JsonLimits
from gateway.runtime.episodes import Episodes
from gateway.serve.gate import GateLimits
from gateway.serve.identity import principal_of
from gateway.serve.openenv.batch import batch_routes
from gateway.serve.openenv.bodies import body_of, gated, is_gone, json_response, told
from gateway.serve.openenv.rpc_routes import RpcSocket
from gateway.serve.openenv.tasks import task_routes
from gateway.serve.openenv.wire import ErrorCode, WireError, parse_reset, parse_step_body
from gateway.serve.openenv.ws import EnvSocket

__all__ = ["SESSION_HEADER", "env_routes"]

SESSION_HEADER = "X-Session-ID"


def env_routes(
    episodes: Episodes, *, pack: str, prefix: str, limits: GateLimits | None = None
) -> list[BaseRoute]:
    """Return the routes of one pack below `prefix` (no slash at its end; empty at the root).

    They expect a principal in the scope and a role check around them.
    """
    limits = limits or GateLimits()
    http = _EnvHttp(episodes, pack)
    frames = JsonLimits(max_bytes=limits.max_body)
    return [
        Route(f"{prefix}/reset", told(http.reset), methods=["POST"], middleware=gated(limits)),
        Route(f"{prefix}/step", told(http.step), methods=["POST"], middleware=gated(limits)),
        Route(f"{prefix}/state", told(http.state)),
        WebSocketRoute(f"{prefix}/ws", EnvSocket(episodes, pack, frames).serve),
        WebSocketRoute(f"{prefix}/mcp", RpcSocket(episodes, pack, frames).serve),
        *batch_routes(episodes, pack, prefix, limits),
        *task_routes(episodes.gateway, (pack,), prefix, limits),
    ]


class _EnvHttp:
    """The handlers of one pack."""

    def __init__(self, episodes: Episodes, pack: str) -> None:
        self._episodes = episodes
        self._pack = pack

    async def reset(self, request: Request) -> Response:
        body = body_of(request)
        wanted, asked = parse_reset(body), _session_id(request, body)
        principal = principal_of(request.scope)
        result = await self._episodes.reset(self._pack, principal, asked, wanted)
        session_id = str(result.metadata["session_id"])
        if asked is None and await is_gone(request):
            # Nobody has heard its id: it would hold its place until it was idle too long.
            await self._episodes.find(self._pack, session_id, principal).aclose()
        return _result(result, session_id)

    async def step(self, request: Request) -> Response:
        body = body_of(request)
        step = parse_step_body(body)
        session_id = _session_id(request, body)
        principal = principal_of(request.scope)
        if session_id is not None:
            session = self._episodes.find(self._pack, session_id, principal)
            return _result(await session.step(step.action, step.seconds), session_id)
        async with self._episodes.held(self._pack, principal, None) as session:
            return _result(await session.step(step.action, step.seconds), None)

    async def state(self, request: Request) -> Response:
        session_id = _session_id(request, dict(request.query_params))
        principal = principal_of(request.scope)
        if session_id is not None:
            return json_response(await self._episodes.find(self._pack, session_id, principal).state())
        async with self._episodes.held(self._pack, principal, None) as session:
            return json_response(await session.state())


def _session_id(request: Request, fields: JsonObject) -> str | None:
    named, written = request.headers.get(SESSION_HEADER), fields.get("session_id")
    if written is not None and not isinstance(written, str):
        raise WireError.at("session_id", "'session_id' is a string", "string_type")
    if named is not None and written is not None and named != written:
        raise WireError(ErrorCode.VALIDATION_ERROR, f"{SESSION_HEADER} and 'session_id' name two sessions")
    return named if named is not None else written


def _result(result: StepResult, session_id: str | None) -> Response:
    return json_response(result.wire(), headers={} if session_id is None else {SESSION_HEADER: session_id})
