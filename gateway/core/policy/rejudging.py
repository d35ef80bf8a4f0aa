"""Recorded calls judged again: each session is lived through once more under one policy. Pure.

Labels, counts and limits grow as they would have: a call that this policy denies leaves nothing, one
that it asks for runs if it did when it was recorded. Time is that of the record; of links nothing is
recorded, so there are none.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.calls import Answered, Denied
from gateway.core.decisions import Decision, Effect
from gateway.core.policy.compile import CompiledPolicy
from gateway.core.policy.limits import Counters
from gateway.core.policy.reading import Policy
from gateway.core.policy.recorded import RecordedCall, Recording
from gateway.core.policy.request import PackFacts, Request
from gateway.core.policy.situation import NOWHERE
from gateway.core.policy.state import Moment, PolicyState

__all__ = ["blind_rules", "rejudge"]


def rejudge(policy: CompiledPolicy, recording: Recording, facts: PackFacts) -> Iterator[Decision]:
    """Yield what `policy` decides of each call, in order, in the mode it was recorded in."""
    shared = Counters()
    sessions: dict[str, PolicyState] = {}
    for call in recording.calls:
        state = sessions.setdefault(call.session, PolicyState(shared))
        yield _live(policy, state, call, facts)


def blind_rules(policy: Policy) -> list[str]:
    """Return the rules that ask where a value came `from`: a ledger has no prompts and results to look in."""
    return [
        rule.id
        for rule in policy.model.every_rule()
        if any(part.from_ for matchers in rule.args.values() for part in matchers.every())
    ]


def _live(policy: CompiledPolicy, state: PolicyState, call: RecordedCall, facts: PackFacts) -> Decision:
    state.begin(None)
    moment, links = Moment(call.at, call.at), NOWHERE.crosses_link
    decision = state.judge(policy, call.call_id, _request(call, facts), moment, links).decision
    runs = decision.allowed or (decision.effect is Effect.ASK and call.ran)
    if runs:
        state.answered_in_part(call.call_id)
    state.ended(call.call_id, Answered(decision, {}) if runs else Denied(decision), sent=runs)
    return decision


def _request(call: RecordedCall, facts: PackFacts) -> Request:
    if not call.is_tool:
        return Request.named(call.name, call.arguments, facts, principal=call.principal, mode=call.mode)
    return Request(
        server=call.server,
        tool=call.tool,
        arguments=call.arguments,
        kinds=facts.kinds.get(call.server, {}),
        workspace=facts.workspace,
        principal=call.principal,
        mode=call.mode,
    )
