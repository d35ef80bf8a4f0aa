"""JSON-RPC as stock environment clients speak it on `/mcp`, and in `mcp` frames. Decides nothing.

    openenv/session/create  {}                            -> {session_id}
    openenv/session/close   {session_id}                  -> {session_id, closed[, closing]}
    tools/list              {session_id}                  -> {tools: [MCP definitions]}
    tools/call              {session_id, name, arguments} -> {content, structured_content, data, is_error,
                                                              meta}

A tool call is a step of the session's episode: it counts, is scored and takes the one path. `meta` has
`sandgate/decision`, and `sandgate/step` with `{reward, done, metadata}`. A denial is a result with
`is_error`; a tool that no server has is error -32602. Over a WebSocket the session is the connection's
own and `session_id` may be left out. Real MCP is `gateway.serve.mcp`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.calls import Principal
from gateway.core.episode import CallTool, StepResult
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.observations import ErrorType
from gateway.core.results import DECISION_META_KEY
from gateway.errors import SandgateError, TooManySessions, UnknownSession
from gateway.runtime.episodes import Episodes, EpisodeSession

__all__ = ["INVALID_REQUEST", "PARSE_ERROR", "RpcDialect", "is_dialect", "rpc_failure"]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
_METHOD_NOT_FOUND = -32601
_INVALID_PARAMS = -32602
_SERVER_ERROR = -32000

_STEP_META_KEY = "sandgate/step"
_TOOL_METHODS = ("tools/list", "tools/call")


class RpcFault(SandgateError):
    """A request that is answered with a JSON-RPC error; the session goes on."""

    def __init__(self, code: int, message: str, data: JsonValue = None) -> None:
        self.code, self.data = code, data
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request and who asks; `held` is the connection's own session, over a WebSocket."""

    method: str
    params: JsonObject
    principal: Principal
    held: EpisodeSession | None


_Method: TypeAlias = Callable[[_Request], Awaitable[JsonObject]]


def is_dialect(message: JsonValue) -> bool:
    """Whether a body is of this dialect and not of MCP: by its shape alone."""
    if not isinstance(message, dict):
        return False
    method, params = message.get("method"), message.get("params")
    if isinstance(method, str) and method.startswith("openenv/"):
        return True
    named = isinstance(params, dict) and "session_id" in params
    return not message or (method in _TOOL_METHODS and named)


def rpc_failure(request_id: JsonValue, code: int, message: str, data: JsonValue = None) -> JsonObject:
    """Return a JSON-RPC error response."""
    error: JsonObject = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": request_id, "error": error if data is None else {**error, "data": data}}


class RpcDialect:
    """Answers the dialect for one pack."""

    def __init__(self, episodes: Episodes, pack: str) -> None:
        self._episodes = episodes
        self._pack = pack
        self._methods: dict[str, _Method] = {
            "openenv/session/create": self._create,
            "openenv/session/close": self._close,
            "tools/list": self._list,
            "tools/call": self._call,
        }

    async def answer(
        self, message: JsonValue, principal: Principal, held: EpisodeSession | None = None
    ) -> JsonObject:
        """Return the JSON-RPC response to one message; a fault of ours passes through."""
        request_id = _id_of(message)
        try:
            request = _parsed(message, principal, held)
            method = self._methods.get(request.method)
            if method is None:
                raise RpcFault(_METHOD_NOT_FOUND, f"Method not found: {request.method[:64]}")
            return {"jsonrpc": "2.0", "id": request_id, "result": await method(request)}
        except RpcFault as fault:
            return rpc_failure(request_id, fault.code, str(fault), fault.data)
        except TooManySessions as full:
            return rpc_failure(request_id, _SERVER_ERROR, str(full), {"retry_after": full.retry_after})
        except SandgateError as error:
            code = _INVALID_PARAMS if isinstance(error, UnknownSession) else _SERVER_ERROR
            return rpc_failure(request_id, code, str(error))

    # -- sessions

    async def _create(self, request: _Request) -> JsonObject:
        if request.held is not None:
            return {"session_id": request.held.id}
        return {"session_id": self._episodes.open(self._pack, request.principal, kept=True).id}

    async def _close(self, request: _Request) -> JsonObject:
        session_id = _text(request.params, "session_id")
        if request.held is not None and session_id == request.held.id:
            raise RpcFault(INVALID_REQUEST, "this session is the connection's own: close the connection")
        session = self._episodes.find(self._pack, session_id, request.principal)
        if session.attached:
            session.closing = True
            return {"session_id": session_id, "closed": False, "closing": True}
        await session.aclose()
        return {"session_id": session_id, "closed": True}

    def _session(self, request: _Request) -> EpisodeSession:
        if request.held is not None:
            return request.held
        session_id = _text(request.params, "session_id")
        return self._episodes.find(self._pack, session_id, request.principal)

    # -- tools

    async def _list(self, request: _Request) -> JsonObject:
        return {"tools": list[JsonValue](await self._session(request).tools())}

    async def _call(self, request: _Request) -> JsonObject:
        name, arguments = _text(request.params, "name"), request.params.get("arguments")
        if arguments is not None and not isinstance(arguments, dict):
            raise RpcFault(_INVALID_PARAMS, "Invalid params - 'arguments' is an object")
        return _call_result(await self._session(request).step(CallTool(name, arguments or {})))


def _id_of(message: JsonValue) -> JsonValue:
    told = message.get("id") if isinstance(message, dict) else None
    return told if isinstance(told, str | int) and not isinstance(told, bool) else None


def _parsed(message: JsonValue, principal: Principal, held: EpisodeSession | None) -> _Request:
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise RpcFault(INVALID_REQUEST, "Invalid request: an object with jsonrpc '2.0', method, params, id")
    method, params = message.get("method"), message.get("params")
    if not isinstance(method, str):
        raise RpcFault(INVALID_REQUEST, "Invalid request: 'method' is a string")
    if params is not None and not isinstance(params, dict):
        raise RpcFault(_INVALID_PARAMS, "Params must be an object")
    return _Request(method, params or {}, principal, held)


def _text(params: JsonObject, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise RpcFault(_INVALID_PARAMS, f"Invalid params - {name!r} is required, a string")
    return value


def _call_result(step: StepResult) -> JsonObject:
    """Return a step's observation as the result of a call; what brought no result is an error result."""
    result, error = step.observation.get("result"), step.observation.get("error")
    policy = step.metadata.get("policy")
    decided: JsonObject = {} if policy is None else {DECISION_META_KEY: policy}
    if not isinstance(result, dict):
        result = _error_result(error if isinstance(error, dict) else {}, decided)
    meta = result.get("meta")
    told: JsonObject = {"reward": step.reward, "done": step.done, "metadata": step.metadata}
    kept = meta if isinstance(meta, dict) else {}
    return {**result, "meta": {**kept, **decided, _STEP_META_KEY: told}}


def _error_result(error: JsonObject, decided: JsonObject) -> JsonObject:
    message = str(error.get("message"))
    if error.get("error_type") == ErrorType.TOOL_NOT_FOUND:
        raise RpcFault(_INVALID_PARAMS, message, decided)
    content: JsonValue = [{"type": "text", "text": message}]
    return {"content": content, "structured_content": None, "data": message, "is_error": True}
