"""What a session's servers say that belongs to no call, to whoever of its client listens just now.

Nothing is kept for later: these are hints to list or read again, and log lines. A listener that does
not keep up loses the newest; publishing never waits.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from gateway.core.json_types import JsonObject
from gateway.errors import TooManyStreams

__all__ = ["MOST_LISTENERS", "Announcement", "Announcements"]

MOST_LISTENERS = 32
_MOST_WAITING = 256


@dataclass(frozen=True, slots=True)
class Announcement:
    """One notification as a server sent it."""

    method: str
    params: JsonObject


@dataclass(slots=True)
class Announcements:
    """The listeners of one session. `dropped` counts what a listener did not take in time."""

    dropped: int = 0
    _listeners: list[MemoryObjectSendStream[Announcement]] = field(
        default_factory=list[MemoryObjectSendStream[Announcement]]
    )

    def publish(self, method: str, params: JsonObject) -> None:
        """Tell everybody who listens now."""
        for listener in self._listeners:
            try:
                listener.send_nowait(Announcement(method, params))
            except anyio.WouldBlock:
                self.dropped += 1

    @contextmanager
    def listening(self) -> Generator[MemoryObjectReceiveStream[Announcement]]:
        """Yield what is published from now on; raises `TooManyStreams`."""
        if len(self._listeners) >= MOST_LISTENERS:
            raise TooManyStreams(MOST_LISTENERS)
        send, receive = anyio.create_memory_object_stream[Announcement](_MOST_WAITING)
        self._listeners.append(send)
        with send, receive:
            try:
                yield receive
            finally:
                self._listeners.remove(send)

    def close(self) -> None:
        """End every listener's stream: the session is over."""
        for listener in self._listeners:
            listener.close()
