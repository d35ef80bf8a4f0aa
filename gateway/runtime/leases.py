"""One session's hold on its servers: started at first use, replaced only after a death was told.

A server that dies fails the calls it had and marks the lease; nothing is restarted behind a
caller's back. Where restarts are allowed (deployment), the next call gets a fresh process over the
same workspace; in training the session is over, because its episode is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from gateway.core.calls import FailureKind
from gateway.core.json_types import JsonObject
from gateway.core.policy.egress import HostRule
from gateway.core.records import CallIds
from gateway.errors import SandboxError
from gateway.runtime.egress import SessionEgress
from gateway.runtime.peer import NOBODY, ClientFacts, Era, Standing
from gateway.runtime.remote import RemoteEndpoint, RemoteServer
from gateway.runtime.upstream import Announced, Upstream, UpstreamFailure, UpstreamSettings
from gateway.runtime.upstream.opening import KnownEras, Offers, WrongEra
from gateway.sandbox.contract import Sandbox, SandboxDriver, SandboxSpec, Workspace, WorkspaceSpec
from gateway.sandbox.egress import Door

__all__ = ["Lease", "ServerPlan"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
"""Seconds during which a failed start is remembered instead of tried again; doubled at each failure."""


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """How to run one server: what to isolate, its deadlines, and the hosts it may reach.

    `remote` is where it is, if it does not run here; `eras` are what it was found to speak.
    """

    name: str
    spec: SandboxSpec
    settings: UpstreamSettings
    egress: tuple[HostRule, ...] = ()
    remote: RemoteEndpoint | None = None
    eras: KnownEras = field(default_factory=KnownEras, compare=False)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A start that failed: why, and until when nobody tries again."""

    failure: UpstreamFailure
    pause: float
    until: float


class Lease:
    """The live servers of one session. `failed` says why, once one of them died.

    `on_listing` is told what a server lists each time it was (re)started or announced a change,
    `announced` what a server says that belongs to no call. `client` is who the servers work for, and
    `standing`, where a front sets it, the way to that client outside of its calls.
    """

    def __init__(
        self,
        plans: Mapping[str, ServerPlan],
        *,
        driver: SandboxDriver,
        workspace: Workspace,
        tasks: TaskGroup,
        restarts: bool,
        on_listing: Callable[[str, list[JsonObject]], None],
        egress: SessionEgress | None = None,
        client: ClientFacts = NOBODY,
        announced: Announced | None = None,
    ) -> None:
        self.workspace = workspace
        self.client = client
        self.failed: str | None = None
        self._plans = plans
        self._driver = driver
        self._tasks = tasks
        self._restarts = restarts
        self._on_listing = on_listing
        self._egress = egress
        self._doors: dict[str, Door] = {}
        self._announced = announced
        self._live: dict[str, Upstream] = {}
        self._starting = {name: anyio.Lock() for name in plans}
        self._refusals: dict[str, _Refusal] = {}
        self._beside: list[Sandbox] = []
        self._apart: Workspace | None = None
        self._closed = False
        self._level: str | None = None
        self.standing: Standing | None = None

    @property
    def untouched(self) -> bool:
        """Whether every server runs, and lists what it listed when it started."""
        alive = all(upstream.ended is None and not upstream.stale for upstream in self._live.values())
        return alive and self._live.keys() == self._plans.keys() and not self._closed

    def running(self) -> Iterator[Upstream]:
        """Yield the servers that run now."""
        return (upstream for upstream in list(self._live.values()) if upstream.ended is None)

    async def start_all(self) -> None:
        """Start every server, before anybody needs it; raises `UpstreamFailure`."""
        for name in self._plans:
            await self.server(name)

    def hand_over(
        self,
        *,
        restarts: bool,
        on_listing: Callable[[str, list[JsonObject]], None],
        announced: Announced | None = None,
    ) -> None:
        """Bind a lease that was made ahead to the session it is for."""
        self._restarts = restarts
        self._on_listing = on_listing
        self._announced = announced

    def offers(self) -> dict[str, Offers]:
        """Return what each running server said that it offers."""
        return {name: upstream.offers for name, upstream in self._live.items()}

    def belongs_to(self, owner: Callable[[], CallIds]) -> None:
        """Say whose the lease is, for the records of what its servers connect to."""
        if self._egress is not None:
            self._egress.owner = owner

    async def server(self, name: str) -> Upstream:
        """Return the running server, starting it if needed; raises `UpstreamFailure`."""
        upstream = self._live.get(name)
        if upstream is not None and upstream.ended is None and not upstream.stale:
            return upstream
        async with self._starting[name]:
            return await self._current(name)

    async def beside(self, spec: SandboxSpec, apart: WorkspaceSpec | None = None) -> Sandbox:
        """Start another program, which ends with the servers; raises `SandboxError`.

        It has the session's workspace, or with `apart` one of its own that goes with the session's.
        """
        if apart is not None and self._apart is None:
            self._apart = await self._driver.open_workspace(apart)
        workspace = self.workspace if apart is None or self._apart is None else self._apart
        sandbox = self.watched(spec.name, await self._driver.acquire(spec, workspace))
        self._beside.append(sandbox)
        if self._closed:
            await self.aclose()
            raise SandboxError("the session is closed")
        return sandbox

    def watched(self, name: str, sandbox: Sandbox, counted: str | None = None) -> Sandbox:
        """Have what a sandbox tries to reach past its door recorded, as what `name` did; return it.

        Metrics count it as `counted`, where there are too many names for them.
        """
        return sandbox if self._egress is None else self._egress.watch(name, sandbox, self._tasks, counted)

    def watch_check(self, label: str, sandbox: Sandbox) -> Sandbox:
        """As `watched`, for the program of one of the task's checks; a label may differ from seed to seed."""
        return self.watched(f"check: {label}", sandbox, counted="check")

    async def set_level(self, level: str) -> None:
        """Tell the servers which log messages are wanted, those that start later too."""
        self._level = level
        async with anyio.create_task_group() as tasks:
            for upstream in list(self._live.values()):
                tasks.start_soon(upstream.set_level, level)

    async def tell(self, method: str, params: JsonObject) -> None:
        """Pass a notification of the client on to the servers that run."""
        async with anyio.create_task_group() as tasks:
            for upstream in list(self._live.values()):
                tasks.start_soon(upstream.tell, method, params)

    async def stop_servers(self) -> None:
        """Kill the servers and what runs beside them, and keep the workspace."""
        live, self._live = list(self._live.values()), {}
        beside, self._beside = self._beside, []
        async with anyio.create_task_group() as tasks:
            for ending in (*live, *beside):
                tasks.start_soon(ending.kill)
            for name in list(self._doors):
                tasks.start_soon(self._close_door, name)

    async def aclose(self) -> None:
        """Kill the servers and drop the workspace. Idempotent, shielded."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self.stop_servers()
            await self.workspace.aclose()
            if self._apart is not None:
                await self._apart.aclose()

    async def _current(self, name: str) -> Upstream:
        upstream = self._live.get(name)
        if upstream is not None and upstream.ended is not None:
            self._note_death(name, upstream.ended)
            upstream = None
        if upstream is None:
            upstream = await self._start(name)
        elif upstream.stale:
            self._on_listing(name, await self._tools(upstream))
        return upstream

    def _note_death(self, name: str, failure: UpstreamFailure) -> None:
        del self._live[name]
        if not self._restarts:
            self.failed = failure.message

    async def _start(self, name: str) -> Upstream:
        if self._closed or self.failed is not None:
            raise UpstreamFailure(FailureKind.CRASHED, self.failed or "the session is closed")
        self._recall_refusal(name)
        plan = self._plans[name]
        try:
            upstream = await self._open(name, plan)
        except UpstreamFailure as failure:
            raise self._refused(name, failure) from failure
        self._live[name] = upstream
        self._refusals.pop(name, None)
        return upstream

    async def _open(self, name: str, plan: ServerPlan) -> Upstream:
        """Start the server in the caller's era, or else in the other, each time in a fresh process."""
        wrong: list[Era] = []
        failures: list[UpstreamFailure] = []
        for era in plan.eras.to_try(self.client.era):
            try:
                upstream = await self._open_in(name, plan, era)
            except WrongEra as failure:
                wrong.append(era)
                failures.append(failure)
            else:
                plan.eras.refused.update(wrong)
                return upstream
        raise failures[0]

    async def _open_in(self, name: str, plan: ServerPlan, era: Era) -> Upstream:
        try:
            sandbox = await self._acquire(plan)
        except SandboxError as error:
            why = f"no sandbox for server {name!r}: {error}"
            raise UpstreamFailure(FailureKind.START_FAILED, why) from error
        client = ClientFacts(era, self.client.capabilities)
        upstream = Upstream(name, sandbox, plan.settings, client, self._heard, lambda: self.standing)
        try:
            await upstream.start(self._tasks)
            tools = await self._tools(upstream)
            if isinstance(sandbox, RemoteServer):
                sandbox.listed(tools)
            self._on_listing(name, tools)
            if self._level is not None:
                await upstream.set_level(self._level)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await upstream.kill()
            raise
        return upstream

    async def _acquire(self, plan: ServerPlan) -> Sandbox:
        """Start the server's program, with a door of its own where it may reach something."""
        if plan.remote is not None:
            return await self._reached(plan, plan.remote)
        await self._close_door(plan.name)
        spec = plan.spec
        if plan.egress and self._egress is not None:
            door = self._doors[plan.name] = await self._egress.open(plan.name, plan.egress, self._tasks)
            spec = door.fit(spec)
        return self.watched(plan.name, await self._driver.acquire(spec, self.workspace))

    async def _reached(self, plan: ServerPlan, endpoint: RemoteEndpoint) -> Sandbox:
        """Begin a conversation with a server elsewhere, through the egress gate."""
        if self._egress is None:
            raise SandboxError("a server at a URL is reached by 'sandgate serve' only")
        way = self._egress.way(plan.name, plan.egress)
        return await RemoteServer(endpoint, way, plan.settings.max_result).start(self._tasks)

    async def _close_door(self, name: str) -> None:
        door = self._doors.pop(name, None)
        if door is not None:
            await door.aclose()

    async def _tools(self, upstream: Upstream) -> list[JsonObject]:
        """Return a server's tools; one that says it has none is not asked, so resources alone will do."""
        return await upstream.list_tools() if upstream.offers.may_list("tools") else []

    def _heard(self, method: str, params: JsonObject) -> None:
        if self._announced is not None:
            self._announced(method, params)

    def _refused(self, name: str, failure: UpstreamFailure) -> UpstreamFailure:
        last = self._refusals.get(name)
        pause = min(_LONGEST_PAUSE, last.pause * 2) if last else _FIRST_PAUSE
        self._refusals[name] = _Refusal(failure, pause, anyio.current_time() + pause)
        if not self._restarts:
            self.failed = failure.message
        return failure

    def _recall_refusal(self, name: str) -> None:
        refusal = self._refusals.get(name)
        if refusal is not None and anyio.current_time() < refusal.until:
            raise refusal.failure

    def check_alive(self) -> None:
        """Note servers that died since they last answered, so that `failed` is up to date."""
        for name, upstream in list(self._live.items()):
            if upstream.ended is not None:
                self._note_death(name, upstream.ended)
