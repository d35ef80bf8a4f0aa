"""What the workers of one gateway count together: places of sessions, and limits that policies set for all.

A file without a name, passed on as a descriptor, and one lock between processes that ends with its holder.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
import tempfile
from contextlib import AbstractContextManager

from gateway.core.policy.limits import Counter, Counters
from gateway.core.policy.situation import LimitKey
from gateway.runtime.places import PlaceTables

__all__ = ["SharedMemory"]

_MOST = struct.Struct("=Q")
_USED = struct.Struct("=Q")
"""Of counters: those that were used so far."""
_COUNTER = struct.Struct("=16sqqdd")
_MOST_COUNTERS = 65_536
_FIRST = _MOST.size + _USED.size
_PLACES = _FIRST + _MOST_COUNTERS * _COUNTER.size
"""Where the counters begin, and the places behind them. Before both: how many sessions there may be."""
_SPENT = 2**62
"""What a counter has granted for which there is no room: more than any limit."""


class SharedMemory:
    """The memory behind a descriptor that `make` gave."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._mapped = mmap.mmap(fd, os.fstat(fd).st_size)
        self._most: int = _MOST.unpack_from(self._mapped)[0]
        self._lock = _Locked(fd)

    @classmethod
    def make(cls, most: int) -> SharedMemory:
        """Return memory in which nobody has a place yet; `most` is how many sessions there may be."""
        fd = os.memfd_create("sandgate") if hasattr(os, "memfd_create") else _unnamed_file()
        os.ftruncate(fd, _PLACES + PlaceTables.size(most))
        os.pwrite(fd, _MOST.pack(most), 0)
        return cls(fd)

    def tables(self, own: int) -> PlaceTables:
        """Return the tables as worker `own` uses them."""
        return PlaceTables.within(self._mapped, _PLACES, self._most, own, self._lock)

    def counters(self) -> Counters:
        """Return the counters of limits that hold for all workers together."""
        return Counters(_CounterRows(self._mapped), self._lock)


class _Locked(AbstractContextManager[None]):
    """A lock between processes, entered again by who holds it; it ends with the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


class _CounterRows:
    """A `CounterStore`: one row a counter, never given back. Where there is no row left, all is spent."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._rows: dict[LimitKey, int] = {}

    def get(self, key: LimitKey) -> Counter | None:
        """Return a counter as it is now."""
        row = self._row(key)
        if row is None:
            return Counter(_SPENT, _SPENT, -1.0) if self._used() == _MOST_COUNTERS else None
        _, calls, size, tokens, at = _COUNTER.unpack_from(self._memory, row)
        return Counter(calls, size, None if math.isnan(tokens) else tokens, at)

    def __setitem__(self, key: LimitKey, counter: Counter) -> None:
        """Keep a counter; the lock is held."""
        row = self._row(key)
        if row is None:
            used = self._used()
            if used == _MOST_COUNTERS:
                return  # it counts as spent already
            row = self._rows[key] = _FIRST + used * _COUNTER.size
            _USED.pack_into(self._memory, _MOST.size, used + 1)
        tokens = math.nan if counter.tokens is None else counter.tokens
        _COUNTER.pack_into(self._memory, row, _digest(key), counter.calls, counter.bytes, tokens, counter.at)

    def _used(self) -> int:
        return int(_USED.unpack_from(self._memory, _MOST.size)[0])

    def _row(self, key: LimitKey) -> int | None:
        row = self._rows.get(key)
        if row is not None:
            return row
        wanted, at = _digest(key), _FIRST
        end = _FIRST + self._used() * _COUNTER.size
        while (at := self._memory.find(wanted, at, end)) >= 0:
            if (at - _FIRST) % _COUNTER.size == 0:
                self._rows[key] = at
                return at
            at += 1
        return None


def _digest(key: LimitKey) -> bytes:
    return hashlib.sha256(repr((key.file, key.rule, key.whose)).encode()).digest()[:16]


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
