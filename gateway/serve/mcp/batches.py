"""JSON-RPC batches, as the revision of 2025-03-26 has them and no later one: taken apart, answered together.

Each message goes the way it would go alone, so nothing about it is decided here; they run at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias

import anyio
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from gateway.core.json_types import JsonValue
from gateway.errors import ClientError
from gateway.serve.gate import INVALID_REQUEST, message_of, part_of, rpc_error
from gateway.serve.replies import retry_headers

__all__ = ["batch_of", "serve_batch"]

MOST = 64
"""Messages of the longest batch that is taken."""
_LAST_VERSION = "2025-03-26"
_One: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def batch_of(scope: Scope) -> list[JsonValue] | None:
    """Return the messages of a gated POST that is a batch, `None` for any other request."""
    message = message_of(scope) if scope["method"] == "POST" else None
    return message if isinstance(message, list) else None


async def serve_batch(
    messages: list[JsonValue], one: _One, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer a batch: an array of the answers that its requests get by `one`, or 202 if none is owed any."""
    fault = _fault(messages, Headers(scope=scope))
    if fault is not None:
        await rpc_error(HTTPStatus.BAD_REQUEST, INVALID_REQUEST, fault)(scope, receive, send)
        return
    answers: list[_Answer] = [_Answer() for _ in messages]

    async def run(message: JsonValue, answer: _Answer) -> None:
        part, body = part_of(scope, message, receive)
        # One answer each: what is said before it has no place in an array.
        headers = [(name, value) for name, value in part["headers"] if name != b"accept"]
        part = {**part, "headers": [*headers, (b"accept", b"application/json")]}
        try:
            await one(part, body, answer)
        except ClientError as error:
            response = rpc_error(error.status, error.status, str(error), retry_headers(error))
            await response(part, body, answer)

    async with anyio.create_task_group() as tasks:
        for message, answer in zip(messages, answers, strict=True):
            tasks.start_soon(run, message, answer)
    await _send(answers, send)


def _fault(messages: list[JsonValue], headers: Headers) -> str | None:
    version = headers.get("mcp-protocol-version", _LAST_VERSION)
    if version != _LAST_VERSION:
        return f"protocol version {version[:32]} has no batches: send one message at a time"
    if not 0 < len(messages) <= MOST:
        return f"a batch has 1 to {MOST} messages"
    if not all(isinstance(message, dict) for message in messages):
        return "a batch is an array of JSON-RPC messages"
    if any(isinstance(message, dict) and message.get("method") == "initialize" for message in messages):
        return "initialize is not part of a batch"
    if headers.get("mcp-session-id") is None:
        return "Missing session ID: initialize first"
    ids = [str(message["id"]) for message in messages if isinstance(message, dict) and "id" in message]
    return None if len(set(ids)) == len(ids) else "two messages of a batch have one id"


class _Answer:
    """A `send` that keeps what it is given."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


async def _send(answers: list[_Answer], send: Send) -> None:
    bodies = [bytes(answer.body) for answer in answers if answer.body.strip()]
    # Where no answer is a success, the first refusal speaks for all.
    fine = next((a for a in answers if a.status < 300), answers[0])
    body = b"[" + b",".join(bodies) + b"]" if bodies else b""
    kept = [pair for pair in fine.headers if pair[0].lower() not in (b"content-length", b"content-type")]
    about = [(b"content-type", b"application/json")] if body else []
    status = fine.status if not bodies or fine.status >= 300 else HTTPStatus.OK
    headers = [*kept, *about, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
