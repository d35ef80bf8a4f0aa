"""Which task an episode plays: by id, or by split and index. Pure; reads and runs nothing.

Tasks are ordered by id, in the pack and in each split; an index counts from 0 in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.core.tasks import Task
from gateway.errors import ClientError

__all__ = ["NoSuchTask", "ResetRequest", "choose_task", "splits_of", "task_range", "tasks_of"]


class NoSuchTask(ClientError):
    """Somebody asks for a task, split or index that the pack does not have."""


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """What a reset may ask for; everything has a default.

    `task` is a task's id; `split` and `index` (from 0) choose among the pack's tasks in id order.
    `snapshot` is a kept workspace to start from, by its id; task and seed are then those of the episode
    it was taken in, where nothing else is asked for.
    """

    seed: int | None = None
    episode_id: str | None = None
    task: str | None = None
    split: str | None = None
    index: int | None = None
    snapshot: str | None = None

    def after(self, task: str | None, seed: int) -> ResetRequest:
        """Return what is asked for by one who goes on from an episode of this task and seed."""
        named = self.task is not None or self.split is not None or self.index is not None
        return replace(
            self,
            task=self.task if named else task,
            seed=seed if self.seed is None else self.seed,
        )


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


def splits_of(tasks: Mapping[str, Task]) -> list[str]:
    """Return the splits that have tasks, in alphabetical order."""
    return sorted({task.split for task in tasks.values()})


def tasks_of(tasks: Mapping[str, Task], split: str) -> list[Task]:
    """Return the tasks of a split in id order; raises `NoSuchTask` for a split without any."""
    found = [tasks[name] for name in sorted(tasks) if tasks[name].split == split]
    if not found:
        there_are = ", ".join(splits_of(tasks)) or "none"
        raise NoSuchTask(f"no split {split[:64]!r}; there are: {there_are}")
    return found


def task_range(found: list[Task], start: int | None, stop: int | None) -> list[Task]:
    """Return the tasks from `start` up to before `stop`; raises `NoSuchTask` outside of what there is."""
    first = 0 if start is None else start
    last = len(found) if stop is None else stop
    if not 0 <= first <= last <= len(found):
        raise NoSuchTask(f"no tasks {first} to {last}: the split has {len(found)}, counted from 0")
    return found[first:last]
