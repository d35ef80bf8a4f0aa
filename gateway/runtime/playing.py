"""Plays one episode from a list of actions: for the terminal and for replays. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.core.calls import LOCAL
from gateway.core.episode import Action, StepResult
from gateway.core.task_choice import ResetRequest
from gateway.errors import UsageError
from gateway.runtime.episodes import Episodes, EpisodeSession
from gateway.runtime.gateway import Gateway
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.trajectories import TrajectoryWriter

__all__ = ["Leg", "NotedTrajectory", "Played", "play"]


@dataclass(frozen=True, slots=True)
class Played:
    """An episode that was played: the reset's answer, what each action came to until the end, the pack.

    `trajectory` is the name it was written under, `None` where it was not.
    """

    pack: ServedPack
    start: StepResult
    steps: tuple[StepResult, ...]
    trajectory: str | None = None


class NotedTrajectory:
    """Passes steps on and remembers the name of the trajectory they were written to."""

    def __init__(self, writer: TrajectoryWriter) -> None:
        self._writer = writer
        self.name: str | None = None

    async def append(self, name: str, line: bytes) -> None:
        """Add one line, a JSON object; raises `LedgerError`."""
        self.name = name
        await self._writer.append(name, line)


@dataclass(frozen=True, slots=True)
class Leg:
    """An episode that is played for the snapshot that its last action takes."""

    wanted: ResetRequest
    actions: Sequence[Action]


async def play(
    gateway: Gateway,
    wanted: ResetRequest,
    actions: Iterable[Action],
    *,
    cache_dir: Path,
    writer: TrajectoryWriter | None = None,
    before: Sequence[Leg] = (),
) -> Played:
    """Play the gateway's first pack as `LOCAL` until the actions, or the episode, are over.

    Each leg of `before` starts from the snapshot of the one before it, and the episode from the last
    one's. Raises what `EpisodeSession.reset` and `step` raise, and `UsageError` if a leg leaves none.
    """
    noting = None if writer is None else NotedTrajectory(writer)
    pack = next(iter(gateway.packs.values()))
    episodes = Episodes(gateway, cache_dir=cache_dir, trajectories=noting)
    steps: list[StepResult] = []
    async with episodes.held(pack.name, LOCAL, None) as session:
        snapshot: str | None = None
        for leg in before:
            snapshot = await _left_by(session, replace(leg.wanted, snapshot=snapshot), leg.actions)
        start = await session.reset(replace(wanted, snapshot=snapshot or wanted.snapshot))
        for action in actions:
            steps.append(await session.step(action))
            if steps[-1].done:
                break
    return Played(pack, start, tuple(steps), noting.name if noting else None)


async def _left_by(session: EpisodeSession, wanted: ResetRequest, actions: Sequence[Action]) -> str:
    last = await session.reset(wanted)
    for action in actions:
        last = await session.step(action)
    snapshot = last.observation.get("snapshot_id")
    if not isinstance(snapshot, str):
        raise UsageError("the episode that this one started from leaves no snapshot any more")
    return snapshot
