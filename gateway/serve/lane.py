"""The lane of `tools/call`: answers what is plain without the layers that everything else passes.

It admits a request by the very rules of those layers (`security`, `identity`, `gate`) and reads it by
looking; whatever any of them would refuse, or `serve.mcp.quick` does not take, goes on to them as it
came, so that they say what is wrong with it. Decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
from starlette.datastructures import Headers as TraceHeaders

from gateway.core import strict_json
from gateway.core.calls import Principal, Role
from gateway.core.strict_json import JsonLimits, StrictJsonError
from gateway.loop import Running, running_task
from gateway.serve.direct import DirectRequest, RawHeaders, Take
from gateway.serve.endings import OpenRequests, stopped
from gateway.serve.event_stream import EventStream
from gateway.serve.gate import GateLimits, media_fault
from gateway.serve.identity import Identity
from gateway.serve.mcp.quick import Headers, QuickAnswer, QuickCall, QuickCalls
from gateway.serve.security import BLANKS, SINGLE, HttpSecurity

if TYPE_CHECKING:
    from gateway.runtime.tracing import CallTracing

__all__ = ["Lane"]

logger = logging.getLogger(__name__)

_READ = SINGLE | {b"accept", b"content-length", b"mcp-method", b"mcp-name", b"mcp-protocol-version"}
_JSON = (b"content-type", b"application/json")
_LONG = 16
_Ending: TypeAlias = Literal["stopped", "withdrawn", "left"]


class Lane:
    """Stands in front of the application (`direct.DirectFront`): `calls` by the path of their endpoint."""

    def __init__(
        self,
        calls: Mapping[str, QuickCalls],
        *,
        identity: Identity,
        security: HttpSecurity,
        limits: GateLimits,
        asking: OpenRequests,
        tracing: CallTracing | None,
    ) -> None:
        self._calls = {path.encode(): quick for path, quick in calls.items()}
        self._identity = identity
        self._security = security
        self._json = JsonLimits(max_bytes=limits.max_body)
        self._asking = asking
        self._tracing = tracing

    def admit(self, target: bytes, headers: RawHeaders) -> Take | None:
        """Return who takes a POST with this head, `None` where any layer would look closer."""
        calls = self._calls.get(target)
        read = None if calls is None else _read(headers)
        principal = None if read is None else self._admitted(read)
        if calls is None or read is None or principal is None:
            return None
        return partial(self._take, calls, read, principal)

    def _admitted(self, headers: Headers) -> Principal | None:
        """Return who asks, if every layer lets the request pass."""
        get = headers.get
        if not _proper_length(get(b"content-length", ""), self._json.max_bytes):
            return None
        if self._security.refusal(get(b"host"), get(b"origin")) is not None:
            return None
        if media_fault(get(b"content-type", ""), get(b"content-encoding", "identity")) is not None:
            return None
        if not _takes_json(get(b"accept", "")):
            return None
        # Whom it takes time to know is known by the time of the next call.
        principal = self._identity.principal(get(b"authorization"))
        return None if principal is None or Role.AGENT not in principal.roles else principal

    def _take(
        self, calls: QuickCalls, headers: Headers, principal: Principal, request: DirectRequest, body: bytes
    ) -> bool:
        """Begin to answer a whole request, unless it is not for here."""
        try:
            quick = calls.prepare(headers, strict_json.loads(body, self._json), principal)
        except StrictJsonError:
            return False
        if quick is None:
            return False
        streams = _takes_streams(headers[b"accept"])
        answering = _Answering(calls, quick, request, self._asking, streams=streams)
        request.run(answering.run() if self._tracing is None else answering.traced(self._tracing))
        return True


class _Answering:
    """A call that is being answered; `ended` says why it was not: by the gateway's stop or by its caller."""

    __slots__ = ("_asking", "_calls", "_quick", "_request", "_stream", "_task", "ended")

    def __init__(
        self,
        calls: QuickCalls,
        quick: QuickCall,
        request: DirectRequest,
        asking: OpenRequests,
        *,
        streams: bool,
    ) -> None:
        self._calls = calls
        self._quick = quick
        self._request = request
        self._asking = asking
        self._stream = EventStream(request, quick.headers) if streams and quick.converses else None
        self._task: Running | None = None
        self.ended: _Ending | None = None
        asking.add(self)
        quick.begin(self.withdraw)
        if quick.leaving_cancels:
            request.when_lost(self.leave)

    def cancel(self) -> None:
        """End it: the gateway stops."""
        self._end("stopped")

    def withdraw(self) -> None:
        """End it: its client cancelled it, and waits for no result."""
        self._end("withdrawn")

    def leave(self) -> None:
        """End it: nobody is there any more."""
        self._end("left")

    async def traced(self, tracing: CallTracing) -> None:
        """Answer as part of the caller's trace."""
        with tracing.arriving(TraceHeaders(raw=self._request.headers)):
            await self.run()

    async def run(self) -> None:
        """Answer. A caller that left gets nothing."""
        self._task = running_task()
        try:
            answer = await self._answer()
            if self._stream is not None and self._stream.begun:
                await self._stream.end(b"" if answer is None else answer.body)
            elif answer is not None:
                await _say(answer, self._request)
            elif self.ended == "stopped":
                told = stopped()
                await self._request.answer(told.status_code, told.raw_headers, bytes(told.body))
        except anyio.get_cancelled_exc_class():
            self._request.abandon()  # the server ends, and waits for nothing any more
            raise
        except Exception:
            logger.exception("an answer could not be given")
            self._request.abandon()
        finally:
            if self._stream is not None:
                self._stream.close()
            self._quick.finish()
            self._asking.discard(self)

    async def _answer(self) -> QuickAnswer | None:
        if self.ended is None:
            try:
                return await self._calls.answer(self._quick, self._stream)
            except anyio.get_cancelled_exc_class():
                if self.ended is None:
                    raise
        return self._calls.withdrawn(self._quick) if self.ended == "withdrawn" else None

    def _end(self, why: _Ending) -> None:
        if self.ended is None:
            self.ended = why
            if self._task is not None:  # else it has not begun, and will not
                self._task.cancel()


def _read(raw: RawHeaders) -> Headers | None:
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


def _proper_length(length: str, most: int) -> bool:
    return length.isdecimal() and len(length) < _LONG and int(length) <= most


@lru_cache(maxsize=256)
def _takes_json(accept: str) -> bool:
    """Whether an answer as JSON is welcome beyond doubt."""
    media = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "application/json" in media or "*/*" in media


@lru_cache(maxsize=256)
def _takes_streams(accept: str) -> bool:
    return "text/event-stream" in accept.lower() or "*/*" in accept


async def _say(answer: QuickAnswer, request: DirectRequest) -> None:
    headers = [_JSON, (b"content-length", str(len(answer.body)).encode()), *answer.headers]
    await request.answer(answer.status, headers, answer.body)
