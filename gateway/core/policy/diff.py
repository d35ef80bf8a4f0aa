"""What changes from one policy to another: on recorded calls, or in the files' structured parts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.core.decisions import Decision, DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.compile import CompiledPolicy
from gateway.core.policy.model import PolicyFile
from gateway.core.policy.reading import Policy
from gateway.core.policy.recorded import Recording
from gateway.core.policy.rejudging import rejudge
from gateway.core.policy.request import PackFacts
from gateway.core.policy.showing import brief

__all__ = ["CallChange", "CallDiff", "PartChange", "TextDiff", "diff_calls", "diff_files"]

_NO_RULE = "(no rule)"


@dataclass(frozen=True, slots=True)
class CallChange:
    """A recorded call that the two policies decide differently."""

    call_id: str
    tool: str
    before: Decision
    after: Decision

    @property
    def rule(self) -> str:
        """The rule that makes the difference: the new one's, or where none holds any more, the old one's."""
        by_new = None if self.after.code is DecisionCode.NO_MATCH else self.after.rule
        return by_new or self.before.rule or _NO_RULE


@dataclass(frozen=True, slots=True)
class CallDiff:
    """How many calls were judged under both, and those whose effect changed, oldest first."""

    judged: int
    changed: tuple[CallChange, ...]

    def by_rule(self) -> Mapping[str, tuple[CallChange, ...]]:
        """Return the changed calls by the rule that makes the difference, most calls first."""
        groups: dict[str, list[CallChange]] = {}
        for change in self.changed:
            groups.setdefault(change.rule, []).append(change)
        ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        return {rule: tuple(changes) for rule, changes in ordered}

    def wire(self) -> JsonObject:
        """Return the JSON of `policy diff --format json`."""
        changed: list[JsonValue] = [
            {
                "call_id": change.call_id,
                "tool": change.tool,
                "before": change.before.effect.value,
                "after": change.after.effect.value,
            }
            for change in self.changed
        ]
        by_rule: JsonObject = {
            rule: [change.call_id for change in changes] for rule, changes in self.by_rule().items()
        }
        return {"judged": self.judged, "changed": changed, "by_rule": by_rule}

    def lines(self) -> list[str]:
        """Return the same for a person."""
        told = [f"{len(self.changed)} of {self.judged} recorded calls change"]
        for rule, changes in self.by_rule().items():
            told.append(f"{rule}: {len(changes)}")
            told += [
                f"  {change.call_id} {change.tool}: {change.before.effect.value} -> {change.after.sentence()}"
                for change in changes
            ]
        return told


@dataclass(frozen=True, slots=True)
class PartChange:
    """A part of the file that differs: dotted place, and both values (`None` where it is not there)."""

    part: str
    before: JsonValue
    after: JsonValue

    def line(self) -> str:
        """Return it for a person."""
        if self.before is None:
            return f"+ {self.part}: {brief(self.after)}"
        if self.after is None:
            return f"- {self.part}: {brief(self.before)}"
        return f"~ {self.part}: {brief(self.before)} -> {brief(self.after)}"


@dataclass(frozen=True, slots=True)
class TextDiff:
    """What the files say differently. Order of rules, names of variables and tests do not count."""

    changed: tuple[PartChange, ...]

    def wire(self) -> JsonObject:
        """Return the JSON of `policy diff --format json` without a log."""
        parts: list[JsonValue] = [
            {"part": change.part, "before": change.before, "after": change.after} for change in self.changed
        ]
        return {"judged": 0, "changed": [], "by_rule": {}, "parts": parts}

    def lines(self) -> list[str]:
        """Return the same for a person."""
        return [change.line() for change in self.changed] or ["the policies say the same"]


def diff_calls(old: CompiledPolicy, new: CompiledPolicy, recording: Recording, facts: PackFacts) -> CallDiff:
    """Judge every recorded call under both policies, each in the mode it was recorded in."""
    before, after = rejudge(old, recording, facts), rejudge(new, recording, facts)
    changed = [
        CallChange(call.call_id, call.name, first, second)
        for call, first, second in zip(recording.calls, before, after, strict=True)
        if first.effect is not second.effect
    ]
    return CallDiff(len(recording.calls), tuple(changed))


def diff_files(old: Policy, new: Policy) -> TextDiff:
    """Compare what the two files say, without any call."""
    return TextDiff(tuple(_differences("", _parts(old.model), _parts(new.model))))


def _parts(model: PolicyFile) -> JsonObject:
    """Return what matters of a policy, its rules by id; variables are where they are used already."""
    written: JsonObject = model.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude={"rules", "tests", "vars", "version"}
    )
    rules: JsonObject = {
        rule.id: rule.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"id"})
        for rule in model.rules
    }
    return {"rules": rules, **written}


def _differences(place: str, before: JsonValue, after: JsonValue) -> Iterator[PartChange]:
    if before == after and type(before) is type(after):
        return
    if not isinstance(before, dict) or not isinstance(after, dict):
        yield PartChange(place, before, after)
        return
    for key in [*before, *(key for key in after if key not in before)]:
        yield from _differences(f"{place}.{key}" if place else key, before.get(key), after.get(key))
