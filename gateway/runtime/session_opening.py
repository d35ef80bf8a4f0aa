"""Opens sessions for a gateway: what each is judged by, and the lease that its servers run on.

Who may have one, and under which name, is the gateway's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anyio.abc import TaskGroup

from gateway.core.calls import Principal
from gateway.core.json_types import JsonObject
from gateway.core.policy.limits import Counters
from gateway.core.policy.state import PolicyState
from gateway.core.session import SessionMachine
from gateway.core.session_facts import Mode, SessionFacts
from gateway.runtime.announcements import Announcements
from gateway.runtime.clock import Clock
from gateway.runtime.egress import EgressDesk
from gateway.runtime.lease_pool import LeasePool
from gateway.runtime.leases import Lease
from gateway.runtime.ledger import Ledger
from gateway.runtime.peer import ClientFacts
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.sessions import Session
from gateway.runtime.upstream import Announced
from gateway.sandbox.contract import SandboxDriver, Snapshot

__all__ = ["SessionOpening", "SessionTerms"]


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What a session asks for beyond its pack: other files, more environment, restarts, its task.

    See `Gateway.open_session` for each.
    """

    workspace_seed: Path | None
    snapshot: Snapshot | None
    past: PolicyState | None
    env: Mapping[str, str]
    restarts: bool | None
    prompt: str
    client: ClientFacts
    episode_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpening:
    """Opens the sessions of one gateway, from its parts. Made by it."""

    driver: SandboxDriver
    ledger: Ledger
    clock: Clock
    tasks: TaskGroup
    egress: EgressDesk
    pool: LeasePool
    counters: Counters
    mode: Mode
    plain_arguments: bool
    secrets: tuple[str, ...] = field(repr=False)

    async def open(
        self, served: ServedPack, principal: Principal, session_id: str, terms: SessionTerms
    ) -> Session:
        """Return a session with a pristine workspace; raises `SandboxError`."""
        machine = SessionMachine(self._facts(served, principal, session_id, terms), terms.past)
        announcements = Announcements()

        def announced(method: str, params: JsonObject) -> None:
            announcements.publish(method, machine.masked(params))

        lease = await self._lease(served, terms, machine, announced)
        now = self.clock.monotonic()
        session = Session(session_id, served, principal, machine, lease, now, announcements)
        lease.belongs_to(session.ids)
        return session

    async def _lease(
        self, served: ServedPack, terms: SessionTerms, machine: SessionMachine, announced: Announced
    ) -> Lease:
        """Return a lease nobody has used: warm if there is one, else its servers start when needed."""
        restarts = self.mode == "deployment" if terms.restarts is None else terms.restarts
        client = served.seen_by(terms.client)
        if terms.snapshot is None:
            warm = self.pool.take(
                served,
                terms.workspace_seed,
                terms.env,
                restarts=restarts,
                on_listing=machine.listed,
                client=client,
                announced=announced,
            )
            if warm is not None:
                return warm
        workspace_spec = served.workspace_spec(terms.workspace_seed, terms.snapshot)
        return Lease(
            served.plans_with(terms.env),
            driver=self.driver,
            workspace=await self.driver.open_workspace(workspace_spec),
            tasks=self.tasks,
            restarts=restarts,
            on_listing=machine.listed,
            egress=self.egress.session(served.name),
            client=client,
            announced=announced,
        )

    def _facts(
        self, served: ServedPack, principal: Principal, session_id: str, terms: SessionTerms
    ) -> SessionFacts:
        return SessionFacts(
            id=session_id,
            pack=served.name,
            principal=principal,
            in_force=served.in_force,
            catalog=served.catalog,
            mode=self.mode,
            workspace=served.workspace_path,
            key=self.ledger.key,
            plain_arguments=self.plain_arguments or self.mode == "training",
            secrets=self.secrets,
            counters=self.counters,
            prompt=terms.prompt,
            seed=terms.episode_seed,
        )
