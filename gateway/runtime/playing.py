"""Plays one episode from a list of actions: for the terminal and for replays. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.core.calls import LOCAL
from gateway.core.episode import Action, StepResult
from gateway.core.json_types import JsonObject
from gateway.core.task_choice import ResetRequest
from gateway.runtime.episodes import Episodes
from gateway.runtime.gateway import Gateway
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.trajectories import TrajectoryWriter

__all__ = ["Played", "play"]


@dataclass(frozen=True, slots=True)
class Played:
    """An episode that was played: the reset's answer, what each action came to until the end, the pack.

    `trajectory` is the name it was written under, `None` where it was not.
    """

    pack: ServedPack
    start: StepResult
    steps: tuple[StepResult, ...]
    trajectory: str | None = None


class _Noting:
    """Passes steps on and remembers the trajectory's name."""

    def __init__(self, writer: TrajectoryWriter) -> None:
        self._writer = writer
        self.name: str | None = None

    async def append(self, name: str, line: JsonObject) -> None:
        self.name = name
        await self._writer.append(name, line)


async def play(
    gateway: Gateway,
    wanted: ResetRequest,
    actions: Iterable[Action],
    *,
    cache_dir: Path,
    writer: TrajectoryWriter | None = None,
) -> Played:
    """Play the gateway's first pack as `LOCAL` until the actions, or the episode, are over.

    Raises what `EpisodeSession.reset` and `step` raise.
    """
    noting = None if writer is None else _Noting(writer)
    pack = next(iter(gateway.packs.values()))
    episodes = Episodes(gateway, cache_dir=cache_dir, trajectories=noting)
    steps: list[StepResult] = []
    async with episodes.held(pack.name, LOCAL, None) as session:
        start = await session.reset(wanted)
        for action in actions:
            steps.append(await session.step(action))
            if steps[-1].done:
                break
    return Played(pack, start, tuple(steps), noting.name if noting else None)
