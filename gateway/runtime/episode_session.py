"""One caller's place to play episodes: each reset ends the gateway session under it and opens another.

Who holds it, and when nobody does any more, is kept here; who may have one is said by
`gateway.runtime.episodes`. Decides nothing on a call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import anyio

from gateway.core.calls import Principal
from gateway.core.episode import Action, StepResult
from gateway.core.json_types import JsonObject
from gateway.core.task_choice import ResetRequest
from gateway.errors import ClientError, UnknownSession
from gateway.loop import Turn
from gateway.runtime.episode_run import EpisodeRun
from gateway.runtime.gateway import Gateway
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.snapshots import Snapshots

__all__ = ["EpisodeGone", "EpisodeSession", "ResetFailed"]

_HANDOVER_SECONDS = 1.0
"""How long a connection waits for the one before it to be noticed gone."""


class EpisodeGone(ClientError):
    """The episode was idle for too long and its sandboxes are gone; the session can start another."""

    status = 410

    def __init__(self) -> None:
        super().__init__("the episode was idle for too long and has ended: reset to start another")


class ResetFailed(ClientError):
    """The last reset could not start an episode, and the one before it is over; nothing runs."""

    status = 409

    def __init__(self) -> None:
        super().__init__("the last reset failed and no episode runs: reset again")


class Keeper(Protocol):
    """What an episode session asks of who gave it out."""

    gateway: Gateway
    snapshots: Snapshots

    def check(self, holder: EpisodeSession, wanted: ResetRequest) -> None:
        """Raise `NoSuchTask` or `UnknownSnapshot` where a reset asks for what is not there."""
        ...

    async def run(self, holder: EpisodeSession, wanted: ResetRequest) -> EpisodeRun:
        """Open a gateway session for a new episode."""
        ...

    def forget(self, session: EpisodeSession) -> None:
        """Take back the place of a session that has ended. Idempotent."""
        ...


class EpisodeSession:
    """One caller's place to play episodes, one after the other. Calls on it queue.

    `kept`: it outlives the connections that hold it. `closing`: it ends when its holder leaves.
    """

    def __init__(
        self, keeper: Keeper, pack: ServedPack, principal: Principal, session_id: str, *, kept: bool
    ) -> None:
        self.id = session_id
        self.pack = pack
        self.principal = principal
        self.kept = kept
        self.closing = False
        self.attached = False
        self._closed = False
        self._left = anyio.Event()
        self._given_up_at: float | None = None
        self._last_used = keeper.gateway.clock.monotonic()
        self._keeper = keeper
        self._run: EpisodeRun | None = None
        self._failed = False
        self._leaving: anyio.Event | None = None
        self._turn = Turn()

    # -- holding

    @property
    def stale(self) -> bool:
        """Whether it is closed, or nobody holds it and its time is over: dropped, unused, or idle."""
        if self._closed:
            return True
        if self.attached or self._turn.locked():
            return False
        now = self._keeper.gateway.clock.monotonic()
        if self._given_up_at is not None and now >= self._given_up_at:
            return True
        if self._run is None:
            return now - self._last_used >= self._keeper.gateway.settings.session_idle
        return self._run.session.closed

    @property
    def open_below(self) -> bool:
        """Whether the gateway still holds sandboxes for it."""
        return self._run is not None and not self._run.session.closed

    @property
    def playing(self) -> bool:
        """Whether an episode was started that somebody could go on with."""
        return self._run is not None

    @asynccontextmanager
    async def hold(self) -> AsyncGenerator[None]:
        """Hold it for one connection; raises `ClientError` if another one does and stays."""
        if self.attached:
            with anyio.move_on_after(_HANDOVER_SECONDS):
                await self._left.wait()
        if self.attached:
            raise ClientError("another connection holds this session: close that one first")
        self.attached, self._given_up_at, self._left = True, None, anyio.Event()
        try:
            yield
        finally:
            self.attached = False
            self._left.set()

    def give_up_after(self, seconds: float) -> None:
        """End it in so many seconds unless somebody uses it before."""
        self._given_up_at = self._keeper.gateway.clock.monotonic() + seconds

    # -- playing

    async def reset(self, wanted: ResetRequest | None = None) -> StepResult:
        """Start another episode in a pristine workspace; what the last one left is gone.

        Raises `NoSuchTask` or `UnknownSnapshot` (the last episode goes on), `TooManySessions`,
        `ShuttingDown` or `SandboxError`.
        """
        async with self._turn:
            run = await self._start(wanted or ResetRequest())
            with self._in_use(run):
                return await run.opened()

    async def step(self, action: Action, seconds: float | None = None) -> StepResult:
        """Take one step; without a reset before it, the default task is started first.

        Raises `EpisodeOver`, `EpisodeGone`, `ResetFailed`, and what `reset` and `Gateway.call` raise.
        """
        async with self._turn:
            run = await self._running()
            with self._in_use(run):
                return await run.step(action, seconds)

    async def tools(self) -> list[JsonObject]:
        """Return the MCP definitions of the tools as the policy shows them; that is no step.

        Starts the default task where there was no reset. Raises what `step` raises.
        """
        async with self._turn:
            run = await self._running()
            with self._in_use(run):
                return run.tools()

    async def state(self) -> JsonObject:
        """Return `{episode_id, step_count, ...}`; without an episode, a null id and no steps."""
        async with self._turn:
            if self._run is None:
                return {"episode_id": None, "step_count": 0}
            with self._in_use(self._run):
                return await self._run.shown()

    async def aclose(self) -> None:
        """End the episode and give the place back. Idempotent, shielded."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            try:
                await self._end()
                await self._keeper.snapshots.drop_where(lambda kept: kept.session == self.id)
            finally:
                self._keeper.forget(self)

    async def _running(self) -> EpisodeRun:
        """Return the episode that runs, by default one of the default task; never in the place of another."""
        if self._failed:
            raise ResetFailed
        if self._run is not None:
            return self._run
        try:
            return await self._start(ResetRequest())
        finally:
            self._failed = False  # nobody asked for another task: the next step may try again

    async def _start(self, wanted: ResetRequest) -> EpisodeRun:
        if self._closed:
            raise UnknownSession(self.id)
        self._keeper.check(self, wanted)  # a mistaken reset costs nobody their episode
        await self._leave()
        self._failed = True
        self._run = await self._keeper.run(self, wanted)
        self._failed = False
        return self._run

    async def _leave(self) -> None:
        """End the last episode: its servers die while the next one begins, those before it are gone."""
        if self._leaving is not None:
            await self._leaving.wait()
        run, self._run = self._run, None
        self._leaving = None if run is None else self._keeper.gateway.retire(run.session)

    async def _end(self) -> None:
        """End the last episode, to its last process."""
        await self._leave()
        if self._leaving is not None:
            await self._leaving.wait()

    @contextmanager
    def _in_use(self, run: EpisodeRun) -> Generator[None]:
        """Keep the gateway from ending the session for idleness meanwhile; raises `EpisodeGone` if it has."""
        session, clock = run.session, run.gateway.clock
        if session.closed:
            raise EpisodeGone
        self._given_up_at = None
        session.in_flight += 1
        try:
            yield
        finally:
            session.in_flight -= 1
            session.last_used = self._last_used = clock.monotonic()
