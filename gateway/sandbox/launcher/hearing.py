"""Listens to what all sandboxes try to reach, in the launcher's loop; one that tries much waits its turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .attempts import Attempts

__all__ = ["Hearing"]

REST_SECONDS = 0.25
"""How long a sandbox is left alone that had more to tell than is read at once."""


@dataclass
class Hearing:
    """`watch` and `unwatch` are the loop's, for descriptors; `tell` sends a message to the gateway."""

    watch: Callable[[int, Callable[[], None]], None]
    unwatch: Callable[[int], None]
    tell: Callable[[dict[str, Any]], None]
    resting: dict[int, tuple[float, Attempts]] = field(default_factory=dict[int, tuple[float, Attempts]])

    def begin(self, number: int, attempts: Attempts) -> None:
        """Listen to the sandbox of that number."""
        for listener in attempts.sockets:
            self.watch(listener.fileno(), lambda: self._heard(number, attempts))

    def end(self, number: int, attempts: Attempts) -> None:
        """Tell what a sandbox that ended tried and was not told yet, and let go of its network."""
        self._pause(attempts)
        self.resting.pop(number, None)
        self._tell(number, attempts.rest(time.monotonic()))
        attempts.close()

    def wake(self) -> None:
        """Listen again to those that were left alone long enough; call it as often as `REST_SECONDS`."""
        now = time.monotonic() if self.resting else 0.0
        for number, (until, attempts) in list(self.resting.items()):
            if until <= now:
                del self.resting[number]
                self.begin(number, attempts)

    def _heard(self, number: int, attempts: Attempts) -> None:
        now = time.monotonic()
        found, more = attempts.read(now)
        self._tell(number, found)
        if more:
            self._pause(attempts)
            self.resting[number] = now + REST_SECONDS, attempts

    def _pause(self, attempts: Attempts) -> None:
        for listener in attempts.sockets:
            self.unwatch(listener.fileno())

    def _tell(self, number: int, found: list[dict[str, Any]]) -> None:
        for attempt in found:
            self.tell({"attempt": number, **attempt})
