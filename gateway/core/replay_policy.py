"""Which steps of a recorded episode are decided otherwise, played again or under another policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.core.calls import LOCAL
from gateway.core.catalog import Tool
from gateway.core.json_types import JsonObject
from gateway.core.policy import CompiledPolicy, PackFacts
from gateway.core.policy.diff import diff_calls
from gateway.core.policy.recorded import RecordedCall, Recording
from gateway.core.replay import RecordedEpisode, RecordedStep, effect_of

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
        PolicyChange(step.number, step.tool, step.effect, effect_of(wire))
        for step, wire in zip(recorded.steps, now, strict=False)
        if step.effect != effect_of(wire)
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
    calls = [call for step in recorded.steps if (call := _call(step, recorded.pack, tools)) is not None]
    found = diff_calls(old, new, Recording(tuple(calls)), facts)
    steps = {str(step.number): step for step in recorded.steps}
    return [
        PolicyChange(
            step=steps[change.call_id].number,
            tool=steps[change.call_id].tool,
            before=change.before.effect.value,
            after=change.after.effect.value,
        )
        for change in found.changed
    ]


def _call(step: RecordedStep, pack: str, tools: Mapping[str, Tool]) -> RecordedCall | None:
    tool = tools.get(step.tool)
    arguments = step.action.get("arguments", {})
    if tool is None or step.effect is None or not isinstance(arguments, dict) or tool.check(arguments):
        return None
    return RecordedCall(
        call_id=str(step.number),
        session=pack,
        pack=pack,
        server=tool.server,
        tool=tool.upstream,
        arguments=arguments,
        principal=LOCAL,
        mode="training",
        ran=step.effect == "allow",
        at=step.at,
    )
