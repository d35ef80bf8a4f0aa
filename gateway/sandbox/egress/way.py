"""The gateway's own connections to a server elsewhere: judged, paid for and recorded as a sandbox's are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketStream

from gateway.core.policy.egress import HostRule

from .account import Account, Spent, Traffic
from .gate import EgressGate, Recorder

__all__ = ["Way"]

SPENT = "the session's bytes are used up"


class Way:
    """Opens connections to the hosts of `rules`. `aclose` ends those that are still open."""

    def __init__(
        self, gate: EgressGate, rules: Sequence[HostRule], recorder: Recorder, account: Account
    ) -> None:
        self._gate, self._rules, self._recorder, self._account = gate, tuple(rules), recorder, account
        self._open: set[_Counted] = set()

    async def connect(self, host: str, port: int) -> ByteStream:
        """Return a connection to `host`, recorded before the first packet goes to it, and when it ends.

        Raises `EgressRefused`, also where nobody answers or the decision cannot be recorded.
        """
        await self._account.pace()
        async with AsyncExitStack() as held:
            most = self._gate.settings.connections
            await held.enter_async_context(self._account.place(f"{host}:{port}", most, self._recorder))
            verdict = await self._gate.admit(host, port, self._rules, self._recorder)
            traffic = await held.enter_async_context(self._account.noted(verdict, self._recorder))
            stream = await held.enter_async_context(await self._gate.connect(verdict))
            counted = _Counted(stream, self._account, traffic, held.pop_all())
            self._open.add(counted)
            counted.held.callback(self._open.discard, counted)
            return counted

    async def aclose(self) -> None:
        """End every connection, with its record. Idempotent."""
        for counted in list(self._open):
            await counted.aclose()


class _Counted(ByteStream):
    """A connection whose bytes are its session's; `held` is what ends with it."""

    def __init__(
        self, stream: SocketStream, account: Account, traffic: Traffic, held: AsyncExitStack
    ) -> None:
        self._stream, self._account, self._traffic, self.held = stream, account, traffic, held

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await self._stream.receive(max_bytes)
        self._traffic.received += len(data)
        await self._spend(len(data))
        return data

    async def send(self, item: bytes) -> None:
        self._traffic.sent += len(item)
        await self._spend(len(item))
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def _spend(self, size: int) -> None:
        try:
            self._account.spend(size)
        except Spent:
            self._traffic.kind = "budget_spent"
            await self.aclose()
            raise anyio.BrokenResourceError(SPENT) from None

    async def aclose(self) -> None:
        if self._traffic.kind == "cut":
            self._traffic.kind = "closed"
        with anyio.CancelScope(shield=True):
            await self.held.aclose()
