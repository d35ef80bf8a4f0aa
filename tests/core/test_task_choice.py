"""Which task a reset means: by id, by split, by place, and never another than was asked for."""

from __future__ import annotations

import pytest

from gateway.core.task_choice import NoSuchTask, ResetRequest, choose_task
from gateway.core.tasks import Task, parse_task
from tests.support.gateways import PACKS


def tasks() -> dict[str, Task]:
    files = sorted((PACKS / "echo" / "tasks").glob("*.yaml"))
    read = [parse_task(file.read_text(encoding="utf-8"), file.name) for file in files]
    return {task.id: task for task in reversed(read)}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (ResetRequest(), "be-good"),
        (ResetRequest(index=1), "fix-readme"),
        (ResetRequest(split="train"), "fix-readme"),
        (ResetRequest(task="fix-readme"), "fix-readme"),
        (ResetRequest(split="train", index=0), "fix-readme"),
    ],
)
def test_tasks_are_chosen_in_the_order_of_their_ids(wanted: ResetRequest, chosen: str) -> None:
    task = choose_task(tasks(), wanted)
    assert task is not None
    assert task.id == chosen


@pytest.mark.parametrize(
    "wanted",
    [
        ResetRequest(index=2),
        ResetRequest(split="nope"),
        ResetRequest(split="train", index=1),
        ResetRequest(task="be-good", split="train"),
    ],
)
def test_a_task_that_is_not_there_is_never_replaced_by_another(wanted: ResetRequest) -> None:
    with pytest.raises(NoSuchTask):
        choose_task(tasks(), wanted)


def test_a_pack_without_tasks_has_episodes_without_one() -> None:
    assert choose_task({}, ResetRequest()) is None
