"""A call in flight as the session machine keeps it between two events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

from gateway.core.calls import Outcome, ToolCall
from gateway.core.catalog import Tool
from gateway.core.decisions import Decision
from gateway.core.json_types import JsonObject
from gateway.core.policy import CompiledPolicy
from gateway.core.policy.state import Moment
from gateway.core.records import CallIds, ToolIds

__all__ = ["Given", "Phase", "Running"]

_MOST_NAMED = 1_024
"""Characters of a resource's URI or a prompt's name that are recorded."""


class Phase(IntEnum):
    """What a call waits for. Numbers, which hash fast: this is looked up at every event."""

    LOOKING = auto()  # the policy wants to know something of the session's files
    JUDGED = auto()  # the decision waits for the disk
    SEEKING = auto()  # somebody is asked
    ACQUIRING = auto()  # the server is being had
    SENT = auto()  # the server has the call
    SETTLED = auto()  # the outcome waits for the disk
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Given:
    """An approval that was given to what was shown as `binding`."""

    approval: str
    by: str
    binding: str


@dataclass(slots=True)
class Running:
    """One call in flight: the `number`th of its session.

    `policy` is what its decision was made by, also after a reload. `asked` binds the approval that it
    waits for; `clears` are the labels that the one it runs on takes away.
    """

    call: ToolCall
    policy: CompiledPolicy
    decision: Decision
    arguments: JsonObject
    tool: Tool | None
    ids: CallIds
    started: float
    number: int = 0
    phase: Phase = Phase.JUDGED
    sandbox: str | None = None
    outcome: Outcome | None = None
    wall: float = 0.0
    asked: str = ""
    given: Given | None = None
    clears: tuple[str, ...] = ()

    def moment(self, now: float) -> Moment:
        """Return `now` on both clocks."""
        return Moment(self.wall + now - self.started, now)

    @property
    def tool_ids(self) -> ToolIds:
        """What its records say of the tool."""
        call, tool = self.call, self.tool
        if call.target != "tool":
            return ToolIds(call.server, f"{call.target}:{call.tool}"[:_MOST_NAMED], None, self.sandbox)
        if tool is None:
            return ToolIds(server=None, tool=call.tool, definition_sha256=None, sandbox=None)
        return ToolIds(tool.server, tool.upstream, tool.sha256, self.sandbox)
