"""Drives an ASGI application by hand: one request in, every message it sends out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Reply", "echo_app", "http_scope", "request"]


@dataclass(slots=True)
class Reply:
    """What the application sent."""

    messages: list[Message] = field(default_factory=list[Message])

    @property
    def status(self) -> int:
        return next(m["status"] for m in self.messages if m["type"].endswith("response.start"))

    @property
    def headers(self) -> dict[str, str]:
        start = next(m for m in self.messages if m["type"].endswith("response.start"))
        return {name.decode().lower(): value.decode() for name, value in start["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"].endswith("response.body"))

    def json(self) -> Any:
        return json.loads(self.body)


def http_scope(
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    **more: Any,
) -> Scope:
    """Return a request's scope; `host` is set unless `headers` names one."""
    pairs = [*headers.items()] if isinstance(headers, Mapping) else [*headers]
    if not any(name.lower() == "host" for name, _ in pairs):
        pairs.insert(0, ("host", "127.0.0.1:8000"))
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    return {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw, **more}


async def request(app: ASGIApp, scope: Scope, chunks: Iterable[bytes] = (b"",)) -> Reply:
    """Send one request whose body comes in `chunks`; after it the client stays and says nothing."""
    reply = Reply()
    waiting = list(chunks)

    async def receive() -> Message:
        if not waiting:
            await anyio.sleep_forever()
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        reply.messages.append(message)

    with anyio.fail_after(5):
        await app(scope, receive, send)
    return reply


async def echo_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body that arrived, and in a header with how many headers did."""
    body = b""
    more = scope["type"] == "http"
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"x-content-length", dict(scope["headers"]).get(b"content-length", b""))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
