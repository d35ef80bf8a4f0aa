"""Why a call is decided as it is: the rules that held, and for each other the first thing that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.core.decisions import Decision, DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.compile import CompiledPolicy
from gateway.core.policy.nearness import NearMiss, near_miss
from gateway.core.policy.provenance import Seen
from gateway.core.policy.request import Request
from gateway.core.policy.rules import BoundRule
from gateway.core.policy.showing import brief
from gateway.core.policy.situation import Situation

__all__ = ["Explanation", "explain", "imagined"]

_LONGEST = 200
_BEFORE_RULES = frozenset(
    {DecisionCode.INVALID_ARGUMENTS, DecisionCode.ARGUMENTS_TOO_LARGE, DecisionCode.POLICY_ERROR}
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """One judged call. `held` and `near_misses` hold every rule about the tool, in the file's order.

    `labels` are the session's, `adds` those that the call's result would add.
    """

    decision: Decision
    file: str | None
    held: tuple[BoundRule, ...]
    near_misses: tuple[NearMiss, ...]
    arguments: JsonObject
    labels: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()

    def wire(self) -> JsonObject:
        """Return the JSON of `policy explain --format json`."""
        return {
            "decision": self.decision.wire(),
            "rules": [{**_place(rule, self.file), "effect": rule.rule.effect.value} for rule in self.held],
            "near_misses": [
                {**_place(miss.rule, self.file), "failed": _failed(miss)} for miss in self.near_misses
            ],
            "arguments": self.arguments,
            "labels": list[JsonValue](self.labels),
        }

    def lines(self) -> list[str]:
        """Return the same for a person, one fact a line."""
        held = [f"held: {_named(rule, self.file)}" for rule in self.held]
        missed = [
            f"did not hold: {_named(miss.rule, self.file)}: it {miss.hint}; the call has {brief(miss.actual)}"
            for miss in self.near_misses
        ]
        labels = [f"labels of the session: {', '.join(self.labels)}"] if self.labels else []
        adds = [f"a result would add the labels: {', '.join(self.adds)}"] if self.adds else []
        shown = f"arguments: {brief(self.arguments)}"
        return [self.decision.sentence(), *held, *missed, shown, *labels, *adds]


def explain(policy: CompiledPolicy, request: Request) -> Explanation:
    """Return the judgement of one call with its reasons; the decision is that of `judge`."""
    judgement = policy.judge(request)
    arguments = judgement.arguments
    if judgement.decision.code in _BEFORE_RULES:
        return Explanation(judgement.decision, policy.file, (), (), arguments)
    rules = policy.rules_of(request)
    every = sorted((*rules.denies, *rules.asks, *rules.allows), key=lambda rule: rule.line)
    misses = {rule.rule.id: near_miss(rule, arguments, request) for rule in every}
    return Explanation(
        decision=judgement.decision,
        file=policy.file,
        held=tuple(rule for rule in every if misses[rule.rule.id] is None),
        near_misses=tuple(miss for miss in misses.values() if miss),
        arguments=arguments,
        labels=tuple(sorted(request.situation.labels)),
        adds=tuple(sorted(policy.labels_added(request, arguments))),
    )


def imagined(
    policy: CompiledPolicy, *, labels: Iterable[str] = (), prompt: str = "", after: Iterable[str] = ()
) -> Situation:
    """Return a session with these labels and task in which the tools `after` (`server.tool`) were called.

    With what arguments is not known, so all labels that their results may add are there.
    """
    carried, calls = set(labels), dict[str, int]()
    for name in after:
        server, _, tool = name.partition(".")
        calls[name] = calls.get(name, 0) + 1
        for entry in policy.rules_of(Request(server, tool, {})).labels:
            carried |= entry.adds
    steps = sum(calls.values())
    return Situation(frozenset(carried), steps=steps, calls=calls, appeared=Seen(prompt).finder())


def _place(rule: BoundRule, file: str | None) -> dict[str, JsonValue]:
    return {"id": rule.rule.id, "file": file, "line": rule.line}


def _failed(miss: NearMiss) -> JsonObject:
    return {
        "argument": miss.argument,
        "matcher": miss.check.matcher,
        "expected": miss.check.expected,
        "actual": _shortened(miss.actual),
    }


def _shortened(value: JsonValue) -> JsonValue:
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]}…"
    return value if not isinstance(value, list | dict) or len(text := brief(value)) < _LONGEST // 2 else text


def _named(rule: BoundRule, file: str | None) -> str:
    return f"{rule.rule.effect.value} rule {rule.rule.id!r} ({file}:{rule.line})"
