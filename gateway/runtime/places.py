"""How many sessions may be open, and on which worker each of them is: a few rows of memory, shared by all.

A place is one row: who holds it (a worker's number, 0: free), whose it is, and the name it can be found
by, both as digests. Whoever opens a session takes a place before, under one lock for all workers, so that
limits hold to the one; a place goes back when its session ends, and with its worker when that dies.
A gateway without workers has the same rows to itself.
"""

from __future__ import annotations

import hashlib
import mmap
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

from gateway.errors import TooManySessions

__all__ = ["PlaceTables", "Places"]

_DIGEST = 16
_ROW = 1 + 2 * _DIGEST
_NOBODY = nullcontext()
_SPARE_NAMES = 1024
"""Names that may be held beyond the sessions: those whose first request is being answered."""

_MOST_SNAPSHOTS = 4096
"""Snapshots that other workers can be asked for; one more is known to its own worker alone."""


@lru_cache(maxsize=4096)
def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_DIGEST]


class Places:
    """One table of places. `own` is the number of the worker that takes them here.

    `shared`: others may give places back as well.
    """

    def __init__(
        self, memory: mmap.mmap, start: int, most: int, own: int, lock: AbstractContextManager[None]
    ) -> None:
        self.most = most
        self.shared = lock is not _NOBODY
        self._memory = memory
        self._owners = start
        self._principals = start + most
        self._keys = self._principals + most * _DIGEST
        self._own = own
        self._lock = lock

    def take(self, principal: str, most_of_principal: int, key: str = "") -> int:
        """Take a place, to be found by `key`; raises `TooManySessions`."""
        with self._lock:
            whose = _digest(principal)
            place = self._free_place()
            if self._column(self._principals).count(whose) >= most_of_principal:
                raise TooManySessions(most_of_principal, f"principal {principal!r}")
            self._write(place, whose, key)
            return place

    def claim(self, key: str) -> tuple[int, int | None]:
        """Return the worker that holds `key`, and the place where it is this one's and new.

        Raises `TooManySessions`.
        """
        holder = self.holder(key)
        if holder is not None:
            return holder, None
        with self._lock:
            holder = self.holder(key)
            if holder is not None:
                return holder, None
            place = self._free_place()
            self._write(place, bytes(_DIGEST), key)
            return self._own, place

    def name(self, place: int, key: str) -> None:
        """Let a place that was taken be found by `key`."""
        self._put(self._keys, place, _digest(key))

    def holder(self, key: str) -> int | None:
        """Return the worker that holds the place of `key`, `None` if there is none."""
        wanted, at = _digest(key), self._keys
        while (at := self._memory.find(wanted, at, self._keys + self.most * _DIGEST)) >= 0:
            if (at - self._keys) % _DIGEST == 0:
                return self._memory[self._owners + (at - self._keys) // _DIGEST] or None
            at += 1
        return None

    def free(self, place: int) -> None:
        """Give a place back."""
        self._put(self._keys, place, bytes(_DIGEST))
        self._put(self._principals, place, bytes(_DIGEST))
        self._memory[self._owners + place] = 0

    def free_all_of(self, worker: int) -> None:
        """Give back what a worker held that is no more."""
        for place, owner in enumerate(self._memory[self._owners : self._owners + self.most]):
            if owner == worker:
                self.free(place)

    def _free_place(self) -> int:
        at = self._memory.find(b"\0", self._owners, self._owners + self.most)
        if at < 0:
            raise TooManySessions(self.most, "this gateway")
        return at - self._owners

    def _write(self, place: int, whose: bytes, key: str) -> None:
        self._put(self._principals, place, whose)
        self._put(self._keys, place, _digest(key) if key else bytes(_DIGEST))
        # Last: whoever looks without the lock finds a row that is whole, or none.
        self._memory[self._owners + place] = self._own

    def _put(self, column: int, place: int, value: bytes) -> None:
        at = column + place * _DIGEST
        self._memory[at : at + _DIGEST] = value

    def _column(self, start: int) -> bytes:
        return self._memory[start : start + self.most * _DIGEST]


@dataclass(frozen=True, slots=True)
class PlaceTables:
    """What is counted by places: sessions with their sandboxes, minted MCP ids, episode sessions.

    `names`: who answers a principal's session of some name, or its default one; `snapshots`: who has which.
    """

    sessions: Places
    minted: Places
    episodes: Places
    names: Places
    snapshots: Places

    @classmethod
    def alone(cls, most: int) -> PlaceTables:
        """Return the tables of a gateway that is one process."""
        return cls.within(mmap.mmap(-1, cls.size(most)), 0, most, 1, _NOBODY)

    @staticmethod
    def size(most: int) -> int:
        """Return the bytes that the tables take for `most` sessions."""
        return sum(_rows(most)) * _ROW

    @classmethod
    def within(
        cls, memory: mmap.mmap, start: int, most: int, own: int, lock: AbstractContextManager[None]
    ) -> PlaceTables:
        """Return the tables that begin at `start` of `memory`, as worker `own` uses them."""
        tables: list[Places] = []
        for rows in _rows(most):
            tables.append(Places(memory, start, rows, own, lock))
            start += rows * _ROW
        return cls(*tables)

    def free_all_of(self, worker: int) -> None:
        """Give back what a worker held that is no more."""
        for table in (self.sessions, self.minted, self.episodes, self.names, self.snapshots):
            table.free_all_of(worker)


def _rows(most: int) -> tuple[int, int, int, int, int]:
    return most, most, most, 2 * most + _SPARE_NAMES, _MOST_SNAPSHOTS
