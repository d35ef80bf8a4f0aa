"""Warm leases: workspaces whose servers have started and listed their tools, and seen nothing else.

A lease is handed out once, to one session, and never comes back; what is taken is made anew in the
background. One shelf for each (pack, seed, environment, client); its depth grows with demand and
shrinks when nobody comes. A server is told its client's capabilities when it is initialised, so a
lease is handed only to a client that declares exactly those it was started with. Likewise of an
episode's seed, unless its servers want none. The pool is only ever faster than a cold start: whoever
finds nothing starts cold.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from gateway.core.json_types import JsonObject
from gateway.core.strict_json import canonical
from gateway.errors import SandboxError
from gateway.runtime.egress import EgressDesk
from gateway.runtime.leases import Lease
from gateway.runtime.peer import NOBODY, ClientFacts
from gateway.runtime.pool_shelf import PoolSettings, ReadyLease, Shelf
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.upstream import Announced, UpstreamFailure
from gateway.sandbox.contract import SandboxDriver

__all__ = ["LeasePool"]

_FILLERS = 2
"""Leases started at once: a start is mostly one core's work."""
_MOST_SHELVES = 64
_LOOK_SECONDS = 2.0

logger = logging.getLogger(__name__)


class LeasePool:
    """Keeps leases ready while `run` runs; `take` hands one out or returns `None`, at once."""

    def __init__(
        self,
        packs: Iterable[ServedPack],
        *,
        driver: SandboxDriver,
        egress: EgressDesk,
        tasks: TaskGroup,
        settings: PoolSettings,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """The minimum is kept of servers with `env` in their environment, as most sessions have it."""
        self._driver = driver
        self._egress = egress
        self._tasks = tasks
        self._settings = settings
        self._shelves: OrderedDict[object, Shelf] = OrderedDict()
        self._wake = anyio.Event()
        self._running: anyio.Event | None = None
        self._scope = anyio.CancelScope()
        self._closed = False
        if settings.maximum:
            for served in packs:
                self._shelf(served, None, env or {}, NOBODY, min(settings.minimum, settings.maximum))

    @property
    def ready(self) -> int:
        """How many leases could be handed out."""
        return sum(ready.lease.untouched for shelf in self._shelves.values() for ready in shelf.ready)

    def ready_leases(self) -> list[tuple[str, Lease]]:
        """Return the leases that could be handed out, each with its pack."""
        return [(shelf.served.name, ready.lease) for shelf in self._shelves.values() for ready in shelf.ready]

    def ready_of_packs(self) -> Mapping[str, int]:
        """Return how many leases could be handed out, by pack."""
        counts = Counter[str]()
        for shelf in self._shelves.values():
            counts[shelf.served.name] += sum(ready.lease.untouched for ready in shelf.ready)
        return counts

    def take(
        self,
        served: ServedPack,
        seed: Path | None,
        env: Mapping[str, str],
        *,
        restarts: bool,
        on_listing: Callable[[str, list[JsonObject]], None],
        client: ClientFacts = NOBODY,
        announced: Announced | None = None,
    ) -> Lease | None:
        """Hand out a lease that no session has used, told to whom it belongs; `None` if there is none.

        `on_listing` is told at once what its servers listed when they started.
        """
        if self._closed or not self._settings.maximum:
            return None
        shelf = self._shelf(served, seed, env, client, 0)
        self._wake.set()
        now = anyio.current_time()
        self._drop_spoilt(shelf, now)
        if not shelf.ready:
            shelf.missed(now)
            return None
        found = shelf.ready.popleft()
        shelf.found(now)
        found.lease.hand_over(restarts=restarts, on_listing=on_listing, announced=announced)
        for server, definitions in found.listings.items():
            on_listing(server, definitions)
        return found.lease

    async def run(self) -> None:
        """Keep the shelves filled until `stop`."""
        self._running = anyio.Event()
        try:
            with self._scope:
                async with anyio.create_task_group() as fills:
                    while True:
                        self._tidy()
                        self._refill(fills)
                        with anyio.move_on_after(_LOOK_SECONDS):
                            await self._wake.wait()
                        self._wake = anyio.Event()
        finally:
            self._running.set()

    def stop(self) -> None:
        """Start no more leases."""
        self._closed = True
        self._scope.cancel()

    async def aclose(self) -> None:
        """End every lease that was not handed out. Idempotent."""
        self.stop()
        if self._running is not None:
            await self._running.wait()
        async with anyio.create_task_group() as tasks:
            for shelf in self._shelves.values():
                while shelf.ready:
                    tasks.start_soon(shelf.ready.popleft().lease.aclose)

    # -- shelves

    def _shelf(
        self, served: ServedPack, seed: Path | None, env: Mapping[str, str], client: ClientFacts, floor: int
    ) -> Shelf:
        env = served.told_of(env)
        key = (served.name, seed, frozenset(env.items()), client.era, canonical(client.capabilities))
        if key not in self._shelves:
            now = anyio.current_time()
            self._shelves[key] = Shelf(served, seed, dict(env), floor, floor, now, client=client)
            self._forget_longest_unused()
        self._shelves.move_to_end(key)
        return self._shelves[key]

    def _forget_longest_unused(self) -> None:
        if len(self._shelves) > _MOST_SHELVES:
            key = next((key for key, shelf in self._shelves.items() if not shelf.floor), None)
            if key is not None:
                shelf = self._shelves.pop(key)
                shelf.unfit = True  # what is under way for it is not kept either
                self._drop(shelf, 0)

    def _drop(self, shelf: Shelf, keep: int) -> None:
        while len(shelf.ready) > keep:
            self._tasks.start_soon(shelf.ready.popleft().lease.aclose)

    def _tidy(self) -> None:
        """Drop leases whose servers died or changed, and what is more than wanted."""
        now = anyio.current_time()
        for shelf in self._shelves.values():
            shelf.settle(now, self._settings.idle, self._settings.maximum)
            self._drop_spoilt(shelf, now)
            self._drop(shelf, shelf.depth)

    def _drop_spoilt(self, shelf: Shelf, now: float) -> None:
        if spoilt := shelf.spoilt():
            shelf.failed(now)  # a server that never lasts must not be started for ever
        for ready in spoilt:
            self._tasks.start_soon(ready.lease.aclose)

    # -- filling

    def _refill(self, fills: TaskGroup) -> None:
        while shelf := self._neediest():
            shelf.filling += 1
            fills.start_soon(self._fill, shelf)

    def _neediest(self) -> Shelf | None:
        shelves, now = self._shelves.values(), anyio.current_time()
        if sum(shelf.filling for shelf in shelves) >= _FILLERS:
            return None
        if sum(shelf.held for shelf in shelves) >= self._settings.maximum:
            return None
        neediest = max(shelves, key=lambda shelf: shelf.missing(now), default=None)
        return neediest if neediest is not None and neediest.missing(now) > 0 else None

    async def _fill(self, shelf: Shelf) -> None:
        try:
            ready = await self._start(shelf)
        except (SandboxError, UpstreamFailure, OSError) as failure:
            shelf.failed(anyio.current_time())
            logger.warning("no warm sandbox for pack %r: %s", shelf.served.name, failure)
        else:
            if ready is not None:
                shelf.ready.append(ready)
        finally:
            shelf.filling -= 1
            self._wake.set()

    async def _start(self, shelf: Shelf) -> ReadyLease | None:
        """Return a lease with all its servers started; `None` if their start is seen in the files."""
        listings: dict[str, list[JsonObject]] = {}
        lease = Lease(
            shelf.served.plans_with(shelf.env),
            driver=self._driver,
            workspace=await self._driver.open_workspace(shelf.served.workspace_spec(shelf.seed)),
            tasks=self._tasks,
            restarts=False,
            on_listing=listings.__setitem__,
            egress=self._egress.session(shelf.served.name),
            client=shelf.client,
        )
        try:
            before = None if shelf.checked else await lease.workspace.digest()
            await lease.start_all()
            if before is not None and await lease.workspace.digest() != before:
                logger.warning(
                    "pack %r is not kept warm: its servers write files when they start", shelf.served.name
                )
                shelf.unfit = True
        except BaseException:
            await lease.aclose()
            raise
        shelf.checked = True
        if shelf.unfit:
            await lease.aclose()
            return None
        return ReadyLease(lease, listings)
