"""The HTTP routes of the environment contract for one pack. Translates, decides nothing.

Stateful where the caller wants it: `/reset` answers with a session id, in the header and in the
metadata, and `/step` and `/state` continue that episode; without one a step is a one-shot on a
fresh episode, as the contract says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.episode import StepResult
from gateway.core.json_types import JsonObject
from gateway.core.strict_json import JsonLimits, dumps
from gateway.errors import ClientError, LedgerError, SandgateError
from gateway.runtime.episodes import Episodes
from gateway.serve.gate import GateLimits, StrictGate, message_of
from gateway.serve.identity import principal_of
from gateway.serve.openenv.schemas import schemas
from gateway.serve.openenv.wire import ErrorCode, WireError, parse_reset, parse_step_body
from gateway.serve.openenv.ws import EnvSocket
from gateway.serve.replies import client_error, problem

__all__ = ["SESSION_HEADER", "env_routes"]

SESSION_HEADER = "X-Session-ID"

_Handler = Callable[[Request], Awaitable[Response]]


def env_routes(
    episodes: Episodes, *, pack: str, prefix: str, limits: GateLimits | None = None
) -> list[BaseRoute]:
    """Return the routes of one pack below `prefix` (no slash at its end; empty at the root).

    They expect a principal in the scope and a role check around them.
    """
    limits = limits or GateLimits()
    http = _EnvHttp(episodes, pack)
    socket = EnvSocket(episodes, pack, JsonLimits(max_bytes=limits.max_body))
    gated = [Middleware(_JsonOrNothing, limits=limits)]
    return [
        Route(f"{prefix}/health", http.health),
        Route(f"{prefix}/metadata", http.metadata),
        Route(f"{prefix}/schema", http.schema),
        Route(f"{prefix}/reset", _told(http.reset), methods=["POST"], middleware=gated),
        Route(f"{prefix}/step", _told(http.step), methods=["POST"], middleware=gated),
        Route(f"{prefix}/state", _told(http.state)),
        WebSocketRoute(f"{prefix}/ws", socket.serve),
    ]


class _EnvHttp:
    """The handlers of one pack."""

    def __init__(self, episodes: Episodes, pack: str) -> None:
        self._episodes = episodes
        self._pack = pack

    async def health(self, _: Request) -> Response:
        return _json({"status": "healthy"})

    async def metadata(self, _: Request) -> Response:
        pack = self._episodes.gateway.packs[self._pack].pack
        readme = anyio.Path(pack.folder / "README.md")
        text = await readme.read_text("utf-8") if await readme.is_file() else None
        manifest = pack.manifest
        return _json(
            {
                "name": manifest.name,
                "description": manifest.description,
                "version": manifest.version,
                "readme_content": text,
            }
        )

    async def schema(self, _: Request) -> Response:
        return _json(schemas())

    async def reset(self, request: Request) -> Response:
        body = _body(request)
        wanted = parse_reset(body)
        session_id = _session_id(request, body)
        result = await self._episodes.reset(self._pack, principal_of(request.scope), session_id, wanted)
        return _result(result, str(result.metadata["session_id"]))

    async def step(self, request: Request) -> Response:
        body = _body(request)
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
            return _json(await self._episodes.find(self._pack, session_id, principal).state())
        async with self._episodes.held(self._pack, principal, None) as session:
            return _json(await session.state())


def _told(handler: _Handler) -> _Handler:
    """Return the handler with every fault answered in a readable form."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except WireError as error:
            detail: JsonObject = {"error": "validation_error", "message": str(error), "errors": error.errors}
            return _json(detail, 422)
        except ClientError as error:
            return client_error(error)
        except LedgerError as error:
            return problem(503, "audit_unavailable", str(error))
        except SandgateError as error:
            return problem(503, "environment_unavailable", str(error))

    return answer


def _body(request: Request) -> JsonObject:
    if _has_no_body(request.headers):
        return {}
    value = message_of(request.scope)
    if not isinstance(value, dict):
        raise WireError(ErrorCode.VALIDATION_ERROR, "the body is a JSON object")
    return value


def _session_id(request: Request, fields: JsonObject) -> str | None:
    named, written = request.headers.get(SESSION_HEADER), fields.get("session_id")
    if written is not None and not isinstance(written, str):
        raise WireError(ErrorCode.VALIDATION_ERROR, "'session_id' is a string")
    if named is not None and written is not None and named != written:
        raise WireError(ErrorCode.VALIDATION_ERROR, f"{SESSION_HEADER} and 'session_id' name two sessions")
    return named if named is not None else written


def _result(result: StepResult, session_id: str | None) -> Response:
    return _json(result.wire(), headers={} if session_id is None else {SESSION_HEADER: session_id})


def _json(value: JsonObject, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dumps(value), status, headers, media_type="application/json")


def _has_no_body(headers: Headers) -> bool:
    return "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"


class _JsonOrNothing:
    """ASGI middleware: the strict gate, for callers who may also send no body at all."""

    def __init__(self, app: ASGIApp, limits: GateLimits) -> None:
        self._app = app
        self._gate = StrictGate(app, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        behind = self._app if _has_no_body(Headers(scope=scope)) else self._gate
        await behind(scope, receive, send)
