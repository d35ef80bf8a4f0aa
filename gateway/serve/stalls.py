"""Ends the connection of a peer that lets what was written to it wait, and takes nothing of it.

What waits is held in memory, and a close waits for it as well: without an end, one who asks and never reads
holds both for good.
"""

from __future__ import annotations

from typing import Any

__all__ = ["STALLED_SECONDS", "Stalls"]

STALLED_SECONDS = 30.0
"""Seconds in which a peer that lets writes wait has to take at least something."""


class Stalls:
    """Watches one connection, whose protocol tells when writes wait until the peer takes some."""

    __slots__ = ("_loop", "_paused", "_timer", "_transport")

    def __init__(self, loop: Any, transport: Any) -> None:
        self._paused = False
        self._loop = loop
        self._transport = transport
        self._timer: Any = None

    def paused(self) -> None:
        """Writes wait from now on: the peer has to take something meanwhile."""
        self._paused = True
        self.watch()

    def resumed(self) -> None:
        """Writes wait no longer."""
        self._paused = False
        self.stop()

    def watch(self) -> None:
        """Give the peer its time from now on."""
        self.stop()
        waiting = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(STALLED_SECONDS, self._look, waiting)

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, before: int) -> None:
        self._timer = None
        if self._paused or self._transport.is_closing():
            waiting = self._transport.get_write_buffer_size()
            if waiting and waiting >= before:
                self._transport.abort()
            elif waiting:
                self.watch()
