"""Opens connections for others: judge, resolve, judge the addresses, record, connect. Nothing else connects.

Names are resolved here, once; what is connected to is an address that was checked, never a name. A
decision that cannot be recorded is a refusal.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import SocketStream

from gateway.core.egress import EgressCode, Verdict, judge, judge_addresses, refuse
from gateway.core.policy.egress import HostRule
from gateway.core.policy.public_hosts import Address, Network
from gateway.errors import LedgerError, SandgateError

from .places import new_folder, sweep

__all__ = ["EgressGate", "EgressRefused", "EgressSettings", "Recorder", "Resolver", "resolve"]

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host as text; raises `OSError` where there is none."""


@dataclass(frozen=True, slots=True)
class EgressSettings:
    """What an operator may set. Times in seconds, sizes in bytes.

    `networks` may be reached although they are not public. A session may move `session_bytes` in both
    directions together, over `connections` connections at once, each of which ends after `idle` without a
    byte and after `longest` at all events.
    """

    networks: tuple[Network, ...] = ()
    session_bytes: int = 1_000_000_000
    connections: int = 64
    connect_timeout: float = 10.0
    idle: float = 300.0
    longest: float = 3600.0


class Recorder(Protocol):
    """Where decisions become durable, on behalf of one server of one session."""

    async def decided(self, verdict: Verdict) -> None:
        """Return once the decision is on disk; raises `LedgerError`."""
        ...

    async def closed(self, verdict: Verdict, kind: str, ms: float, sent: int, received: int) -> None:
        """Note how a connection that was allowed ended, in milliseconds and bytes; raises `LedgerError`."""
        ...


class EgressRefused(SandgateError):
    """A connection that is not made; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(f"{verdict.asked}: {verdict.reason} ({verdict.code})")


async def resolve(host: str, port: int) -> list[str]:
    """Ask this machine's resolver."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class EgressGate:
    """Use as an async context manager: leaving it removes the folder of the doors' sockets."""

    def __init__(self, settings: EgressSettings | None = None, *, resolver: Resolver = resolve) -> None:
        self.settings = settings or EgressSettings()
        self._resolver = resolver
        self._folder: Path | None = None
        self._doors = 0

    async def __aenter__(self) -> EgressGate:
        """Remove what a dead gateway left."""
        await anyio.to_thread.run_sync(sweep, Path(tempfile.gettempdir()))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Remove the sockets' folder."""
        folder, self._folder = self._folder, None
        if folder is not None:
            with anyio.CancelScope(shield=True), suppress(FileNotFoundError):
                await anyio.to_thread.run_sync(shutil.rmtree, folder)

    def new_place(self) -> Path:
        """Return a path for one door's socket, in a folder that only this user enters."""
        if self._folder is None:
            self._folder = new_folder(Path(tempfile.gettempdir()))
        self._doors += 1
        return self._folder / str(self._doors)

    async def admit(self, host: str, port: int, rules: Sequence[HostRule], recorder: Recorder) -> Verdict:
        """Decide and record; return the verdict that allows, with its addresses. Raises `EgressRefused`."""
        verdict = judge(host, port, rules)
        if verdict.allowed:
            verdict = await self._resolved(verdict)
        await record(recorder, verdict)
        if not verdict.allowed:
            raise EgressRefused(verdict)
        return verdict

    async def _resolved(self, verdict: Verdict) -> Verdict:
        there = verdict.destination
        assert there is not None
        try:
            with anyio.fail_after(self.settings.connect_timeout):
                found = await self._resolver(there.host, there.port)
        except (OSError, UnicodeError, TimeoutError) as error:
            why = "it did not resolve in time" if isinstance(error, TimeoutError) else str(error)
            return refuse(EgressCode.UNRESOLVED, f"{there.host} does not resolve: {why}", verdict.asked)
        return judge_addresses(verdict, found, self.settings.networks)

    async def connect(self, verdict: Verdict) -> SocketStream:
        """Connect to one of the addresses of a verdict that allows. Raises `EgressRefused`."""
        there = verdict.destination
        assert there is not None
        why = "there was nothing to try"
        for address in verdict.addresses:
            try:
                return await self._connect(address, there.port)
            except TimeoutError:
                why = f"{address} does not answer"
            except OSError as error:
                why = f"{address}: {error.strerror or error.__cause__ or error}"
        raise EgressRefused(refuse(EgressCode.UNREACHABLE, f"no connection: {why}", verdict.asked))

    async def _connect(self, address: Address, port: int) -> SocketStream:
        with anyio.fail_after(self.settings.connect_timeout):
            return await anyio.connect_tcp(str(address), port)


async def record(recorder: Recorder, verdict: Verdict) -> None:
    """Have a decision recorded. Raises `EgressRefused` where it cannot be."""
    try:
        await recorder.decided(verdict)
    except LedgerError as error:
        raise EgressRefused(refuse(EgressCode.AUDIT_UNAVAILABLE, str(error), verdict.asked)) from error
