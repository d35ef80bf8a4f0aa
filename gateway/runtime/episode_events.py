"""Makes a task's events happen in an episode's workspace, between its steps, and has them recorded.

Our own program does it in a sandbox of its own over the workspace: whatever an agent left in the way,
links above all, a change reaches nothing but the workspace. Decides nothing: the task says what happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.records import change_record
from gateway.core.strict_json import StrictJsonError, dumps, loads
from gateway.core.task_events import Schedule, TaskEvent
from gateway.data import data_folder
from gateway.runtime.gateway import Gateway
from gateway.runtime.programs import ProgramFault, run_program
from gateway.runtime.sessions import Session
from gateway.sandbox.contract import Mount, SandboxSpec
from gateway.sandbox.runtimes import python_runtime

__all__ = ["EpisodeEvents"]

_PROGRAM_AT = "/opt/change_files.py"
_SOURCE_AT = "/opt/events"
_SECONDS = 60.0

_Due = Sequence[tuple[int, TaskEvent]]


@dataclass(slots=True, eq=False)
class EpisodeEvents:
    """The events of one episode. `folder` is the pack's."""

    gateway: Gateway
    session: Session
    folder: Path
    schedule: Schedule

    async def before(self, step: int, answered: Sequence[str]) -> list[JsonValue]:
        """Make what is due happen and return it, as `metadata.events` shows it.

        What an agent put in the way of a change is told there (`applied`, `reason`) and the episode goes
        on. Raises `ProgramFault` if nothing could be changed at all, `LedgerError` if it was not recorded.
        """
        due = self.schedule.due(step, answered)
        if not due:
            return []
        shown = [
            _shown(number, event, result)
            for (number, event), result in zip(due, await self._change(due), strict=True)
        ]
        for change in shown:
            await self.gateway.record(change_record(ids=self.session.ids(), change=change))
        return list[JsonValue](shown)

    async def _change(self, due: _Due) -> list[JsonObject]:
        python, program = python_runtime(), Mount(data_folder("sandboxes") / "change_files.py", _PROGRAM_AT)
        workspace, sources = self.session.workspace, self._sources(due)
        spec = SandboxSpec(
            name="events",
            argv=(python.argv0, "-I", "-S", _PROGRAM_AT, workspace.path, *(s.target for s in sources)),
            env=dict(python.env),
            mounts=(*python.mounts, program, *sources),
            cwd="/",
        )
        changes = _told([event for _, event in due])
        driver, told = self.gateway.driver, dumps({"changes": changes})
        watch = self.session.lease.watched
        verdict = await run_program(driver, "events", spec, workspace, told, _SECONDS, watch)
        if verdict.exit_code != 0:
            raise ProgramFault(f"events: exit code {verdict.exit_code}: {verdict.stderr[-300:]}")
        return _results(verdict.stdout, len(due))

    def _sources(self, due: _Due) -> list[Mount]:
        return [
            Mount((self.folder / event.copy_in.source).resolve(), f"{_SOURCE_AT}/{number}")
            for number, event in due
            if event.copy_in is not None
        ]


def _told(events: Iterable[TaskEvent]) -> list[JsonValue]:
    """Return the changes as the program is told; one that copies counts the sources named to it."""
    sources = count()
    return [
        event.change() if event.copy_in is None else {**event.change(), "source": next(sources)}
        for event in events
    ]


def _shown(number: int, event: TaskEvent, result: JsonObject) -> JsonObject:
    shown: JsonObject = {"event": number, "kind": event.kind, "path": event.path}
    return {
        **shown,
        "applied": result.get("applied") is True,
        "reason": str(result.get("reason") or "")[:200],
    }


def _results(stdout: str, wanted: int) -> list[JsonObject]:
    try:
        said = loads(stdout)
    except StrictJsonError as error:
        raise ProgramFault(f"events: unreadable answer: {error}") from None
    results = said.get("results") if isinstance(said, dict) else None
    if not isinstance(results, list) or len(results) != wanted:
        raise ProgramFault("events: an answer of another shape")
    return [result if isinstance(result, dict) else {} for result in results]
