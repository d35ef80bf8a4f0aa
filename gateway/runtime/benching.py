"""How long episodes take: the same actions played over and over, some at a time. Measures only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from gateway.core.calls import LOCAL
from gateway.core.episode import Action
from gateway.core.task_choice import ResetRequest
from gateway.runtime.episodes import Episodes
from gateway.runtime.gateway import Gateway

__all__ = ["Measured", "bench"]


@dataclass(slots=True)
class Measured:
    """What was measured, in seconds: each reset, each step, and all of it together.

    The first step of an episode is apart, for it may bring up a tool's server, and so is the one that ends
    it, for that is scored.
    """

    resets: list[float] = field(default_factory=list[float])
    first_steps: list[float] = field(default_factory=list[float])
    steps: list[float] = field(default_factory=list[float])
    ends: list[float] = field(default_factory=list[float])
    seconds: float = 0.0


async def bench(
    gateway: Gateway,
    wanted: ResetRequest,
    actions: Sequence[Action],
    *,
    episodes: int,
    sessions: int,
    cache_dir: Path,
) -> Measured:
    """Play so many episodes of the gateway's first pack, `sessions` at a time; writes no trajectories.

    Raises what `EpisodeSession.reset` and `step` raise.
    """
    pack, clock = next(iter(gateway.packs)), gateway.clock
    table = Episodes(gateway, cache_dir=cache_dir)
    measured, places = Measured(), anyio.CapacityLimiter(sessions)

    async def one() -> None:
        async with places, table.held(pack, LOCAL, None) as session:
            started = clock.monotonic()
            await session.reset(wanted)
            measured.resets.append(clock.monotonic() - started)
            for number, action in enumerate(actions):
                started = clock.monotonic()
                result = await session.step(action)
                taken = clock.monotonic() - started
                kind = measured.ends if result.done else measured.steps if number else measured.first_steps
                kind.append(taken)
                if result.done:
                    return

    started = clock.monotonic()
    async with anyio.create_task_group() as tasks:
        for _ in range(episodes):
            tasks.start_soon(one)
    measured.seconds = clock.monotonic() - started
    return measured
