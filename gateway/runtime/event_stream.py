"""Cuts `text/event-stream` into the data of its events, with a cap. Pure."""

from __future__ import annotations

import re

__all__ = ["EventStream"]

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")


class EventStream:
    """Feed bytes in, get the data of whole events out; comments and events without data are left out.

    An event over the cap comes as soon as it is over, cut: what takes it sees that it is too long.
    """

    def __init__(self, max_event: int) -> None:
        self._max = max_event
        self._buffer = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that `data` completes, in order."""
        found: list[bytes] = []
        self._buffer += data
        while match := _END.search(self._buffer):
            event = bytes(self._buffer[: match.start()])
            del self._buffer[: match.end()]
            if self._skipping:
                self._skipping = False
            elif (value := _data(event)) is not None:
                found.append(value)
        if len(self._buffer) > self._max + 1_024:
            if not self._skipping:
                found.append(_data(bytes(self._buffer)) or bytes(self._buffer))
            self._skipping = True
            del self._buffer[:-3]
        return found


def _data(event: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if any(lines) else None
