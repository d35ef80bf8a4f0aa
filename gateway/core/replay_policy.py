"""Which steps of a recorded episode are decided otherwise, played again or under another policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from gateway.core.calls import LOCAL
from gateway.core.catalog import Tool
from gateway.core.json_types import JsonObject
from gateway.core.policy import CompiledPolicy, PackFacts
from gateway.core.policy.diff import diff_calls
from gateway.core.policy.recorded import RecordedCall, Recording
from gateway.core.replay import DecidedCall, RecordedEpisode, RecordedStep, decided_calls

__all__ = ["PolicyChange", "changes_by_policy", "changes_when_played"]


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """A step whose call is decided otherwise; `before` and `after` are effects, `None` if not decided."""

    step: int
    tool: str
    before: str | None
    after: str | None

    def wire(self) -> JsonObject:
        """Return `{step, tool, before, after}`."""
        return {"step": self.step, "tool": self.tool, "before": self.before, "after": self.after}


def changes_when_played(recorded: RecordedEpisode, now: Iterable[JsonObject]) -> list[PolicyChange]:
    """Return the steps decided otherwise than recorded; `now` are the answers of the re-execution."""
    return [
        PolicyChange(step.number, (call or again).tool, call and call.effect, again and again.effect)
        for step, wire in zip(recorded.steps, now, strict=False)
        for call, again in zip_longest(step.calls, decided_calls(step.action, wire))
        if (call and call.effect) != (again and again.effect)
    ]


def changes_by_policy(
    old: CompiledPolicy,
    new: CompiledPolicy,
    recorded: RecordedEpisode,
    tools: Mapping[str, Tool],
    facts: PackFacts,
) -> list[PolicyChange]:
    """Return the steps that `new` decides otherwise than `old`, each judging the recorded calls in order.

    `tools` are the pack's by the name it shows. Calls that no policy is asked about are left out.
    """
    made = [(step, call) for step in recorded.steps for call in step.calls]
    calls = [_call(str(place), step, call, recorded.pack, tools) for place, (step, call) in enumerate(made)]
    found = diff_calls(old, new, Recording(tuple(call for call in calls if call is not None)), facts)
    return [
        PolicyChange(
            step=made[int(change.call_id)][0].number,
            tool=made[int(change.call_id)][1].tool,
            before=change.before.effect.value,
            after=change.after.effect.value,
        )
        for change in found.changed
    ]


def _call(
    call_id: str, step: RecordedStep, call: DecidedCall, pack: str, tools: Mapping[str, Tool]
) -> RecordedCall | None:
    tool = tools.get(call.tool)
    if tool is None or tool.check(call.arguments):
        return None
    return RecordedCall(
        call_id=call_id,
        session=pack,
        pack=pack,
        server=tool.server,
        tool=tool.upstream,
        arguments=call.arguments,
        principal=LOCAL,
        mode="training",
        ran=call.effect == "allow",
        at=step.at,
    )
