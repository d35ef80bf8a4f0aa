"""The shell around the session machine: carries out what it commands, for one call at a time.

This is the only place where a decision leads to a ledger record or to a tool server.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import anyio

from gateway.core.calls import FailureKind, Outcome, ToolCall
from gateway.core.events import (
    Acquire,
    Acquired,
    Answer,
    Broke,
    Called,
    Command,
    Event,
    Look,
    Looked,
    Record,
    Recorded,
    RecordLost,
    Returned,
    SeekApproval,
    Send,
)
from gateway.core.json_types import JsonObject
from gateway.errors import LedgerError, SandboxError
from gateway.loop import Promise
from gateway.runtime.approvals import Approvals, Prompt
from gateway.runtime.clock import Clock
from gateway.runtime.peer import ClientPeer, Veiled
from gateway.runtime.sessions import Session
from gateway.runtime.upstream import Upstream, UpstreamFailure

if TYPE_CHECKING:
    from gateway.runtime.tracing import CallTracing

__all__ = ["CallPath", "Records", "Told"]

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How long a call looks at files before what it has not seen is a doubt."""


_RECORDED = Recorded()


class Records(Protocol):
    """Where records become durable."""

    def begin(self, body: JsonObject) -> Promise[None]:
        """Have `body` written, whoever waits for it: kept once it is on disk, else a `LedgerError`."""
        ...


class Told(Protocol):
    """Who is told of each call that ended; see `runtime.tally`."""

    def __call__(
        self, session: Session, call: ToolCall, outcome: Outcome, seconds: float, at_server: float | None, /
    ) -> None:
        """Take note; must neither wait nor raise."""
        ...


class CallPath:
    """One call of one session on its way through the machine. `told` hears how it ended, whoever left."""

    def __init__(
        self,
        session: Session,
        call: ToolCall,
        *,
        records: Records,
        approvals: Approvals,
        prompt: Prompt | None,
        peer: ClientPeer | None,
        clock: Clock,
        told: Told,
        tracing: CallTracing | None,
    ) -> None:
        self._session = session
        self._call = call
        self._records = records
        self._approvals = approvals
        self._prompt = prompt
        self._peer = peer and Veiled(peer, self._shown)
        self._clock = clock
        self._told = told
        self._tracing = tracing
        self._started = clock.monotonic()
        self._at_server: float | None = None
        self._record: Promise[None] | None = None
        self._upstream: Upstream | None = None

    async def run(self) -> Outcome:
        """Take the call to its outcome. Cancelled, it records that the caller left, then lets go."""
        session = self._session
        command = self._advance(Called(self._call, session.episode, session.step, self._clock.now()))
        left: BaseException | None = None
        while not isinstance(command, Answer):
            try:
                if left is not None and not isinstance(command, Record):
                    raise left
                command = self._advance(await self._carry_out(command))
            except anyio.get_cancelled_exc_class() as cancelled:
                with anyio.CancelScope(shield=True):
                    if not isinstance(command, Record):
                        await self._abandon()
                        raise
                    # A record once begun is finished: no call without its outcome.
                    left, command = cancelled, self._advance(await self._recorded())
        return self._ended(command.outcome)

    def _advance(self, event: Event) -> Command:
        return self._session.machine.receive(self._call.call_id, event, self._clock.monotonic())

    async def _abandon(self) -> None:
        command = self._advance(Broke(FailureKind.CANCELLED, "the caller left"))
        while not isinstance(command, Answer):
            command = self._advance(await self._carry_out(command))
        self._ended(command.outcome)

    def _ended(self, outcome: Outcome) -> Outcome:
        seconds = self._clock.monotonic() - self._started
        self._told(self._session, self._call, outcome, seconds, self._at_server)
        return outcome

    async def _carry_out(self, command: Command) -> Event:
        match command:
            case Record(body):
                self._record = self._records.begin(body)
                return await self._recorded()
            case Acquire(server):
                return await self._acquire(server)
            case Send(_, method, params):
                return await self._send(method, params)
            case Look(paths):
                return await self._look(paths)
            case SeekApproval(request):
                return await self._approvals.seek(request, self._prompt)
            case Answer():
                raise RuntimeError("an answer is given, not carried out")

    async def _look(self, paths: Sequence[str]) -> Event:
        """Look for links on the way to `paths`. It is over soon, so a caller who leaves does not stop it."""
        workspace, found = self._session.workspace, dict[str, bool]()
        with anyio.move_on_after(LOOK_SECONDS, shield=True):
            for path in paths:
                try:
                    found[path] = await workspace.crosses_link(path[len(workspace.path) :].lstrip("/"))
                except (SandboxError, OSError) as error:  # left out, it is a doubt
                    logger.warning("a path of session %s cannot be looked at: %s", self._session.id, error)
        return Looked(found)

    async def _recorded(self) -> Event:
        assert self._record is not None
        try:
            await self._record
        except LedgerError as error:
            return RecordLost(str(error))
        return _RECORDED

    async def _acquire(self, server: str) -> Event:
        try:
            self._upstream = await self._session.lease.server(server)
        except UpstreamFailure as failure:
            return _broke(failure)
        return Acquired(self._upstream.sandbox.id)

    def _shown(self, said: JsonObject) -> JsonObject:
        return self._session.machine.told(self._call.call_id, said)

    async def _send(self, method: str, params: JsonObject) -> Event:
        # The very server that was acquired and compared with the lock, never a later one.
        assert self._upstream is not None
        sent = self._clock.monotonic()
        try:
            if self._tracing is None:
                return Returned(await self._upstream.request(method, params, self._peer))
            with self._tracing.sending(self._upstream.name, self._call, params) as traced:
                return Returned(await self._upstream.request(method, traced, self._peer))
        except UpstreamFailure as failure:
            return _broke(failure)
        finally:
            self._at_server = self._clock.monotonic() - sent


def _broke(failure: UpstreamFailure) -> Broke:
    return Broke(failure.kind, failure.message, failure.error)
