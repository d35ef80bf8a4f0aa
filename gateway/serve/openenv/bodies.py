"""What the HTTP handlers of the contract share: the strict gate, bodies, answers, told faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps
from gateway.errors import ClientError, LedgerError, SandgateError
from gateway.serve.gate import GateLimits, StrictGate, message_of
from gateway.serve.openenv.wire import ErrorCode, WireError
from gateway.serve.replies import client_error, problem

__all__ = ["Handler", "body_of", "gated", "is_gone", "json_response", "told"]

_UNTAKEN = {400: "invalid_json", 408: "body_too_slow", 413: "body_too_large", 415: "unsupported_media_type"}
"""What a body that the gate does not take is called, by status."""

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def gated(limits: GateLimits) -> list[Middleware]:
    """Return what stands before a handler that takes a JSON body, or none at all."""
    return [Middleware(_JsonOrNothing, limits=limits)]


def told(handler: Handler) -> Handler:
    """Return the handler with every fault answered in a readable form.

    `detail` says it once more, for clients that read faults as the stock server writes them.
    """

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except WireError as error:
            faults = error.errors
            return problem(422, "validation_error", str(error), errors=faults, detail=faults)
        except ClientError as error:
            return client_error(error, detail=str(error))
        except LedgerError as error:
            return problem(503, "audit_unavailable", str(error), detail=str(error))
        except SandgateError as error:
            return problem(503, "environment_unavailable", str(error), detail=str(error))

    return answer


def body_of(request: Request) -> JsonObject:
    """Return the body of a gated request, `{}` where there is none; raises `WireError`."""
    if _has_no_body(request.headers):
        return {}
    value = message_of(request.scope)
    if not isinstance(value, dict):
        raise WireError(ErrorCode.VALIDATION_ERROR, "the body is a JSON object")
    return value


async def is_gone(request: Request) -> bool:
    """Whether nobody waits for the answer any longer."""
    try:
        await request.body()  # what comes after it is the end of the connection
    except ClientDisconnect:
        return True
    return await request.is_disconnected()


def json_response(value: JsonValue, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer; integers keep every digit."""
    return Response(dumps(value), status, headers, media_type="application/json")


def _untaken(status: int, message: str, headers: dict[str, str]) -> Response:
    return problem(status, _UNTAKEN[status], message, headers, detail=message)


def _has_no_body(headers: Headers) -> bool:
    return "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"


class _JsonOrNothing:
    """ASGI middleware: the strict gate, for callers who may also send no body at all."""

    def __init__(self, app: ASGIApp, limits: GateLimits) -> None:
        self._app = app
        self._gate = StrictGate(app, limits, _untaken)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        behind = self._app if _has_no_body(Headers(scope=scope)) else self._gate
        await behind(scope, receive, send)
