"""Messages to and from one tool server, over its sandbox's pipes. Knows no request and no method.

The bytes of a hostile server must neither kill the reader nor reach anybody unchecked: every line passes
the strict gate and is capped. A frame goes out whole, or nothing goes out after it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from gateway.core.calls import FailureKind
from gateway.core.json_types import JsonObject
from gateway.core.strict_json import JsonLimits, StrictJsonError, dumps, loads
from gateway.runtime.framing import Frame, LineFramer, TooLong, answered_id
from gateway.runtime.upstream.exchange import UpstreamFailure
from gateway.runtime.upstream.hearing import Hearing
from gateway.sandbox.contract import Sandbox

__all__ = ["Answers", "Said", "Transport"]

logger = logging.getLogger(__name__)

_USUAL_READ, _LARGE_READ = 2**16, 2**18
"""Bytes taken of a server's output in one go."""
_EXIT_SECONDS = 0.5
"""What a server that closed its output has to say how it ended."""


class Answers(Protocol):
    """Who waits for what a server answers."""

    def answered(self, message: JsonObject) -> bool:
        """Take an answer; `False` if nobody waited for it."""
        ...

    def unacceptable(self, request_id: int, failure: UpstreamFailure) -> None:
        """Take note that the answer to this request was refused."""
        ...

    def over(self, failure: UpstreamFailure) -> None:
        """Take note that no answer will come any more."""
        ...


Said = Callable[[JsonObject], Awaitable[bool]]
"""Takes a request or a notification, `False` if it was noise; while it waits, nothing more is read."""


class Transport:
    """The pipes of one server. `read` runs as a task; `ended` says why, once it is over."""

    def __init__(self, name: str, sandbox: Sandbox, max_bytes: int) -> None:
        self.ended: UpstreamFailure | None = None
        self._name = name
        self._sandbox = sandbox
        self._max_bytes = max_bytes
        self._framer = LineFramer(max_bytes)
        self._hearing = Hearing(max_bytes)
        self._limits = JsonLimits(max_bytes=max_bytes)
        self._writing = anyio.Lock()
        self._reading = anyio.CancelScope()

    # -- to the server

    def send_now(self, message: JsonObject) -> bool:
        """Send a message, if that needs no waiting."""
        if self.ended is not None or self._writing.locked():
            return False
        try:
            return self._sandbox.send_now(dumps(message) + b"\n")
        except anyio.BrokenResourceError:
            self.end(self._deaf())
            return True

    async def send(self, message: JsonObject) -> None:
        """Send a message; nothing is sent to a server that ended."""
        if self.ended is not None:
            return
        data = dumps(message) + b"\n"
        async with self._writing:
            try:
                await self._sandbox.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the reader sees the end too, and says how the server ended
            except anyio.get_cancelled_exc_class():
                # A frame may have gone out in part: nothing after it could be understood.
                self.end(self._deaf())
                raise

    async def send_within(self, seconds: float, message: JsonObject) -> None:
        """Send a message that nobody waits for to be read: the server may not read at all."""
        with anyio.move_on_after(seconds):
            await self.send(message)

    def end(self, failure: UpstreamFailure) -> None:
        """Say that it is over, and why: the reader leaves. Idempotent, the first reason stands."""
        if self.ended is None:
            self.ended = failure
            self._reading.cancel()

    def _deaf(self) -> UpstreamFailure:
        return UpstreamFailure(FailureKind.CRASHED, f"server {self._name!r} stopped reading its input")

    # -- from the server

    async def read(
        self, answers: Answers, said: Said, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Pass on what the server says until it ends, and then see to it that it is gone."""
        task_status.started()
        try:
            with self._reading:
                await self._read_on(answers, said)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._died()
        except Exception:
            # A server's bytes must never end the gateway: a fault of ours ends this conversation only.
            logger.exception("reading from server %r failed", self._name)
            self.end(UpstreamFailure(FailureKind.PROTOCOL, f"server {self._name!r} could not be understood"))
        finally:
            self.end(UpstreamFailure(FailureKind.CANCELLED, f"server {self._name!r} was stopped"))
            assert self.ended is not None
            answers.over(self.ended)
            with anyio.CancelScope(shield=True):
                await self._sandbox.kill()

    async def _read_on(self, answers: Answers, said: Said) -> None:
        most = _USUAL_READ
        while self.ended is None:
            data = await self._sandbox.receive(most)
            if len(data) == most:
                most = _LARGE_READ  # one who sends much at once does so again
            self._hearing.begin()
            for frame in self._framer.feed(data):
                message = self._accepted(frame, answers)
                if message is None:
                    self._hearing.noise()
                elif "method" not in message and answers.answered(message):
                    self._hearing.answer()
                elif "method" not in message or not await said(message):
                    self._hearing.noise()
                if self._hearing.over():
                    await self._hearing.rest()
            if complaint := self._hearing.complaint(self._framer.dropped):
                self.end(UpstreamFailure(complaint[0], f"server {self._name!r} {complaint[1]}"))

    def _accepted(self, frame: Frame, answers: Answers) -> JsonObject | None:
        """Return the message in a frame. What is none fails the call that it answers, or was noise."""
        if isinstance(frame, TooLong):
            request_id = answered_id(frame.head, frame.tail)
            said = f"sent {frame.length} bytes, over the limit of {self._max_bytes}"
            kind = FailureKind.TOO_LARGE
        elif b"{" not in frame:
            return None
        else:
            try:
                message = loads(frame, self._limits)
            except StrictJsonError as error:
                request_id, said = answered_id(frame, frame), f"sent unacceptable JSON: {error}"
                kind = FailureKind.TOO_LARGE if error.code == "too_large" else FailureKind.PROTOCOL
            else:
                return message if isinstance(message, dict) else None
        if request_id is not None:
            answers.unacceptable(request_id, UpstreamFailure(kind, f"server {self._name!r} {said}"))
        return None

    async def _died(self) -> None:
        """Name how it ended; a server that only closed its output is given a moment, then killed."""
        reason = "it closed its output"
        with anyio.move_on_after(_EXIT_SECONDS):
            reason = (await self._sandbox.wait()).reason
        tail = self._sandbox.stderr_tail().strip()
        logger.warning(
            "server %r ended: %s%s", self._name, reason, f"; stderr: {tail[-2000:]}" if tail else ""
        )
        self.end(UpstreamFailure(FailureKind.CRASHED, f"server {self._name!r} ended: {reason}"))
