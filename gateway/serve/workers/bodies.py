"""A request's whole body, for who has to look into it before it is clear who answers."""

from __future__ import annotations

import anyio
from starlette.types import Receive, Scope

from gateway.serve.gate import GateLimits, Replay
from gateway.serve.workers.moving import movable_of

__all__ = ["whole_body"]


async def whole_body(scope: Scope, receive: Receive, limits: GateLimits) -> tuple[bytes | None, Receive]:
    """Return a body, and how the request is received once more; `None` where it is too large or too slow."""
    body, more = bytearray(), True
    with anyio.move_on_after(limits.body_seconds / 2):  # the gate's own patience begins after
        while more and len(body) <= limits.max_body:
            message = await receive()
            if message["type"] != "http.request":
                return None, receive
            body += message.get("body", b"")
            more = message.get("more_body", False)
    whole = bytes(body)
    if more:
        return None, Replay(whole, receive, more=True)
    movable_of(scope).unread(whole)
    return whole, receive
