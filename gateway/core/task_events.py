"""External events of a task: what happens in the workspace between an agent's steps. Schema and schedule.

    events:
      - at_step: 3                        # before the agent's third step
        write: {path: inbox/mail.txt, text: "Meet at ${seed}."}
      - after_tool: send_mail             # before the step after the first one in which it answered
        append: {path: log.txt, text: "sent\n"}
      - {at_step: 4, delete: notes.txt}
      - {at_step: 4, copy: {from: fixtures/new, to: inbox}}

Each event happens once; those that are due together happen in the order they are written. Pure: what is
due is said here, `gateway.runtime.episode_events` has it done.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, model_validator

from gateway.core.fields import FrozenModel, PackPath, WorkspacePath, only_key
from gateway.core.json_types import JsonObject

__all__ = ["CopyIn", "Schedule", "TaskEvent", "WrittenText"]

_TRIGGERS = ("at_step", "after_tool")
_CHANGES = ("write", "append", "delete", "copy")


class WrittenText(FrozenModel):
    """Text for a file of the workspace; folders on the way to it are made."""

    path: WorkspacePath
    text: Annotated[str, Field(max_length=1_000_000)]


class CopyIn(FrozenModel):
    """A file or folder of the pack, and the path in the workspace that it gets."""

    source: PackPath = Field(alias="from")
    to: WorkspacePath


class TaskEvent(FrozenModel):
    """One event: when (`at_step` or `after_tool`), and what (one of the four changes)."""

    at_step: Annotated[int, Field(ge=1)] | None = None
    after_tool: Annotated[str, Field(min_length=1)] | None = None
    write: WrittenText | None = None
    append: WrittenText | None = None
    delete: WorkspacePath | None = None
    copy_in: CopyIn | None = Field(default=None, alias="copy")

    @model_validator(mode="after")
    def _one_of_each(self) -> TaskEvent:
        written = {**self.__dict__, "copy": self.copy_in}
        only_key(written, _TRIGGERS, "an event")
        only_key(written, _CHANGES, "an event")
        return self

    @property
    def kind(self) -> str:
        """Which of the four changes it is."""
        return only_key({**self.__dict__, "copy": self.copy_in}, _CHANGES, "an event")

    @property
    def path(self) -> str:
        """What it changes, relative to the workspace."""
        for change in (self.write, self.append):
            if change is not None:
                return change.path
        return self.copy_in.to if self.copy_in is not None else str(self.delete)

    def change(self) -> JsonObject:
        """Return it as the program that does it is told: `{kind, path, text?}`."""
        told: JsonObject = {"kind": self.kind, "path": self.path}
        text = self.write or self.append
        return told if text is None else {**told, "text": text.text}


@dataclass(slots=True)
class Schedule:
    """Which events have not happened yet."""

    events: Sequence[TaskEvent]
    _done: set[int] = field(default_factory=set[int])

    def due(self, step: int, answered: Collection[str]) -> list[tuple[int, TaskEvent]]:
        """Return what happens before a step, with its number from 1; it counts as happened from here on.

        `answered` are the tools that answered in the steps before.
        """
        found = [
            (number, event)
            for number, event in enumerate(self.events, 1)
            if number not in self._done and _is_due(event, step, answered)
        ]
        self._done.update(number for number, _ in found)
        return found


def _is_due(event: TaskEvent, step: int, answered: Collection[str]) -> bool:
    return event.after_tool in answered if event.at_step is None else step >= event.at_step
