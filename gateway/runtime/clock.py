"""The clock: the only reader of time, so that a test can own it. Nothing here waits."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What everything that needs the time takes as an argument."""

    def now(self) -> float:
        """Return the wall clock, in seconds since 1970 (UTC). May jump; never measure with it."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never goes back. For durations."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return the wall clock, in seconds since 1970 (UTC)."""
        return time.time()  # noqa: TID251  this is the one place

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start."""
        return time.monotonic()
