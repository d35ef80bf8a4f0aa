"""The gateway: its lifetime, its sessions, and `call`, the one path of every tool call."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from gateway.core.calls import Outcome, Principal, ToolCall
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy import CompiledPolicy
from gateway.core.policy.limits import Counters
from gateway.core.policy.state import PolicyState
from gateway.core.secrets import spellings
from gateway.core.seeding import episode_environment
from gateway.core.session_facts import Mode
from gateway.errors import ClientError, ShuttingDown, UnknownSession
from gateway.runtime.approvals import Approvals, Prompt
from gateway.runtime.call_log import log_call
from gateway.runtime.call_path import CallPath, Told
from gateway.runtime.clock import Clock
from gateway.runtime.egress import EgressDesk
from gateway.runtime.lease_pool import LeasePool
from gateway.runtime.ledger import Ledger
from gateway.runtime.packages import Installer
from gateway.runtime.packs import Pack
from gateway.runtime.peer import NOBODY, ClientFacts, ClientPeer
from gateway.runtime.places import PlaceTables
from gateway.runtime.pool_shelf import PoolSettings
from gateway.runtime.readings import Readings
from gateway.runtime.served_pack import ServedPack, ServingSettings, serve_packs
from gateway.runtime.session_opening import SessionOpening, SessionTerms
from gateway.runtime.sessions import Session, SessionTable, named_session_id, new_session_id
from gateway.runtime.shared_memory import SharedMemory
from gateway.runtime.tally import CallTally
from gateway.sandbox.contract import SandboxDriver, Snapshot
from gateway.sandbox.egress import EgressGate, EgressSettings

if TYPE_CHECKING:
    from gateway.runtime.tracing import CallTracing

__all__ = ["Gateway", "GatewaySettings", "Readiness", "open_gateway"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What an operator may set. Times in seconds, sizes in bytes."""

    mode: Mode = "deployment"
    max_sessions: int = 500
    max_sessions_per_principal: int = 100
    session_idle: float = 1800.0
    call_timeout: float = 30.0
    client_timeout: float = 300.0
    drain: float = 30.0
    max_result: int = 10_000_000
    plain_arguments: bool = False
    locked: bool = False
    pool: PoolSettings = field(default_factory=PoolSettings)
    egress: EgressSettings = field(default_factory=EgressSettings)
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def serving(self) -> ServingSettings:
        """Return the part that bringing up a pack needs."""
        return ServingSettings(
            call_timeout=self.call_timeout,
            client_timeout=self.client_timeout,
            max_result=self.max_result,
            locked=self.locked,
            training=self.mode == "training",
            secrets=self.secrets,
        )


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether calls would be answered, and what each part says of itself."""

    ready: bool
    detail: JsonObject


class Gateway:
    """Serves packs. Made by `open_gateway`; `call` is the only way to a tool."""

    def __init__(
        self,
        packs: Mapping[str, ServedPack],
        *,
        driver: SandboxDriver,
        ledger: Ledger,
        clock: Clock,
        settings: GatewaySettings,
        tasks: TaskGroup,
        egress: EgressDesk,
        places: PlaceTables,
        counters: Counters,
    ) -> None:
        self.packs = packs
        for served in packs.values():
            served.in_force.since = clock.now()
        self.driver = driver
        self.clock = clock
        self.settings = settings
        self.approvals = Approvals(ledger, clock)
        self.tally = CallTally()
        self.tracing: CallTracing | None = None  # set by whoever opened the gateway, where spans are wanted
        self._ledger = ledger
        self._tasks = tasks
        self.places = places
        self._sessions = SessionTable(places.sessions, settings.max_sessions_per_principal)
        self._pool = LeasePool(
            packs.values(),
            driver=driver,
            egress=egress,
            tasks=tasks,
            settings=settings.pool,
            env=episode_environment(0) if settings.mode == "training" else None,
        )
        self.readings = Readings(self._sessions, self._pool, ledger, egress)
        self._opening = SessionOpening(
            driver=driver,
            ledger=ledger,
            clock=clock,
            tasks=tasks,
            egress=egress,
            pool=self._pool,
            counters=counters,
            mode=settings.mode,
            plain_arguments=settings.plain_arguments,
            secrets=spellings(settings.secrets.values()),
        )
        self._in_flight = 0
        self._idle = anyio.Event()
        self._draining = False

    # -- state

    @property
    def draining(self) -> bool:
        """Whether new calls are turned away."""
        return self._draining

    @property
    def ready(self) -> bool:
        """Whether a call would be answered now."""
        return not self._draining and self._ledger.healthy

    @property
    def in_flight(self) -> int:
        """How many calls are on their way."""
        return self._in_flight

    def readiness(self) -> Readiness:
        """Return what `/ready` shows."""
        packs: JsonObject = {
            name: {
                "tools": len(pack.catalog.tools),
                "findings": list[JsonValue](pack.catalog.findings),
                "policy": pack.in_force.told(),
            }
            for name, pack in self.packs.items()
        }
        detail: JsonObject = {
            "ledger": "ok" if self._ledger.healthy else "cannot be written: calls are refused",
            "draining": self._draining,
            "mode": self.settings.mode,
            "sandbox": self.driver.name,
            "sessions": len(self._sessions),
            "warm": self._pool.ready,
            "packs": packs,
        }
        return Readiness(self.ready, detail)

    # -- sessions

    def served(self, name: str) -> ServedPack:
        """Return the pack of this name; raises `ClientError` where none is served."""
        served = self.packs.get(name)
        if served is None:
            raise ClientError(f"no pack {name[:64]!r} is served here; there are: {', '.join(self.packs)}")
        return served

    async def open_session(
        self,
        pack: str,
        principal: Principal,
        *,
        session_id: str | None = None,
        workspace_seed: Path | None = None,
        snapshot: Snapshot | None = None,
        past: PolicyState | None = None,
        env: Mapping[str, str] | None = None,
        restarts: bool | None = None,
        prompt: str = "",
        client: ClientFacts = NOBODY,
        episode_seed: int = 0,
    ) -> Session:
        """Open a session with a pristine workspace; its servers start at their first call.

        `workspace_seed` overrides the pack's and `snapshot` both; `past` is the policy state that belongs to
        the snapshot. `env` is added to every server's environment, `restarts` says whether a server that
        died is replaced at the next call (by default in deployment), `prompt` is the task the session is for:
        a policy may trust values that appear in it, `client` what its servers are told of who they work for,
        `episode_seed` what a policy's dice are thrown by.

        Raises `TooManySessions`, `ShuttingDown`, `ClientError` (unknown pack) or `SandboxError`.
        """
        if self._draining:
            raise ShuttingDown
        served = self.served(pack)
        place = self._sessions.reserve(principal)
        try:
            terms = SessionTerms(
                workspace_seed, snapshot, past, env or {}, restarts, prompt, client, episode_seed
            )
            session = await self._opening.open(served, principal, session_id or new_session_id(), terms)
            try:
                self._sessions.add(session, place)
            except UnknownSession:
                await session.lease.aclose()
                raise
        except BaseException:
            self._sessions.places.free(place)
            raise
        return session

    def session(self, pack: str, session_id: str, principal: Principal) -> Session:
        """Return a live session of this principal; raises `UnknownSession`."""
        return self._sessions.find(pack, session_id, principal)

    def live_named_session(self, pack: str, principal: Principal, name: str | None) -> Session | None:
        """Return the principal's session of that name if it is open."""
        try:
            return self._sessions.find(pack, named_session_id(principal, name), principal)
        except UnknownSession:
            return None

    async def named_session(
        self, pack: str, principal: Principal, name: str | None, client: ClientFacts = NOBODY
    ) -> Session:
        """Return the principal's session of that name, opened if need be; `None` names its default."""
        session_id = named_session_id(principal, name)
        try:
            async with self._sessions.opening_lock(pack, session_id):
                try:
                    return self._sessions.find(pack, session_id, principal)
                except UnknownSession:
                    return await self.open_session(pack, principal, session_id=session_id, client=client)
        finally:
            self._sessions.forget_lock(pack, session_id)

    async def close_session(self, session: Session) -> None:
        """End a session's servers and drop its workspace. Idempotent."""
        if self._close(session):
            await session.lease.aclose()

    def retire(self, session: Session) -> anyio.Event:
        """Close a session, whose place is free at once; set when nothing of it is left. Idempotent."""
        gone = anyio.Event()

        async def end() -> None:
            try:
                await session.lease.aclose()
            finally:
                gone.set()

        if self._close(session):
            self._tasks.start_soon(end)
        else:
            gone.set()
        return gone

    def _close(self, session: Session) -> bool:
        """Take a session's calls and its place away; `False` where somebody did before."""
        if session.closed:
            return False
        session.closed = True
        self._sessions.remove(session)
        session.announcements.close()
        return True

    # -- the path of a call

    async def call(
        self,
        session: Session,
        call: ToolCall,
        prompt: Prompt | None = None,
        peer: ClientPeer | None = None,
        heard: Callable[[Outcome], None] | None = None,
    ) -> Outcome:
        """Judge, record, run, record, answer: every call of every front goes through here.

        `prompt` puts an approval that the call needs to whoever sits at its client, where a front can;
        `peer` is that client for what the server asks and tells while the call runs. `heard` is told the
        outcome as well, of a call that is cancelled too; it must neither wait nor raise.
        Never raises for anything the call did; raises `ShuttingDown` while draining and
        `UnknownSession` for a closed session. Cancelled, it still records how the call ended.
        """
        if self._draining:
            raise ShuttingDown
        if session.closed:
            raise UnknownSession(session.id)
        session.in_flight += 1
        self._in_flight += 1
        try:
            path = CallPath(
                session,
                call,
                records=self._ledger,
                approvals=self.approvals,
                prompt=prompt,
                peer=peer,
                clock=self.clock,
                told=self._ended if heard is None else self._ended_for(heard),
                tracing=self.tracing,
            )
            if self.tracing is None:
                return await path.run()
            with self.tracing.serving(session, call) as ended:
                outcome = await path.run()
                ended(outcome)
            return outcome
        finally:
            session.in_flight -= 1
            session.last_used = self.clock.monotonic()
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def record(self, body: JsonObject) -> None:
        """Record what happens to a session beside its calls; raises `LedgerError`."""
        await self._ledger.append(body)

    def _ended(
        self, session: Session, call: ToolCall, outcome: Outcome, seconds: float, at_server: float | None
    ) -> None:
        served = session.pack
        self.tally.ended(served.name, served.catalog, call, outcome, seconds, at_server)
        log_call(session, call, outcome, seconds, at_server)

    def _ended_for(self, heard: Callable[[Outcome], None]) -> Told:
        def ended(
            session: Session, call: ToolCall, outcome: Outcome, seconds: float, at_server: float | None
        ) -> None:
            self._ended(session, call, outcome, seconds, at_server)
            heard(outcome)

        return ended

    # -- lifetime

    async def drain(self) -> None:
        """Turn new calls away; return when those in flight are answered or the drain time is over."""
        self._draining = True
        self._pool.stop()
        self.approvals.close()
        if self._in_flight:
            self._idle = anyio.Event()
            with anyio.move_on_after(self.settings.drain):
                await self._idle.wait()

    def end_announcements(self) -> None:
        """End the streams of those who listen to what servers announce: the gateway stops."""
        for session in self._sessions:
            session.announcements.close()

    async def close_idle_sessions(self) -> None:
        """Close sessions that were idle for longer than the settings allow."""
        limit = self.clock.monotonic() - self.settings.session_idle
        for session in self._sessions:
            if not session.in_flight and session.last_used < limit:
                await self.close_session(session)

    async def keep_warm(self) -> None:
        """Keep leases ready for sessions to come, until the gateway drains."""
        await self._pool.run()

    async def aclose(self) -> None:
        """Close every session and what was kept ready."""
        self._draining = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pool.aclose)
            for session in self._sessions:
                tasks.start_soon(self.close_session, session)


@asynccontextmanager
async def open_gateway(
    packs: Sequence[tuple[Pack, CompiledPolicy]],
    *,
    driver: SandboxDriver,
    ledger: Ledger,
    installer: Installer,
    clock: Clock,
    settings: GatewaySettings,
    say: Callable[[str], None] = logger.info,
    gate: EgressGate | None = None,
    shared: SharedMemory | None = None,
    worker: int = 1,
) -> AsyncGenerator[Gateway]:
    """Serve `packs`: install and start each server once, compare it with the lock, then take calls.

    Entered, calls would be answered. Left, every session is closed. Raises `ConfigError` or
    `UsageError` where a pack cannot be served. `gate` stands in for the one that `settings` describe.
    `shared` is what this gateway, worker number `worker`, counts together with others.
    """
    async with gate or EgressGate(settings.egress) as opened:
        egress = EgressDesk(opened, ledger, spellings(settings.secrets.values()))
        served = await serve_packs(
            packs, driver=driver, installer=installer, settings=settings.serving(), say=say, egress=egress
        )
        async with anyio.create_task_group() as tasks:
            gateway = Gateway(
                served,
                driver=driver,
                ledger=ledger,
                clock=clock,
                settings=settings,
                tasks=tasks,
                egress=egress,
                places=shared.tables(worker) if shared else PlaceTables.alone(settings.max_sessions),
                counters=shared.counters() if shared else Counters(),
            )
            tasks.start_soon(_sweep_idle, gateway)
            if settings.pool.maximum:
                tasks.start_soon(gateway.keep_warm)
            try:
                yield gateway
            finally:
                with anyio.CancelScope(shield=True):
                    await gateway.aclose()
                tasks.cancel_scope.cancel()


async def _sweep_idle(gateway: Gateway) -> None:
    while True:
        await anyio.sleep(min(30.0, gateway.settings.session_idle / 4))
        await gateway.close_idle_sessions()
