"""Requests that can be ended from outside and are answered properly even then.

A gateway that stops does not wait for listeners that never end, nor beyond its drain time for calls;
their connections still see a whole response: 503, or the end of the stream they were reading.
"""

from __future__ import annotations

from typing import Protocol

import anyio
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.serve.replies import problem

__all__ = ["Interruptible", "OpenRequests", "serve_until_ended", "stopped"]

_RETRY_SECONDS = 5


class Endable(Protocol):
    """Something that is being answered and can be ended: a cancel scope, for one."""

    def cancel(self) -> object:
        """End it."""
        ...


class OpenRequests:
    """The requests that are being answered now."""

    def __init__(self) -> None:
        self._scopes: set[Endable] = set()
        self._none = anyio.Event()

    def end(self) -> None:
        """End them all."""
        for scope in tuple(self._scopes):
            scope.cancel()

    def add(self, scope: Endable) -> None:
        """Take note of one that begins."""
        self._scopes.add(scope)

    def discard(self, scope: Endable) -> None:
        """Take note of one that is over."""
        self._scopes.discard(scope)
        if not self._scopes:
            self._none.set()

    async def answered(self) -> None:
        """Return once there is none."""
        while self._scopes:
            self._none = anyio.Event()
            await self._none.wait()


async def serve_until_ended(
    app: ASGIApp, requests: OpenRequests, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one request; if `requests` are ended meanwhile, answer 503 or end its stream."""
    started = over = False

    async def note(message: Message) -> None:
        nonlocal started, over
        started = True
        over = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)

    with anyio.CancelScope() as ending:
        requests.add(ending)
        try:
            await app(scope, receive, note)
        finally:
            requests.discard(ending)
    if not ending.cancelled_caught or over:
        return
    if started:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    await stopped()(scope, receive, send)


def stopped() -> Response:
    """Return the answer to a request that was ended before it had one."""
    message = "the gateway stopped before this was answered; a call may have run"
    return problem(503, "stopped", message, {"Retry-After": str(_RETRY_SECONDS)})


class Interruptible:
    """ASGI middleware: every HTTP request is among `listening` (GET) or `asking` while it is answered."""

    def __init__(self, app: ASGIApp, listening: OpenRequests, asking: OpenRequests) -> None:
        self._app = app
        self._listening = listening
        self._asking = asking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        requests = self._listening if scope["method"] == "GET" else self._asking
        await serve_until_ended(self._app, requests, scope, receive, send)
