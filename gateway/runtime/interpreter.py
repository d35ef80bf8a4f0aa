"""One Python interpreter in a sandbox: runs code turn by turn and passes its calls on. Decides nothing.

The code has the interpreter to itself and may break it in any way. Whatever it does, a turn ends in its
time: with what the interpreter says of it, or with `InterpreterLost` and a dead sandbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio
import anyio.lowlevel

from gateway.core.code import MAX_FRAME, CodeCall, CodeDone, CodeFrame, OddFrame, read_frame
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps
from gateway.runtime.framing import Frame, LineFramer, TooLong
from gateway.sandbox.contract import Sandbox

__all__ = ["Interpreter", "InterpreterLost"]

MAX_TURN = 24_000_000
"""Bytes that an interpreter may say in one turn, calls included."""
GRACE = 2.0
"""Seconds in which an interpreter may say that the code's time was over, before it is killed."""

Answering: TypeAlias = Callable[[CodeCall], Awaitable[JsonObject]]
"""Says what a call comes to in the code (`gateway.core.code.call_answer`)."""


class InterpreterLost(Exception):
    """The interpreter is gone, and its variables with it; `late` where that is because time was over."""

    def __init__(self, reason: str, *, late: bool = False) -> None:
        self.late = late
        super().__init__(reason)


class Interpreter:
    """Use `run`, one turn at a time; after `InterpreterLost` it is dead."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._framer = LineFramer(MAX_FRAME)
        self._frames: list[Frame] = []
        self._turn = self._heard = 0
        self._told: Sequence[JsonValue] | None = None

    async def run(
        self, code: str, tools: Sequence[JsonValue], seconds: float, answering: Answering
    ) -> CodeDone:
        """Run code for so long at most and return what came of it; raises `InterpreterLost`.

        `tools` are its functions from here on (`gateway.core.code.code_tools`).
        """
        done: CodeDone | None = None
        try:
            with anyio.move_on_after(seconds + GRACE):
                done = await self._take_turn(code, tools, seconds, answering)
        except InterpreterLost:
            await self.kill()
            raise
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise InterpreterLost(f"the interpreter ended: {await self._how_it_ended()}") from None
        except BaseException:  # the caller left in the middle of a turn: nobody knows where it stands
            await self.kill()
            raise
        if done is None:
            await self.kill()
            raise InterpreterLost(f"the code did not end within {seconds:g} s", late=True)
        return done

    async def kill(self) -> None:
        """End it. Idempotent, shielded."""
        with anyio.CancelScope(shield=True):
            await self._sandbox.kill()

    async def _take_turn(
        self, code: str, tools: Sequence[JsonValue], seconds: float, answering: Answering
    ) -> CodeDone:
        self._turn += 1
        self._heard = 0
        news = None if tools == self._told else list[JsonValue](tools)
        self._told = tools
        await self._send({"code": code, "seconds": seconds, "tools": news})
        while True:
            frame = await self._next()
            if isinstance(frame, CodeDone):
                return frame
            await self._send({"call": frame.number, **await answering(frame)})

    async def _send(self, message: JsonObject) -> None:
        await self._sandbox.send(dumps({"turn": self._turn, **message}) + b"\n")

    async def _next(self) -> CodeFrame:
        while not self._frames:
            await anyio.lowlevel.checkpoint()  # a flood of nothing must not keep everybody else waiting
            data = await self._sandbox.receive()
            self._heard += len(data)
            if self._heard > MAX_TURN:
                raise InterpreterLost(f"the interpreter said more than {MAX_TURN} bytes in one turn")
            self._frames += filter(None, self._framer.feed(data))
        line = self._frames.pop(0)
        try:
            if isinstance(line, TooLong):
                raise OddFrame(f"{line.length} bytes in one frame")
            return read_frame(line, self._turn)
        except OddFrame as odd:
            raise InterpreterLost(f"the code wrote into the interpreter's own line: {odd}") from None

    async def _how_it_ended(self) -> str:
        """Return how; an interpreter that only closed its line is killed, for nothing can be said to it."""
        reason = "it closed its line"
        with anyio.move_on_after(0.5):
            reason = (await self._sandbox.wait()).reason
        await self.kill()
        return reason
