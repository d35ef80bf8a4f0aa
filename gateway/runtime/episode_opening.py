"""Starts an episode: chooses task and seed, opens a gateway session for it, puts the parts together."""

from __future__ import annotations

from pathlib import Path

from gateway.core.calls import Principal
from gateway.core.episode import EpisodeLimits, EpisodeState
from gateway.core.seeding import episode_environment, seeded
from gateway.core.task_choice import ResetRequest, choose_task
from gateway.core.task_events import Schedule
from gateway.core.tasks import Task
from gateway.runtime.checks import Checks
from gateway.runtime.episode_calls import EpisodeCalls
from gateway.runtime.episode_code import EpisodeCode
from gateway.runtime.episode_events import EpisodeEvents
from gateway.runtime.episode_run import EpisodeRun
from gateway.runtime.gateway import Gateway
from gateway.runtime.packs import prepare_seed
from gateway.runtime.scoring import Scoring
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.sessions import Session, new_session_id
from gateway.runtime.snapshots import KeptSnapshot, Snapshots
from gateway.runtime.trajectories import TrajectoryWriter
from gateway.sandbox.contract import Limits

__all__ = ["EpisodeOpening"]


class EpisodeOpening:
    """Opens the episodes of one gateway. `cache_dir` is where task workspaces are prepared."""

    def __init__(
        self, gateway: Gateway, snapshots: Snapshots, *, cache_dir: Path, writer: TrajectoryWriter | None
    ) -> None:
        self._gateway = gateway
        self._snapshots = snapshots
        self._cache_dir = cache_dir
        self._writer = writer

    async def run(
        self,
        session_id: str,
        served: ServedPack,
        principal: Principal,
        wanted: ResetRequest,
        start: KeptSnapshot | None = None,
    ) -> EpisodeRun:
        """Open an episode in a pristine workspace, or in that of `start`.

        Raises `NoSuchTask`, `TooManySessions`, `ShuttingDown` or `SandboxError`.
        """
        chosen = choose_task(served.pack.tasks, wanted)
        seed = wanted.seed if wanted.seed is not None else (chosen.seed if chosen else 0)
        task = chosen and seeded(chosen, seed)
        session = await self._gateway.open_session(
            served.name,
            principal,
            session_id=session_id,
            workspace_seed=None if start else await self._workspace_seed(served, task),
            snapshot=start and start.files,
            past=start and start.past,
            env=episode_environment(seed),
            restarts=False,  # a server's lost state must end the episode, in any mode
            prompt=task.prompt if task else "",
            episode_seed=seed,
        )
        return self._put_together(session, task, seed, wanted.episode_id, start)

    def _put_together(
        self, session: Session, task: Task | None, seed: int, named: str | None, start: KeptSnapshot | None
    ) -> EpisodeRun:
        gateway, folder = self._gateway, session.pack.pack.folder
        generation = new_session_id()
        session.episode = named or generation
        state = EpisodeState(_limits(session.pack))
        calls = EpisodeCalls(gateway, session, state)
        return EpisodeRun(
            gateway=gateway,
            session=session,
            state=state,
            calls=calls,
            code=EpisodeCode(calls, episode_environment(seed)),
            events=EpisodeEvents(gateway, session, folder, Schedule(task.events if task else ())),
            scoring=self._scoring(session, state, task, seed),
            episode_id=session.episode,
            seed=seed,
            task=task,
            started=gateway.clock.monotonic(),
            trajectory=f"{session.id}-{generation[:8]}",
            snapshots=self._snapshots,
            origin=start and start.origin,
            writer=self._writer,
        )

    def _scoring(self, session: Session, state: EpisodeState, task: Task | None, seed: int) -> Scoring:
        pack = session.pack.pack
        needs, reward_range = pack.manifest.sandbox, pack.manifest.env.reward_range
        limits = Limits(memory=needs.memory, cpu=needs.cpu, pids=needs.pids, disk=needs.disk)
        checks = Checks(self._gateway.driver, pack.folder, limits, session.lease.watch_check)
        return Scoring(checks, session.workspace, state, task, seed, reward_range)

    async def _workspace_seed(self, served: ServedPack, task: Task | None) -> Path | None:
        if task is None or task.workspace is None:
            return None  # the pack's own
        return await prepare_seed(served.pack, task.workspace, self._cache_dir)


def _limits(served: ServedPack) -> EpisodeLimits:
    env, on_deny = served.pack.manifest.env, served.policy.on_deny
    ends = [limit for limit in (env.max_denials, on_deny.end_after) if limit is not None]
    return EpisodeLimits(env.max_steps, min(ends, default=None), env.time_limit, on_deny.penalty)
