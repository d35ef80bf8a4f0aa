"""A least-privilege proposal from recorded calls. Pure; it proposes, it never installs.

A fifth of the sessions is held out: the proposal is made from the others, and is then asked how many
of the calls of the held-out ones it would allow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.compile import compile_policy
from gateway.core.policy.identities import identities_in, names_credential
from gateway.core.policy.reading import load_policy
from gateway.core.policy.recorded import RecordedCall, Recording
from gateway.core.policy.rejudging import rejudge
from gateway.core.policy.request import PackFacts
from gateway.core.policy.samples import Learned, Noted, Samples, counted, learn_matchers
from gateway.core.policy.secret_shapes import secret_finder
from gateway.core.policy.writing import write_policy

__all__ = ["HeldOut", "Proposal", "learn", "propose", "rule_identifier", "split_sessions"]

PROPOSAL = "proposal.yaml"
_FOLDS = 5
_MOST_ID = 48


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the proposal makes of sessions it was not made from."""

    sessions: int
    calls: int
    allowed: int
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy file's text, and what it rests on: calls and sessions seen, and those held out."""

    text: str
    calls: int
    sessions: int
    tools: int
    held_out: HeldOut
    refused: int

    def wire(self) -> JsonObject:
        """Return the JSON of `policy learn --format json`."""
        held = self.held_out
        return {
            "policy": self.text,
            "seen": self.calls,
            "held_out": {"sessions": held.sessions, "calls": held.calls, "allowed": held.allowed},
        }

    def summary(self) -> list[str]:
        """Return what a reader should know before using it, one fact a line."""
        held = self.held_out
        told = [f"learned {self.tools} tools from {self.calls} calls in {self.sessions} sessions"]
        if held.sessions:
            told.append(
                f"of {held.calls} calls in {held.sessions} sessions held out, it would allow {held.allowed}"
                + (f" and ask about {held.asked}" if held.asked else "")
            )
        else:
            told.append("nothing was held out: record two sessions or more to see how well it fits others")
        if self.refused:
            told.append(f"{self.refused} calls were refused when they were recorded and taught nothing")
        return told


def learn(recording: Recording, facts: PackFacts) -> Proposal:
    """Propose a policy that allows what ran, and little more."""
    seen, held = split_sessions(recording)
    ran = [call for call in seen if call.ran]
    text = propose(ran, facts)
    others = Recording(tuple(call for call in held if call.ran))
    return Proposal(
        text=text,
        calls=len(ran),
        sessions=_sessions(ran),
        tools=len(_by_tool(ran)),
        held_out=_held_out(text, others, facts),
        refused=sum(not call.ran for call in recording.calls),
    )


def propose(calls: Sequence[RecordedCall], facts: PackFacts) -> str:
    """Return the text of a policy that allows these calls, and little more."""
    return write_policy(list(_rules(_by_tool(calls), facts)), _heading(calls))


def split_sessions(recording: Recording) -> tuple[list[RecordedCall], list[RecordedCall]]:
    """Return the calls to learn from and those held out: a fifth of the sessions, always the same ones."""
    sessions = recording.sessions()
    ordered = sorted(sessions, key=lambda session: hashlib.sha256(session.encode()).digest())
    count = max(1, len(ordered) // _FOLDS) if len(ordered) > 1 else 0
    held = frozenset(ordered[:count])
    return (
        [call for call in recording.calls if call.session not in held],
        [call for call in recording.calls if call.session in held],
    )


def _held_out(text: str, recording: Recording, facts: PackFacts) -> HeldOut:
    policy = compile_policy(load_policy(text, PROPOSAL), facts)
    decisions = list(rejudge(policy, recording, facts))
    return HeldOut(
        sessions=_sessions(recording.calls),
        calls=len(decisions),
        allowed=sum(decision.allowed for decision in decisions),
        asked=sum(decision.effect is Effect.ASK for decision in decisions),
    )


def _by_tool(calls: Sequence[RecordedCall]) -> Mapping[tuple[str, str], list[RecordedCall]]:
    groups: dict[tuple[str, str], list[RecordedCall]] = {}
    for call in calls:
        groups.setdefault((call.server, call.tool), []).append(call)
    return dict(sorted(groups.items()))


def _sessions(calls: Sequence[RecordedCall]) -> int:
    return len({call.session for call in calls})


def _heading(calls: Sequence[RecordedCall]) -> str:
    seen = f"{_times(len(calls), 'call')} in {_times(_sessions(calls), 'session')}"
    return f"Proposed from {seen}: read it before use."


def _rules(groups: Mapping[tuple[str, str], list[RecordedCall]], facts: PackFacts) -> Iterator[Noted]:
    ids: set[str] = set()
    for (server, tool), calls in groups.items():
        note = f"{_times(len(calls), 'call')} in {_times(_sessions(calls), 'session')}"
        if not calls[0].is_tool:
            target, _, own = tool.partition(":")
            named: dict[str, Learned] = {
                "id": rule_identifier(f"{server}-{target}-{own}", ids),
                "allow": Noted(f"{target}:{server}/{_literal(own)}", note),
            }
            yield Noted(named, "")
            continue
        pattern = f"{_literal(server)}.{_literal(tool)}"
        values = _values(calls)
        always, sometimes, never = _arguments(server, tool, calls, values, facts)
        args = {**always, **never}
        rule: dict[str, Learned] = {
            "id": rule_identifier(f"{server}.{tool}", ids),
            "allow": Noted(pattern, note),
            **({"args": args} if args else {}),
        }
        yield Noted(rule, "")
        for argument, matchers in sometimes.items():
            yield Noted(
                {
                    "id": rule_identifier(f"{server}.{tool}-{argument}", ids),
                    "deny": pattern,
                    "args": {argument: Noted({"not": matchers.value}, matchers.note)},
                    "why": "may be left out, and was never like this",
                },
                "",
            )

        for argument, seen in _identities(server, values, facts).items():
            yield Noted(
                {
                    "id": rule_identifier(f"{server}.{tool}-new-{argument}", ids),
                    "ask": pattern,
                    "args": {argument: seen},
                    "why": "a credential" if names_credential(argument) else "none of those that were seen",
                },
                "",
            )


def _identities(
    server: str, values: Mapping[str, Sequence[JsonValue]], facts: PackFacts
) -> dict[str, dict[str, Learned]]:
    """Return what arguments are when they name somebody, or some place, never seen, or a credential."""
    kinds = facts.kinds.get(server, {})
    found: dict[str, dict[str, Learned]] = {}
    for argument in sorted(values):
        texts, lists = identities_in(argument, values[argument])
        if names_credential(argument):
            found[argument] = {"type": "string"}
        elif texts and argument not in kinds and not any(map(secret_finder(), texts)):
            others: dict[str, Learned] = {"not_in": counted(texts)}
            found[argument] = {"items": {"any": others}} if lists else others
    return found


def _values(calls: Sequence[RecordedCall]) -> dict[str, list[JsonValue]]:
    """Return every value of each argument that a policy can name."""
    values: dict[str, list[JsonValue]] = {}
    for call in calls:
        for argument, value in call.arguments.items():
            if _can_be_named(argument):
                values.setdefault(argument, []).append(value)
    return values


def _arguments(
    server: str,
    tool: str,
    calls: Sequence[RecordedCall],
    values: Mapping[str, Sequence[JsonValue]],
    facts: PackFacts,
) -> tuple[dict[str, Noted], dict[str, Noted], dict[str, Noted]]:
    """Return what is proposed for the arguments that every call has, that some have, and that none has."""
    kinds = facts.kinds.get(server, {})
    always: dict[str, Noted] = {}
    sometimes: dict[str, Noted] = {}
    for argument in sorted(values):
        samples = Samples(tuple(values[argument]), kinds.get(argument), facts.workspace)
        group = always if len(samples.values) == len(calls) else sometimes
        matchers = {"type": "string"} if names_credential(argument) else learn_matchers(samples)
        group[argument] = Noted(matchers, _times(len(samples.values), "call"))
    properties = facts.tools.get(server, {}).get(tool, {}).get("properties")
    known = sorted(properties) if isinstance(properties, dict) else []
    unseen = [name for name in known if name not in values and _can_be_named(name)]
    never = {name: Noted({"absent": True}, "never seen") for name in unseen}
    return always, sometimes, never


def _can_be_named(argument: str) -> bool:
    """Whether a policy can speak of it: dots lead into objects there, and `@` names kinds."""
    return bool(argument) and "." not in argument and not argument.startswith("@")


def _literal(name: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]{}\\" else character for character in name)


def rule_identifier(name: str, taken: set[str]) -> str:
    """Return a rule id for a tool: letters, digits, `_ . -`, unlike those that are taken."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)
    wanted = kept[:_MOST_ID] if kept[:1].isalnum() else f"r{kept}"[:_MOST_ID]
    identifier, number = wanted, 1
    while identifier in taken:
        number += 1
        identifier = f"{wanted}-{number}"
    taken.add(identifier)
    return identifier


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
