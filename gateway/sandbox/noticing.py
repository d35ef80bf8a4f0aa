"""What one sandbox tried past the proxy, on its way to whoever wants to know of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

from gateway.core.json_types import JsonObject

from .contract import Attempt

__all__ = ["Noticing", "attempt_of"]

EARLY_ATTEMPTS = 64
"""Kept until somebody wants to know; so many destinations of a sandbox are told a minute at most."""


class Noticing:
    """Passes attempts on; keeps them while nobody wants to know."""

    def __init__(self) -> None:
        self._early: deque[Attempt] = deque(maxlen=EARLY_ATTEMPTS)
        self._tell: Callable[[Attempt], None] = self._early.append

    def attempted(self, attempt: Attempt) -> None:
        """Note one."""
        self._tell(attempt)

    def notice(self, tell: Callable[[Attempt], None]) -> None:
        """Have `tell` called for each, the earlier ones at once."""
        self._tell = tell
        while self._early:
            tell(self._early.popleft())

    def dismiss(self) -> None:
        """Tell nobody from now on: whoever wanted to know may be gone with its session."""
        self._tell = self._early.append


def attempt_of(message: JsonObject) -> Attempt:
    """Return the attempt that a message of `launcher.hearing` tells of."""
    protocol, address, name = (cast(str, message.get(key, "")) for key in ("protocol", "address", "name"))
    return Attempt(protocol, address, cast(int, message.get("port", 0)), name, cast(int, message["count"]))
