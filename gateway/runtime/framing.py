"""Cuts a tool server's stdout into lines, with a cap. Pure; survives anything a server prints.

MCP over stdio is one JSON value a line. A server may print logs, invalid UTF-8 or 100 MB without
an end; none of that may stop the framer or grow its memory beyond the cap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Frame", "LineFramer", "TooLong", "answered_id"]

_EDGE = 256
_JSONRPC = rb'"jsonrpc"\s*:\s*"2\.0"'
_ID_FIRST = re.compile(rb"\s*\{\s*(?:" + _JSONRPC + rb'\s*,\s*)?"id"\s*:\s*([0-9]{1,18})\s*,')
_ID_LAST = re.compile(rb',\s*"id"\s*:\s*([0-9]{1,18})\s*(?:,\s*' + _JSONRPC + rb"\s*)?\}\s*\Z")


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line over the cap: its first and last bytes and its whole length; the rest was dropped."""

    head: bytes
    tail: bytes
    length: int


def answered_id(head: bytes, tail: bytes) -> int | None:
    """Return which request an unreadable answer names, from the two places where libraries write it."""
    match = _ID_FIRST.match(head) or _ID_LAST.search(tail[-_EDGE:])
    return int(match[1]) if match else None


Frame = bytes | TooLong


class LineFramer:
    """Feed bytes in, get whole lines out, without their end: of a blank one nothing is left."""

    def __init__(self, max_line: int) -> None:
        self._max = max_line
        self._edge = min(_EDGE, max_line)
        self._buffer = bytearray()
        self._scanned = 0
        self._dropped = 0
        self._head = b""

    @property
    def dropped(self) -> int:
        """How many bytes of the line that goes on were dropped, because it is over the cap."""
        return self._dropped

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes, in order. All have to be taken before more is fed."""
        self._buffer += data
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._scanned = 0
            yield self._finish(line)
        self._scanned = len(self._buffer)
        if self._scanned > self._max:
            self._drop()

    def _finish(self, line: bytes) -> Frame:
        if self._dropped or len(line) > self._max:
            frame = TooLong(self._head or line[: self._edge], line[-self._edge :], self._dropped + len(line))
            self._dropped, self._head = 0, b""
            return frame
        return line.rstrip(b"\r") if line.strip() else b""

    def _drop(self) -> None:
        """Forget an over-long line's bytes as they come; its edges are kept, to name the answer."""
        if not self._dropped:
            self._head = bytes(self._buffer[: self._edge])
        kept = self._edge
        self._dropped += len(self._buffer) - kept
        del self._buffer[:-kept]
        self._scanned = len(self._buffer)
