"""Answers that no route makes: refusals of the HTTP layer, readable and in one form.

They are written straight to ASGI, because the layers that refuse stand around the routes. A refused
WebSocket handshake is answered like a request where the server can do that, else closed.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.core.json_types import JsonValue
from gateway.errors import AlreadyAnswered, ClientError, NotApprover, UnknownApproval

__all__ = ["client_error", "problem", "refuse", "retry_headers"]

_WORDS: Mapping[type[ClientError], str] = {
    UnknownApproval: "unknown_approval",
    NotApprover: "forbidden",
    AlreadyAnswered: "already_answered",
}
_STATUS_WORDS = {400: "bad_request", 404: "unknown_session", 503: "unavailable"}
_WEBSOCKET_DENIAL = "websocket.http.response"
_POLICY_VIOLATION = 1008


def problem(
    status: int, error: str, message: str, headers: Mapping[str, str] | None = None, **more: JsonValue
) -> Response:
    """Return `{"error": word, "message": sentence}`, and `more`, with `status`."""
    return JSONResponse({"error": error, "message": message, **more}, status, headers)


def retry_headers(error: ClientError) -> dict[str, str]:
    """Return `Retry-After` for an error that passes with time, else nothing."""
    seconds = getattr(error, "retry_after", None)
    return {} if seconds is None else {"Retry-After": str(seconds)}


def client_error(error: ClientError, **more: JsonValue) -> Response:
    """Return the plain HTTP form of a caller's fault or of a limit."""
    word = error.word or _WORDS.get(type(error), _STATUS_WORDS.get(error.status, "refused"))
    return problem(error.status, word, str(error), retry_headers(error), **more)


async def refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request or a WebSocket handshake with `response` instead of serving it."""
    if scope["type"] == "websocket" and _WEBSOCKET_DENIAL not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
        return
    await response(scope, receive, send)
