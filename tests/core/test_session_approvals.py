"""Calls whose rule asks, told as scripts: who is asked, what an answer is worth, what is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.core.calls import LOCAL, Answered, Denied, Failed, FailureKind, Front, Principal, ToolCall
from gateway.core.catalog import ServerListing, build_catalog
from gateway.core.decisions import DecisionCode, Effect
from gateway.core.events import (
    Acquire,
    Acquired,
    Answer,
    Approved,
    Broke,
    Called,
    Event,
    Expired,
    Pending,
    Record,
    Recorded,
    RecordLost,
    Refused,
    Returned,
    SeekApproval,
    Send,
)
from gateway.core.lock import tool_sha256
from gateway.core.policy import CompiledPolicy, compile_policy, load_policy
from gateway.core.policy.in_force import PolicyInForce
from gateway.core.session import SessionMachine
from gateway.core.session_facts import SessionFacts

ASKS = """\
version: 1
principals:
  lead: {user: lead}
rules:
  - id: push
    ask: git.push
    args: {branch: {regex: "agent/.*"}}
    why: pushes are looked at
    approve: {by: lead, ttl: 10m, wait: 5s}
"""
PUSH: dict[str, Any] = {
    "name": "push",
    "inputSchema": {"type": "object", "properties": {"branch": {"type": "string"}}},
}


def policy(text: str = ASKS) -> CompiledPolicy:
    return compile_policy(load_policy(text, "p.yaml"), None)


def machine(text: str = ASKS, principal: Principal = LOCAL) -> SessionMachine:
    listing = ServerListing("git", (PUSH,), {"push": tool_sha256(PUSH)})
    facts = SessionFacts(
        id="s1",
        pack="git",
        principal=principal,
        in_force=PolicyInForce(policy(text)),
        catalog=build_catalog([listing]),
        mode="deployment",
        workspace="/workspace",
        key=b"k" * 32,
    )
    return SessionMachine(facts)


def call(branch: str = "agent/x") -> ToolCall:
    return ToolCall("c1", "push", {"branch": branch}, Front.MCP)


def play(session: SessionMachine, *events: Event) -> list[Any]:
    return [session.receive("c1", event, 0.0) for event in events]


def decided(record: Any) -> tuple[str, str, str | None]:
    assert isinstance(record, Record)
    decision: Any = record.body["decision"]
    return decision["effect"], decision["code"], decision["rule"]


def test_an_approved_call_has_two_decisions_and_one_outcome_on_record_and_runs() -> None:
    yes = Approved("appr_1", "lead")
    commands = play(
        machine(), Called(call()), Recorded(), yes, Recorded(), Acquired("sb"), Returned({}), Recorded()
    )
    asked, seek, approved, acquire, send, outcome, answer = commands
    assert decided(asked) == ("ask", "approval_pending", "push")
    assert isinstance(seek, SeekApproval)
    assert decided(approved) == ("allow", "approved", "push")
    assert "'lead' as appr_1" in approved.body["decision"]["reason"]
    assert (acquire, send) == (
        Acquire("git"),
        Send("git", "tools/call", {"name": "push", "arguments": {"branch": "agent/x"}}),
    )
    assert outcome.body["event"] == "outcome"
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcome, Answered)
    assert answer.outcome.decision.code is DecisionCode.APPROVED


def test_the_request_says_who_is_named_and_how_long_it_may_take() -> None:
    request = play(machine(), Called(call()), Recorded())[-1].request
    assert (request.terms.ttl, request.terms.wait, request.terms.prompt) == (600.0, 5.0, True)
    assert request.terms.names(Principal("x", user="lead"))
    assert not request.terms.counts_from_caller(LOCAL)
    assert (request.decision.reason, request.arguments) == ("pushes are looked at", {"branch": "agent/x"})


@pytest.mark.parametrize(
    ("event", "code", "said"),
    [
        (Refused("'lead' denied appr_1"), DecisionCode.APPROVAL_DENIED, "'lead' denied appr_1"),
        (Expired("appr_1 ran out"), DecisionCode.APPROVAL_EXPIRED, "appr_1 ran out"),
        (Pending("appr_1"), DecisionCode.APPROVAL_PENDING, "pushes are looked at; appr_1 waits for it"),
    ],
)
def test_a_call_that_is_not_approved_is_denied_by_a_decision_of_its_own(
    event: Event, code: DecisionCode, said: str
) -> None:
    commands = play(machine(), Called(call()), Recorded(), event, Recorded(), Recorded())
    assert [type(command) for command in commands] == [Record, SeekApproval, Record, Record, Answer]
    assert decided(commands[2]) == ("deny", code.value, "push")
    outcome = commands[-1].outcome
    assert isinstance(outcome, Denied)
    assert (outcome.decision.effect, outcome.decision.code) == (Effect.DENY, code)
    assert (said in outcome.decision.reason, outcome.decision.line) == (True, 5)


def test_an_approval_does_not_lift_a_denial_that_came_meanwhile() -> None:
    session = machine()
    play(session, Called(call()), Recorded())
    now = ASKS + '  - id: freeze\n    deny: "git.*"\n'
    session.facts.in_force.swap(policy(now))
    commands = play(session, Approved("appr_1", "lead"), Recorded(), Recorded())
    assert decided(commands[0]) == ("deny", "rule_deny", "freeze")
    assert isinstance(commands[-1].outcome, Denied)
    assert commands[-1].outcome.decision.policy_sha256 == policy(now).sha256


def test_an_approval_of_one_rule_does_not_answer_another() -> None:
    session = machine()
    play(session, Called(call()), Recorded())
    session.facts.in_force.swap(policy(ASKS.replace("id: push", "id: push-anew")))
    asked, seek = play(session, Approved("appr_1", "lead"), Recorded())
    assert decided(asked) == ("ask", "approval_pending", "push-anew")
    assert isinstance(seek, SeekApproval)


def test_an_allowance_that_came_meanwhile_needs_no_approval() -> None:
    session = machine()
    play(session, Called(call()), Recorded())
    session.facts.in_force.swap(policy("version: 1\nrules:\n  - {id: all, allow: git.push}\n"))
    (decision,) = play(session, Approved("appr_1", "lead"))
    assert decided(decision) == ("allow", "rule_allow", "all")


def test_a_tool_that_changed_while_it_waited_is_not_called() -> None:
    session = machine()
    play(session, Called(call()), Recorded())
    session.listed("git", [{**PUSH, "description": "other"}])
    (decision,) = play(session, Approved("appr_1", "lead"))
    assert decided(decision)[1] == "definition_changed"


def test_a_caller_that_leaves_while_it_waits_has_one_outcome() -> None:
    left = Broke(FailureKind.CANCELLED, "the caller left")
    commands = play(machine(), Called(call()), Recorded(), left, Recorded())
    assert isinstance(commands[-1].outcome, Failed)
    assert commands[-2].body["outcome"]["failure"] == "cancelled"


@pytest.mark.parametrize("event", [Approved("appr_1", "lead"), Pending("appr_1")])
def test_an_answer_that_cannot_be_recorded_is_a_denial(event: Event) -> None:
    commands = play(machine(), Called(call()), Recorded(), event, RecordLost("disk full"))
    assert isinstance(commands[-1], Answer)
    assert commands[-1].outcome.decision.code is DecisionCode.AUDIT_UNAVAILABLE


def test_an_approval_is_bound_to_arguments_principal_and_rule() -> None:
    def binding(session: SessionMachine, branch: str = "agent/x") -> str:
        return play(session, Called(call(branch)), Recorded())[-1].request.binding

    bindings = [
        binding(machine()),
        binding(machine(), "agent/y"),
        binding(machine(principal=replace(LOCAL, name="other"))),
        binding(machine(principal=replace(LOCAL, groups=frozenset({"g"})))),
        binding(machine(ASKS.replace("id: push", "id: other"))),
    ]
    assert len(set(bindings)) == len(bindings)
    assert binding(machine()) == bindings[0]


@pytest.mark.parametrize("event", [Acquired("sb"), Returned({}), Recorded()])
def test_nothing_but_an_answer_moves_a_call_that_asks(event: Event) -> None:
    session = machine()
    play(session, Called(call()), Recorded())
    with pytest.raises(RuntimeError, match=f"unexpected {type(event).__name__}"):
        play(session, event)


@pytest.mark.parametrize("event", [Approved("a", "b"), Refused("r"), Expired("e"), Pending("p")])
def test_an_answer_that_nobody_asked_for_is_refused(event: Event) -> None:
    session = machine("version: 1\nrules:\n  - {id: all, allow: git.push}\n")
    play(session, Called(call()))
    with pytest.raises(RuntimeError, match=f"unexpected {type(event).__name__}"):
        play(session, event)
    play(session, Recorded())
    with pytest.raises(RuntimeError, match=f"unexpected {type(event).__name__}"):
        play(session, event)


def test_in_a_mode_that_denies_asks_nobody_is_asked() -> None:
    denying = ASKS + "modes: {deployment: {ask: deny}}\n"
    commands = play(machine(denying), Called(call()), Recorded(), Recorded())
    assert decided(commands[0]) == ("deny", "approval_denied", "push")
    assert isinstance(commands[-1], Answer)


def test_queue_mode_never_prompts_the_client() -> None:
    queueing = ASKS + "modes: {deployment: {ask: queue}}\n"
    assert play(machine(queueing), Called(call()), Recorded())[-1].request.terms.prompt is False


CLEARS = """\
version: 1
rules:
  - {id: push, ask: git.push, args: {branch: {regex: "agent/.*"}}, approve: {clears: [untrusted]}}
  - {id: read, allow: git.push, args: {branch: {equals: read}}}
labels: [{tool: git.push, args: {branch: {equals: read}}, adds: [untrusted]}]
"""


def reads(session: SessionMachine, call_id: str) -> None:
    one = ToolCall(call_id, "push", {"branch": "read"}, Front.MCP)
    for event in (Called(one), Recorded(), Acquired("sb"), Returned({}), Recorded()):
        session.receive(call_id, event, 0.0)


def test_an_approval_clears_its_label_once_its_decision_is_on_record() -> None:
    session = machine(CLEARS)
    reads(session, "c0")
    play(session, Called(call()), Recorded(), Approved("appr_1", "lead"))
    assert session.state.labels == {"untrusted"}
    play(session, Recorded())
    assert session.state.labels == frozenset()


def test_an_approval_does_not_clear_what_came_after_it_was_asked_for() -> None:
    session = machine(CLEARS)
    reads(session, "c0")
    play(session, Called(call()), Recorded())
    reads(session, "c9")
    asked, seek = play(session, Approved("appr_1", "lead"), Recorded())
    assert decided(asked)[:2] == ("ask", "approval_pending"), "asked anew, of what the session carries now"
    assert isinstance(seek, SeekApproval)
    assert session.state.labels == {"untrusted"}
    play(session, Approved("appr_2", "lead"), Recorded())
    assert session.state.labels == frozenset()


def test_a_refused_approval_clears_nothing() -> None:
    session = machine(CLEARS)
    reads(session, "c0")
    play(session, Called(call()), Recorded(), Refused("no"), Recorded(), Recorded())
    assert session.state.labels == {"untrusted"}
