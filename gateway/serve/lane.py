"""The lane of `tools/call`: answers what is plain without the layers that everything else passes.

It admits a request by the very rules of those layers (`security`, `identity`, `gate`) and reads it by
looking; whatever any of them would refuse, or `serve.mcp.quick` does not take, goes on to them as it
came, so that they say what is wrong with it. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import anyio
from starlette.types import Receive, Scope, Send

from gateway.core import strict_json
from gateway.core.calls import Principal, Role
from gateway.core.strict_json import JsonLimits, StrictJsonError
from gateway.loop import Running, running_task
from gateway.serve.endings import OpenRequests, stopped
from gateway.serve.gate import GateLimits, Replay, media_fault
from gateway.serve.http_protocol import Exchange, exchange_of
from gateway.serve.identity import Identity
from gateway.serve.mcp.quick import Headers, QuickAnswer, QuickCall, QuickCalls
from gateway.serve.oauth.tokens import NotKnown
from gateway.serve.security import BLANKS, SINGLE, HttpSecurity

__all__ = ["Lane"]

_READ = SINGLE | {b"accept", b"content-length", b"mcp-method", b"mcp-name", b"mcp-protocol-version"}
_BODY_SECONDS = 5.0
"""How long the rest of a body is waited for here; the gate's own patience begins after."""


class Lane:
    """What stands in front of the application: `calls` by the path of their endpoint."""

    def __init__(
        self,
        calls: Mapping[str, QuickCalls],
        *,
        identity: Identity,
        security: HttpSecurity,
        limits: GateLimits,
        asking: OpenRequests,
    ) -> None:
        self._calls = calls
        self._identity = identity
        self._security = security
        self._json = JsonLimits(max_bytes=limits.max_body)
        self._asking = asking

    async def take(self, scope: Scope, receive: Receive, send: Send) -> Receive | None:
        """Answer a request and return `None`, or return how it is to be received by the application."""
        exchange = exchange_of(scope)
        calls = self._calls.get(scope["path"]) if scope["type"] == "http" else None
        if calls is None or exchange is None or scope["method"] != "POST":
            return receive
        headers = _read(scope["headers"])
        principal = None if headers is None else await self._admitted(headers)
        if headers is None or principal is None:
            return receive
        body = exchange.body()
        if body is None:
            body, receive = await self._collected(headers, receive)
        quick = None if body is None else self._prepared(calls, headers, body, principal)
        if quick is None or not await self._serve(calls, quick, exchange, send):
            return receive
        return None

    async def _admitted(self, headers: Headers) -> Principal | None:
        """Return who asks, if every layer lets the request pass."""
        if self._security.refusal(headers.get(b"host"), headers.get(b"origin")) is not None:
            return None
        media = headers.get(b"content-type", ""), headers.get(b"content-encoding", "identity")
        if media_fault(*media) is not None or not _takes_json(headers.get(b"accept", "")):
            return None
        found = await self._identity.establish(headers.get(b"authorization"))
        return None if isinstance(found, NotKnown) or Role.AGENT not in found.roles else found

    def _prepared(
        self, calls: QuickCalls, headers: Headers, body: bytes, principal: Principal
    ) -> QuickCall | None:
        try:
            return calls.prepare(headers, strict_json.loads(body, self._json), principal)
        except StrictJsonError:
            return None

    async def _collected(self, headers: Headers, receive: Receive) -> tuple[bytes | None, Receive]:
        """Return a body that is still arriving; `None` if it does not come or its length is not said."""
        try:
            expected = int(headers.get(b"content-length", ""))
        except ValueError:
            return None, receive
        if expected > self._json.max_bytes:
            return None, receive
        body, more = bytearray(), True
        with anyio.move_on_after(_BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None, _disconnected
                body += message.get("body", b"")
                more = message.get("more_body", False)
        whole = bytes(body)
        return (None if more else whole), Replay(whole, receive, more=more)

    async def _serve(self, calls: QuickCalls, quick: QuickCall, exchange: Exchange, send: Send) -> bool:
        """Answer, unless the call goes on to the application (false). A caller that left gets nothing."""
        request = _Request(running_task())
        self._asking.add(request)
        if quick.leaving_cancels:
            exchange.when_lost(request.leave)
        try:
            answer = await calls.answer(quick, request.withdraw)
        except anyio.get_cancelled_exc_class():
            match request.ended:
                case "stopped":
                    await stopped(send)
                case "withdrawn":
                    await _say(calls.withdrawn(quick), exchange, send)
                case "left":
                    pass
                case _:
                    raise
            return True
        finally:
            exchange.when_lost(None)
            self._asking.discard(request)
        if answer is None:
            return False
        await _say(answer, exchange, send)
        return True


class _Request:
    """A request being answered; `ended` says why it was not: by the gateway's stop or by its caller."""

    __slots__ = ("_task", "ended")

    def __init__(self, task: Running) -> None:
        self._task = task
        self.ended: Literal["stopped", "withdrawn", "left"] | None = None

    def cancel(self) -> None:
        """End it: the gateway stops."""
        self._end("stopped")

    def withdraw(self) -> None:
        """End it: its client cancelled it, and waits for no result."""
        self._end("withdrawn")

    def leave(self) -> None:
        """End it: nobody is there any more."""
        self._end("left")

    def _end(self, why: Literal["stopped", "withdrawn", "left"]) -> None:
        self.ended = self.ended or why
        self._task.cancel()


def _read(raw: list[tuple[bytes, bytes]]) -> Headers | None:
    """Return the headers that decide something; `None` if one is there twice, or repeats an argument."""
    headers: dict[bytes, str] = {}
    for name, value in raw:
        if name in _READ:
            if name in headers:
                return None
            headers[name] = value.strip(BLANKS).decode("latin-1")
        elif name.startswith(b"mcp-param-"):
            return None
    return headers


@lru_cache(maxsize=256)
def _takes_json(accept: str) -> bool:
    """Whether an answer as JSON is welcome beyond doubt."""
    media = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "application/json" in media or "*/*" in media


async def _say(answer: QuickAnswer, exchange: Exchange, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer.body)).encode()),
    ]
    if answer.session_id is not None:
        headers.append((b"mcp-session-id", answer.session_id.encode()))
    exchange.hold_head()
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _disconnected() -> dict[str, str]:
    return {"type": "http.disconnect"}
