"""Episodes for trainers: who has which session, how many there may be, who waits for a place.

An `EpisodeSession` lives as long as its caller holds it; each reset ends the gateway session under it
and opens a pristine one with the same id. An id is a name, not a credential: somebody else's episode
session does not exist for them.

    open, find ──> held by a connection ──> let go: orderly ──> ended (kept ones stay until idle)
    full: wait in line ──┘                  └────── dropped ──> kept for the grace period, then ended
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from gateway.core.calls import Principal
from gateway.core.episode import StepResult
from gateway.core.task_choice import NoSuchTask, ResetRequest, choose_task
from gateway.errors import TooManySessions, UnknownSession, UsageError
from gateway.runtime.episode_opening import EpisodeOpening
from gateway.runtime.episode_run import EpisodeRun
from gateway.runtime.episode_session import EpisodeGone, EpisodeSession
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import new_session_id
from gateway.runtime.snapshots import Snapshots
from gateway.runtime.trajectories import TrajectoryWriter

__all__ = [
    "EpisodeGone",
    "EpisodeSession",
    "EpisodeSettings",
    "Episodes",
    "NoSuchTask",
    "ResetRequest",
    "choose_task",
]


_LOOK_SECONDS = 0.1
"""How often those in line look whether a place of another worker is free."""


@dataclass(frozen=True, slots=True)
class EpisodeSettings:
    """What an operator may set; times in seconds.

    `grace`: how long a dropped connection's session waits for its caller. `queue`: how many callers may
    wait for a place, each for `queue_seconds`. `snapshots`: how many one principal may have.
    """

    grace: float = 30.0
    queue: int = 64
    queue_seconds: float = 45.0
    snapshots: int = 64


class Episodes:
    """The episode sessions of one gateway.

    `cache_dir` is where task workspaces are prepared; `trajectories` is where steps are written, if
    anywhere. In deployment mode there are none, unless the operator turned `orchestration` on.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        cache_dir: Path,
        trajectories: TrajectoryWriter | None = None,
        orchestration: bool = False,
        settings: EpisodeSettings | None = None,
    ) -> None:
        if gateway.settings.mode != "training" and not orchestration:
            message = "episodes need --mode training, or deployment: {orchestration: true} in gateway.yaml"
            raise UsageError(message)
        self.gateway = gateway
        self.settings = settings or EpisodeSettings()
        self.snapshots = Snapshots(self.settings.snapshots, gateway.places.snapshots)
        self._opening = EpisodeOpening(gateway, self.snapshots, cache_dir=cache_dir, writer=trajectories)
        self._sessions: dict[tuple[str, str], EpisodeSession] = {}
        self._places: dict[EpisodeSession, int] = {}
        self._waiting = 0
        self._freed = anyio.Event()

    # -- having a session

    def open(self, pack: str, principal: Principal, *, kept: bool = False) -> EpisodeSession:
        """Return a new session; its first reset, or step, starts an episode.

        `kept`: it stays until it is closed or idle too long, whoever connects to it. Raises
        `TooManySessions` or `ClientError` (unknown pack).
        """
        served = self.gateway.served(pack)
        self._forget_stale()
        session_id, most = new_session_id(), self.gateway.settings.max_sessions_per_principal
        place = self.gateway.places.episodes.take(principal.name, most, session_id)
        session = EpisodeSession(self, served, principal, session_id, kept=kept)
        self._sessions[(pack, session.id)], self._places[session] = session, place
        return session

    async def open_in_turn(self, pack: str, principal: Principal) -> EpisodeSession:
        """Return a new session; where there is no place, wait in line for one.

        Raises what `open` raises: `TooManySessions` if the line is full or the wait too long.
        """
        try:
            return self.open(pack, principal)
        except TooManySessions:
            if self._waiting >= self.settings.queue:
                raise
        self._waiting += 1
        try:
            return await self._place(pack, principal)
        finally:
            self._waiting -= 1

    async def _place(self, pack: str, principal: Principal) -> EpisodeSession:
        looks = _LOOK_SECONDS if self.gateway.places.episodes.shared else None
        with anyio.move_on_after(self.settings.queue_seconds):
            while True:
                with anyio.move_on_after(looks):
                    await self._freed.wait()  # wakes those in line in their order
                try:
                    return self.open(pack, principal)
                except TooManySessions:
                    continue
        return self.open(pack, principal)  # the last try says why not

    def find(self, pack: str, session_id: str, principal: Principal) -> EpisodeSession:
        """Return the principal's own session; raises `UnknownSession`."""
        session = self._sessions.get((pack, session_id))
        if session is None or session.principal != principal or session.stale:
            raise UnknownSession(session_id)
        return session

    async def reset(
        self, pack: str, principal: Principal, session_id: str | None, wanted: ResetRequest
    ) -> StepResult:
        """Reset the named session, or a new one that stays until it is idle too long.

        Raises what `open`, `find` and `EpisodeSession.reset` raise; a new session whose reset fails is gone.
        """
        if session_id is not None:
            return await self.find(pack, session_id, principal).reset(wanted)
        session = self.open(pack, principal, kept=True)
        try:
            return await session.reset(wanted)
        except BaseException:
            await session.aclose()
            raise

    @asynccontextmanager
    async def held(
        self, pack: str, principal: Principal, session_id: str | None
    ) -> AsyncGenerator[EpisodeSession]:
        """Hold a session: an existing one, exclusively, which stays; or a new one, which ends with the hold.

        Raises what `open` and `find` raise, and `ClientError` if somebody else holds it.
        """
        session = self.open(pack, principal) if session_id is None else self.find(pack, session_id, principal)
        try:
            async with session.hold():
                yield session
        finally:
            if session_id is None:
                await session.aclose()

    # -- letting go

    async def let_go(self, session: EpisodeSession, *, dropped: bool) -> None:
        """Do what is due once a connection no longer holds the session; `dropped`: it did not say goodbye."""
        if session.kept and not session.closing:
            return
        if dropped and session.playing and self.settings.grace > 0 and not session.closing:
            session.give_up_after(self.settings.grace)
        else:
            await session.aclose()

    def forget(self, session: EpisodeSession) -> None:
        """Take a session out of the table and let those in line try. Idempotent."""
        if self._sessions.pop((session.pack.name, session.id), None) is not None:
            self.gateway.places.episodes.free(self._places.pop(session))
            self._freed.set()
            self._freed = anyio.Event()

    @asynccontextmanager
    async def sweeping(self) -> AsyncGenerator[None]:
        """End sessions whose time is over, for as long as this is entered."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sweep)
            yield
            tasks.cancel_scope.cancel()

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(max(0.05, min(5.0, self.settings.grace / 4)))
            for session in list(self._sessions.values()):
                if session.stale:
                    await session.aclose()
            await self.snapshots.drop_where(lambda kept: (kept.pack, kept.session) not in self._sessions)

    # -- running

    def check(self, holder: EpisodeSession, wanted: ResetRequest) -> None:
        """Raise `NoSuchTask` or `UnknownSnapshot` where a reset asks for what is not there."""
        choose_task(holder.pack.pack.tasks, wanted)
        if wanted.snapshot is not None:
            self.snapshots.find(wanted.snapshot, holder.pack.name, holder.principal)

    async def run(self, holder: EpisodeSession, wanted: ResetRequest) -> EpisodeRun:
        """Open a gateway session for a new episode.

        Raises `NoSuchTask`, `UnknownSnapshot`, `TooManySessions`, `ShuttingDown` or `SandboxError`.
        """
        if wanted.snapshot is None:
            return await self._opening.run(holder.id, holder.pack, holder.principal, wanted)
        async with self.snapshots.held(wanted.snapshot, holder.pack.name, holder.principal) as kept:
            wanted = wanted.after(kept.task, kept.seed)
            return await self._opening.run(holder.id, holder.pack, holder.principal, wanted, kept)

    def _forget_stale(self) -> None:
        """Drop sessions that the gateway closed for idleness; the others' sandboxes end by the sweep."""
        for session in list(self._sessions.values()):
            if session.stale and not session.open_below:
                self.forget(session)
