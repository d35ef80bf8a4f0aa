"""The runtime's half of egress: whose connection it is, and its records in the ledger. Connects nothing.

A session has one account, which all its servers draw on, and a door for each sandbox that was granted
hosts. Sandboxes are started before anybody owns their session; `owner` is told once somebody does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from gateway.core.egress import Verdict, past_the_proxy
from gateway.core.json_types import JsonObject
from gateway.core.policy.egress import HostRule
from gateway.core.records import CallIds, egress_closed_record, egress_record
from gateway.core.secrets import mask_object
from gateway.errors import LedgerError
from gateway.runtime.tally import EgressTally
from gateway.sandbox.contract import Attempt, Sandbox
from gateway.sandbox.egress import Account, Door, EgressGate, Way

__all__ = ["EgressDesk", "ServerRecorder", "SessionEgress"]


logger = logging.getLogger(__name__)


class Records(Protocol):
    """Where records become durable."""

    async def append(self, body: JsonObject) -> None:
        """Return once `body` is on disk; raises `LedgerError`."""
        ...


class EgressDesk:
    """What all sessions of a gateway share: the gate, the ledger, and what must not be written there."""

    def __init__(self, gate: EgressGate, records: Records, secrets: tuple[str, ...] = ()) -> None:
        self.gate = gate
        self.records = records
        self.secrets = secrets
        self.tally = EgressTally()

    def session(self, pack: str) -> SessionEgress:
        """Return a new session's way out, with a budget of its own."""
        return SessionEgress(self, pack)


class SessionEgress:
    """One session's doors and its account. `owner` says whose it is, once it is somebody's."""

    def __init__(self, desk: EgressDesk, pack: str) -> None:
        self.desk = desk
        self.pack = pack
        self.owner: Callable[[], CallIds] = lambda: CallIds(None, None, None, None, pack)
        self._account = Account(desk.gate.settings.session_bytes)

    async def open(self, server: str, rules: Sequence[HostRule], tasks: TaskGroup) -> Door:
        """Open a door for one sandbox of `server`; it serves in `tasks` until it is closed."""
        door = Door(self.desk.gate, rules, self.recorder(server), self._account)
        await tasks.start(door.serve)
        return door

    def way(self, server: str, rules: Sequence[HostRule]) -> Way:
        """Return what the gateway connects by to a server that runs elsewhere."""
        return Way(self.desk.gate, rules, self.recorder(server), self._account)

    def watch(self, server: str, sandbox: Sandbox, tasks: TaskGroup, counted: str | None = None) -> Sandbox:
        """Record in `tasks` what a sandbox tries to reach past its door, and return it."""
        recorder = self.recorder(server, counted)

        def tell(attempt: Attempt) -> None:
            tasks.start_soon(recorder.attempted, attempt)

        sandbox.notice(tell)
        return sandbox

    def recorder(self, server: str, counted: str | None = None) -> ServerRecorder:
        """Return what writes decisions about connections that `server` asks for, counted under its name."""
        return ServerRecorder(self, server, counted or server)


class ServerRecorder:
    """A `Recorder` for one server of one session, or for another program of it; tallied as `counted`."""

    def __init__(self, session: SessionEgress, server: str, counted: str) -> None:
        self._session, self._server = session, server
        self._place = session.pack, counted

    async def decided(self, verdict: Verdict) -> None:
        """As `Recorder.decided`."""
        effect = "allow" if verdict.allowed else "deny"
        counted = (*self._place, effect, verdict.code.value)
        self._session.desk.tally.decisions[counted] += verdict.attempts
        await self._append(egress_record(ids=self._session.owner(), server=self._server, verdict=verdict))

    async def closed(self, verdict: Verdict, kind: str, ms: float, sent: int, received: int) -> None:
        """As `Recorder.closed`."""
        tally = self._session.desk.tally
        tally.sent[self._place] += sent
        tally.received[self._place] += received
        outcome: JsonObject = {
            "kind": kind,
            "ms": round(ms, 3),
            "bytes": received,
            "sent": sent,
            "hmac": None,
        }
        ids = self._session.owner()
        await self._append(
            egress_closed_record(ids=ids, server=self._server, verdict=verdict, outcome=outcome)
        )

    async def attempted(self, attempt: Attempt) -> None:
        """Record what was tried past the proxy. Nothing waits for it: the kernel refused it already."""
        verdict = past_the_proxy(attempt.protocol, attempt.address, attempt.port, attempt.name, attempt.count)
        with anyio.CancelScope(shield=True):  # also where the session ends just now
            try:
                await self.decided(verdict)
            except LedgerError as error:
                logger.warning("%s of %s is not recorded: %s", verdict.asked, self._server, error)

    async def _append(self, body: JsonObject) -> None:
        desk = self._session.desk
        # A host name can carry a secret out; the refusal of it must not carry it into the ledger.
        await desk.records.append(mask_object(body, desk.secrets))
