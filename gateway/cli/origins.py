"""The episodes that a recorded one started from: each up to the snapshot it left, the first one first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.core.replay import RecordedEpisode

__all__ = ["episodes_before"]


def episodes_before(recorded: RecordedEpisode, file: Path) -> list[RecordedEpisode]:
    """Return what was played before an episode, from the trajectories beside its own.

    Raises `UsageError` where one of them is missing.
    """
    from dataclasses import replace

    from gateway.cli.files import read_text
    from gateway.core.replay import read_trajectory

    found: list[RecordedEpisode] = []
    seen: set[str] = set()
    while (origin := recorded.origin) is not None:
        parent = file.parent / f"{Path(origin.trajectory).name}.jsonl"
        if origin.trajectory in seen or not parent.is_file():
            message = f"{file}: the episode started from a snapshot of {parent.name}: put that file beside it"
            raise UsageError(message)
        seen.add(origin.trajectory)
        recorded = read_trajectory(read_text(parent), str(parent))
        found.insert(0, replace(recorded, steps=recorded.steps[: origin.step]))
    return found
