"""The strict gate in front of every JSON-RPC endpoint over HTTP: bounded bytes in, our bytes on.

What stands behind it may parse leniently: it only ever sees a body that was read under a limit,
passed `core.strict_json` and was serialised again. Decides nothing about who asks or what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core import strict_json
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError

__all__ = [
    "INVALID_REQUEST",
    "PARSE_ERROR",
    "BodyFault",
    "GateLimits",
    "Replay",
    "StrictGate",
    "media_fault",
    "message_of",
    "part_of",
    "rpc_error",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600

_NOT_JSON = 400
_MESSAGE = "sandgate.message"
_LINGER_BYTES = 256_000_000
_LINGER_SECONDS = 5.0
"""How much is still read and dropped, and for how long: a sender gets to read its 413."""
_REPLACED = frozenset({b"content-length", b"content-encoding", b"transfer-encoding"})


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Most bytes of a body, and the seconds it may take to arrive."""

    max_body: int = 4_000_000
    body_seconds: float = 30.0


class _Unread(Exception):
    """The body is not read to its end, and is answered with `status`."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


BodyFault: TypeAlias = Callable[[int, str, dict[str, str]], Response]
"""Makes the answer to a body that is not taken, of status, reason and headers."""


def rpc_error(
    status: int,
    code: int,
    message: str,
    headers: dict[str, str] | None = None,
    *,
    request_id: int | str | None = None,
    data: JsonObject | None = None,
) -> Response:
    """Return a JSON-RPC error; without a `request_id` it answers no request in particular."""
    error: JsonObject = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return JSONResponse({"jsonrpc": "2.0", "id": request_id, "error": error}, status, headers)


def _rpc_fault(status: int, message: str, headers: dict[str, str]) -> Response:
    if status == _NOT_JSON:
        return rpc_error(status, PARSE_ERROR, f"Parse error: {message}", headers)
    return rpc_error(status, INVALID_REQUEST, message, headers)


def message_of(scope: Scope) -> JsonValue:
    """Return the parsed body of a POST that passed the gate."""
    return scope[_MESSAGE]


class StrictGate:
    """ASGI middleware: POST bodies arrive parsed strictly and re-serialised, or not at all.

    415 for anything but JSON, 413 over the limit, 408 too slow, 400 for what the gate refuses; `fault`
    makes the answers, JSON-RPC errors where nothing else is said.
    """

    def __init__(self, app: ASGIApp, limits: GateLimits, fault: BodyFault = _rpc_fault) -> None:
        self._app = app
        self._limits = limits
        self._fault = fault
        self._json = JsonLimits(max_bytes=limits.max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            message = strict_json.loads(await self._read(Headers(scope=scope), receive), self._json)
        except _Unread as refused:
            response = self._fault(refused.status, str(refused), {"Connection": "close"})
            await self._answer_and_linger(response, receive, send)
        except StrictJsonError as error:
            await self._fault(_NOT_JSON, str(error), {})(scope, receive, send)
        except ClientDisconnect:
            return  # nobody is left to answer
        else:
            body = strict_json.dumps(message)
            await self._app(_passed_on(scope, message, body), Replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        fault = media_fault(headers.get("content-type", ""), headers.get("content-encoding", "identity"))
        if fault is not None:
            raise _Unread(415, fault)
        if int(headers.get("content-length", "0")) > self._limits.max_body:
            raise self._too_large()
        with anyio.move_on_after(self._limits.body_seconds):
            return await self._collect(receive)
        raise _Unread(408, f"the body did not arrive within {self._limits.body_seconds:g} s")

    async def _collect(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._limits.max_body:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> _Unread:
        return _Unread(413, f"the body is larger than {self._limits.max_body} bytes")

    async def _answer_and_linger(self, response: Response, receive: Receive, send: Send) -> None:
        """Answer at once, then read on for a while before closing.

        A connection closed over unread bytes is reset, and the sender would never see the answer.
        """
        status, headers = response.status_code, response.raw_headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
        with anyio.move_on_after(_LINGER_SECONDS):
            await self._drop(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop(self, receive: Receive) -> None:
        left = _LINGER_BYTES
        more = True
        while more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)


@lru_cache(maxsize=256)
def media_fault(content_type: str, content_encoding: str) -> str | None:
    """Return why a body of this type and encoding is not read, or `None`."""
    media, _, parameters = content_type.partition(";")
    if media.strip().lower() != "application/json":
        return "the Content-Type has to be application/json"
    charset = parameters.replace(" ", "").replace('"', "").lower()
    if charset.startswith("charset=") and charset != "charset=utf-8":
        return "JSON is UTF-8"
    return None if content_encoding.lower() == "identity" else "compressed bodies are not taken"


def _passed_on(scope: Scope, message: JsonValue, body: bytes) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name not in _REPLACED]
    headers.append((b"content-length", str(len(body)).encode()))
    return {**scope, "headers": headers, _MESSAGE: message}


def part_of(scope: Scope, message: JsonValue, receive: Receive) -> tuple[Scope, Receive]:
    """Return one message of a gated POST as a POST of its own."""
    body = strict_json.dumps(message)
    return _passed_on(scope, message, body), Replay(body, receive)


class Replay:
    """A `receive` that gives a body once, whole or with more to come, then what the connection gives."""

    def __init__(self, body: bytes, receive: Receive, *, more: bool = False) -> None:
        self._body: bytes | None = body
        self._more = more
        self._receive = receive

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": self._more}
