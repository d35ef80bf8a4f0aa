"""Episodes for trainers: who holds which, reset as a new generation, one step at a time.

An `EpisodeSession` lives as long as its caller holds it; each reset ends the gateway session under it
and opens a pristine one with the same id. An id is a name, not a credential: somebody else's episode
session does not exist for them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from gateway.core.calls import Principal
from gateway.core.episode import Action, EpisodeLimits, EpisodeState, StepResult
from gateway.core.json_types import JsonObject
from gateway.core.tasks import Task
from gateway.errors import ClientError, TooManySessions, UnknownSession, UsageError
from gateway.runtime.checks import Checks
from gateway.runtime.episode_run import EpisodeRun
from gateway.runtime.gateway import Gateway
from gateway.runtime.packs import prepare_seed
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.sessions import Session, new_session_id
from gateway.runtime.trajectories import TrajectoryWriter
from gateway.sandbox.contract import Limits

__all__ = ["EpisodeGone", "EpisodeSession", "Episodes", "NoSuchTask", "ResetRequest", "choose_task"]


class NoSuchTask(ClientError):
    """The reset asks for a task, split or index that the pack does not have."""


class EpisodeGone(ClientError):
    """The episode was idle for too long and its sandboxes are gone; the session can start another."""

    status = 410

    def __init__(self) -> None:
        super().__init__("the episode was idle for too long and has ended: reset to start another")


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """What a reset may ask for; everything has a default.

    `task` is a task's id; `split` and `index` (from 0) choose among the pack's tasks in id order.
    """

    seed: int | None = None
    episode_id: str | None = None
    task: str | None = None
    split: str | None = None
    index: int | None = None


def choose_task(tasks: Mapping[str, Task], wanted: ResetRequest) -> Task | None:
    """Return the task a reset asks for, `None` for a pack without tasks; raises `NoSuchTask`."""
    candidates = [tasks[name] for name in sorted(tasks) if wanted.split in (None, tasks[name].split)]
    if wanted.task is not None:
        chosen = [task for task in candidates if task.id == wanted.task]
        if not chosen:
            there_are = ", ".join(task.id for task in candidates[:20]) or "none"
            raise NoSuchTask(f"no task {wanted.task[:64]!r}; there are: {there_are}")
        return chosen[0]
    index = wanted.index or 0
    if index < len(candidates):
        return candidates[index]
    if wanted.index is None and wanted.split is None:
        return None
    where = "this pack" if wanted.split is None else f"split {wanted.split[:64]!r}"
    raise NoSuchTask(f"no task at index {index}: {where} has {len(candidates)}")


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
    ) -> None:
        if gateway.settings.mode != "training" and not orchestration:
            message = "episodes need --mode training, or deployment: {orchestration: true} in gateway.yaml"
            raise UsageError(message)
        self.gateway = gateway
        self._cache_dir = cache_dir
        self._writer = trajectories
        self._sessions: dict[tuple[str, str], EpisodeSession] = {}

    def open(self, pack: str, principal: Principal) -> EpisodeSession:
        """Return a new session; its first reset, or step, starts an episode.

        Raises `TooManySessions` or `ClientError` (unknown pack).
        """
        served = self.gateway.packs.get(pack)
        if served is None:
            raise ClientError(
                f"no pack {pack[:64]!r} is served here; there are: {', '.join(self.gateway.packs)}"
            )
        self._forget_ended()
        self._check_limits(principal)
        session = EpisodeSession(self, served, principal, new_session_id())
        self._sessions[(pack, session.id)] = session
        return session

    def find(self, pack: str, session_id: str, principal: Principal) -> EpisodeSession:
        """Return the principal's own session; raises `UnknownSession`."""
        session = self._sessions.get((pack, session_id))
        if session is None or session.principal != principal or session.ended:
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
        session = self.open(pack, principal)
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
        if session.attached:
            raise ClientError("another connection holds this session: close that one first")
        session.attached = True
        try:
            yield session
        finally:
            session.attached = False
            if session_id is None:
                await session.aclose()

    def forget(self, session: EpisodeSession) -> None:
        """Take a session out of the table. Idempotent."""
        self._sessions.pop((session.pack.name, session.id), None)

    async def run(self, holder: EpisodeSession, wanted: ResetRequest) -> EpisodeRun:
        """Open a gateway session for a new episode.

        Raises `NoSuchTask`, `TooManySessions`, `ShuttingDown` or `SandboxError`.
        """
        served = holder.pack
        task = choose_task(served.pack.tasks, wanted)
        seed = wanted.seed if wanted.seed is not None else (task.seed if task else 0)
        files = await self._workspace_seed(served, task)
        session = await self.gateway.open_session(
            served.name,
            holder.principal,
            session_id=holder.id,
            workspace_seed=files,
            env={"SANDGATE_SEED": str(seed)},
            restarts=False,  # a server's lost state must end the episode, in any mode
        )
        return self._episode_run(session, wanted, task, seed)

    def _episode_run(
        self, session: Session, wanted: ResetRequest, task: Task | None, seed: int
    ) -> EpisodeRun:
        generation = new_session_id()
        session.episode = wanted.episode_id or generation
        served = session.pack
        needs = served.pack.manifest.sandbox
        limits = Limits(memory=needs.memory, cpu=needs.cpu, pids=needs.pids, disk=needs.disk)
        return EpisodeRun(
            gateway=self.gateway,
            session=session,
            state=EpisodeState(_limits(served)),
            checks=Checks(self.gateway.driver, served.pack.folder, limits),
            episode_id=session.episode,
            seed=seed,
            task=task,
            started=self.gateway.clock.monotonic(),
            trajectory=f"{session.id}-{generation[:8]}",
            writer=self._writer,
        )

    async def _workspace_seed(self, served: ServedPack, task: Task | None) -> Path | None:
        if task is None or task.workspace is None:
            return None  # the pack's own
        return await prepare_seed(served.pack, task.workspace, self._cache_dir)

    def _check_limits(self, principal: Principal) -> None:
        settings = self.gateway.settings
        if len(self._sessions) >= settings.max_sessions:
            raise TooManySessions(settings.max_sessions, "this gateway")
        own = sum(1 for session in self._sessions.values() if session.principal.name == principal.name)
        if own >= settings.max_sessions_per_principal:
            raise TooManySessions(settings.max_sessions_per_principal, f"principal {principal.name!r}")

    def _forget_ended(self) -> None:
        """Drop sessions that nobody holds and that the gateway closed for idleness."""
        for session in list(self._sessions.values()):
            if session.ended:
                self.forget(session)


def _limits(served: ServedPack) -> EpisodeLimits:
    env, on_deny = served.pack.manifest.env, served.policy.on_deny
    ends = [limit for limit in (env.max_denials, on_deny.end_after) if limit is not None]
    return EpisodeLimits(env.max_steps, min(ends, default=None), env.time_limit, on_deny.penalty)


class EpisodeSession:
    """One caller's place to play episodes, one after the other. Calls on it queue."""

    def __init__(self, episodes: Episodes, pack: ServedPack, principal: Principal, session_id: str) -> None:
        self.id = session_id
        self.pack = pack
        self.principal = principal
        self.attached = False
        self._episodes = episodes
        self._run: EpisodeRun | None = None
        self._turn = anyio.Lock()

    @property
    def ended(self) -> bool:
        """Whether the gateway closed the episode for idleness and no connection is there to reset it."""
        return (
            self._run is not None
            and self._run.session.closed
            and not self.attached
            and not self._turn.locked()
        )

    async def reset(self, wanted: ResetRequest | None = None) -> StepResult:
        """Start another episode in a pristine workspace; what the last one left is gone.

        Raises `NoSuchTask` (the last episode goes on), `TooManySessions`, `ShuttingDown` or `SandboxError`.
        """
        async with self._turn:
            run = await self._start(wanted or ResetRequest())
            with _in_use(run):
                return await run.opened()

    async def step(self, action: Action, seconds: float | None = None) -> StepResult:
        """Take one step; without a reset before it, the default task is started first.

        Raises `EpisodeOver`, `EpisodeGone`, and what `reset` and `Gateway.call` raise.
        """
        async with self._turn:
            run = self._run or await self._start(ResetRequest())
            with _in_use(run):
                return await run.step(action, seconds)

    async def state(self) -> JsonObject:
        """Return `{episode_id, step_count, ...}`; without an episode, a null id and no steps."""
        async with self._turn:
            if self._run is None:
                return {"episode_id": None, "step_count": 0}
            with _in_use(self._run):
                return await self._run.shown()

    async def aclose(self) -> None:
        """End the episode and give the place back. Idempotent, shielded."""
        with anyio.CancelScope(shield=True):
            self._episodes.forget(self)
            await self._end()

    async def _start(self, wanted: ResetRequest) -> EpisodeRun:
        choose_task(self.pack.pack.tasks, wanted)  # a mistaken reset costs nobody their episode
        await self._end()
        self._run = await self._episodes.run(self, wanted)
        return self._run

    async def _end(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            await self._episodes.gateway.close_session(run.session)


@contextmanager
def _in_use(run: EpisodeRun) -> Generator[None]:
    """Keep the gateway from ending the session for idleness meanwhile; raises `EpisodeGone` if it has."""
    session = run.session
    if session.closed:
        raise EpisodeGone
    session.in_flight += 1
    try:
        yield
    finally:
        session.in_flight -= 1
        session.last_used = run.gateway.clock.monotonic()
