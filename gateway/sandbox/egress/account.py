"""What one session may still use of the network, over all its servers, and what became of each connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from gateway.core.egress import EgressCode, Verdict, refuse
from gateway.errors import LedgerError

from .gate import EgressRefused, Recorder, record

__all__ = ["Account", "Spent", "Traffic"]

BURST, PER_SECOND = 64, 16.0
"""Attempts of one session that are heard at once, and per second from then on; more wait."""


class Spent(Exception):
    """The session's bytes are used up."""


@dataclass(slots=True)
class Traffic:
    """What one connection moved, in bytes, and how it ended; `cut` until somebody knows better."""

    sent: int = 0
    received: int = 0
    kind: str = "cut"


@dataclass(slots=True)
class Account:
    """What one session may still use: bytes in both directions, connections at once, and attempts."""

    bytes_left: int
    open: int = 0
    tokens: float = BURST
    at: float = 0.0
    turn: anyio.Lock = field(default_factory=anyio.Lock)

    async def pace(self) -> None:
        """Wait until the next attempt may be heard."""
        async with self.turn:
            now = anyio.current_time()
            self.tokens = min(BURST, self.tokens + (now - self.at) * PER_SECOND) - 1
            self.at = now
            if self.tokens < 0:
                await anyio.sleep(-self.tokens / PER_SECOND)

    @asynccontextmanager
    async def place(self, shown: str, most: int, recorder: Recorder) -> AsyncGenerator[None]:
        """Hold one of `most` places for a connection to `shown`.

        Raises `EgressRefused`, recorded, where none is free or nothing is left to move over it.
        """
        refused = None
        if self.bytes_left <= 0:
            refused = refuse(EgressCode.BUDGET_SPENT, "the session's bytes are used up", shown)
        elif self.open >= most:
            refused = refuse(EgressCode.TOO_MANY, "too many connections are open", shown)
        if refused is not None:
            await record(recorder, refused)
            raise EgressRefused(refused)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def spend(self, size: int) -> None:
        """Take `size` bytes; raises `Spent` once there are none left."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise Spent

    @asynccontextmanager
    async def noted(self, verdict: Verdict, recorder: Recorder) -> AsyncGenerator[Traffic]:
        """Have the end of a connection recorded, whatever ends it, with what it moved until then."""
        traffic, started = Traffic(), anyio.current_time()
        try:
            yield traffic
        except EgressRefused:
            traffic.kind = "unreachable"
            raise
        finally:
            with anyio.CancelScope(shield=True):
                ms = (anyio.current_time() - started) * 1000
                try:
                    await recorder.closed(verdict, traffic.kind, ms, traffic.sent, traffic.received)
                except LedgerError:
                    self.bytes_left = 0  # what is not recorded does not go on
