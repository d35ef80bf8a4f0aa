"""Decides how much of the gateway's time one server's output gets, and when it is only noise.

To print a line costs a server less than the line costs whoever has to understand it. Without an end to
that, a server that prints on and on would keep every other session waiting. So lines are taken in short
turns with pauses between, meanwhile the server waits at its full pipe; and of noise there is only so much.
"""

from __future__ import annotations

import anyio

from gateway.core.calls import FailureKind
from gateway.loop import EventLoop, current_loop

__all__ = ["MOST_NOISE", "Hearing"]

_TURN, _REST, _FEW = 0.002, 0.008, 64
"""Seconds that lines are taken without a pause, how long that is, and how many lines never cost one."""
MOST_NOISE = 100_000
"""Frames that may come between two answers without being any message that was waited for."""
_ENDLESS = 64
"""How many times the largest result a line may be before it is held for endless."""


class Hearing:
    """The turns of one reader. What is taken within a turn, as nearly everything is, costs no pause."""

    def __init__(self, max_result: int) -> None:
        self._longest = _ENDLESS * max_result
        self._loop: EventLoop | None = None
        self._until = 0.0
        self._taken = 0
        self._noise = 0

    def begin(self) -> None:
        """Note that a turn begins: something was read."""
        if self._loop is None:
            self._loop = current_loop()
        self._until, self._taken = self._loop.time() + _TURN, 0

    def over(self) -> bool:
        """Note that a frame was taken; whether the turn is over with it, so that `rest` is due."""
        self._taken += 1
        return self._taken > _FEW and self._loop is not None and self._loop.time() > self._until

    async def rest(self) -> None:
        """Let all others have their turns, and begin the next one."""
        await anyio.sleep(_REST)
        self.begin()

    def noise(self) -> None:
        """Count a frame that is no message that was waited for."""
        self._noise += 1

    def answer(self) -> None:
        """Note an answer that was waited for: what was noise before is forgiven."""
        self._noise = 0

    def complaint(self, dropped: int) -> tuple[FailureKind, str] | None:
        """Say why a server that does nothing but print is to be ended, for no answer can be expected of it.

        `dropped` are the bytes so far of a line that is too long already.
        """
        if dropped > self._longest:
            return FailureKind.TOO_LARGE, f"writes a line without an end: {dropped} bytes"
        if self._noise > MOST_NOISE:
            return FailureKind.PROTOCOL, "writes line after line that is no answer"
        return None
