"""The session machine, told as scripts: events in, commands out, nothing else happens."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.calls import LOCAL, Answered, Denied, Failed, FailureKind, Front, ServerError, ToolCall
from gateway.core.catalog import ServerListing, build_catalog
from gateway.core.decisions import DecisionCode, Effect
from gateway.core.events import (
    Acquire,
    Acquired,
    Answer,
    Broke,
    Called,
    Event,
    Record,
    Recorded,
    RecordLost,
    Returned,
    Send,
)
from gateway.core.lock import tool_sha256
from gateway.core.policy import compile_policy, load_policy
from gateway.core.policy.in_force import PolicyInForce
from gateway.core.session import SessionMachine
from gateway.core.session_facts import SessionFacts

POLICY = """\
version: 1
rules:
  - id: read
    allow: fs.read
    args: {path: {under: /workspace}}
  - id: no-secrets
    deny: "*"
    args: {"@path": {glob: ["**/.env*"]}}
    why: secret files are never in scope
"""
READ: dict[str, Any] = {
    "name": "read",
    "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
HIDDEN: dict[str, Any] = {"name": "hidden", "inputSchema": {"type": "object"}}


def machine(*, secrets: tuple[str, ...] = (), locked: bool = True) -> SessionMachine:
    definitions = (READ, HIDDEN)
    hashes = {d["name"]: tool_sha256(d) for d in definitions} if locked else {}
    listing = ServerListing("fs", definitions, hashes, kinds={"path": "path"})
    facts = SessionFacts(
        id="s1",
        pack="files",
        principal=LOCAL,
        in_force=PolicyInForce(compile_policy(load_policy(POLICY, "p.yaml"), None)),
        catalog=build_catalog([listing]),
        mode="deployment",
        workspace="/workspace",
        key=b"k" * 32,
        secrets=secrets,
    )
    return SessionMachine(facts)


def call(tool: str = "read", **arguments: Any) -> ToolCall:
    return ToolCall("c1", tool, arguments, Front.MCP)


def play(session: SessionMachine, *events: Event) -> list[Any]:
    """Feed events and return the commands; time stands still."""
    return [session.receive("c1", event, 0.0) for event in events]


def test_an_allowed_call_is_recorded_sent_recorded_and_answered() -> None:
    result: dict[str, Any] = {"content": [{"type": "text", "text": "hi"}], "x": 1}
    commands = play(
        machine(),
        Called(call(path="/workspace/a/../b")),
        Recorded(),
        Acquired("sb1"),
        Returned(result),
        Recorded(),
    )
    decision, acquire, send, outcome, answer = commands
    assert isinstance(decision, Record)
    assert decision.body["event"] == "decision"
    assert acquire == Acquire("fs")
    assert send == Send("fs", "tools/call", {"name": "read", "arguments": {"path": "/workspace/b"}})
    assert isinstance(outcome, Record)
    assert (outcome.body["event"], outcome.body["sandbox"]) == ("outcome", "sb1")
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcome, Answered)
    assert answer.outcome.result == result
    assert answer.outcome.decision.call_id == "c1"


DENIALS: list[tuple[ToolCall, DecisionCode, str | None]] = [
    (call(path="/workspace/../etc/passwd"), DecisionCode.NO_MATCH, None),
    (call(path="/workspace/.env"), DecisionCode.RULE_DENY, "no-secrets"),
    (call(path=["/workspace/a"]), DecisionCode.INVALID_ARGUMENTS, None),
    (call(), DecisionCode.INVALID_ARGUMENTS, None),
    (call(path="/workspace/a", follow=True), DecisionCode.INVALID_ARGUMENTS, None),
    (call(path="/workspace/%2e%2e/x"), DecisionCode.INVALID_ARGUMENTS, None),
    (call("hidden"), DecisionCode.NO_MATCH, None),
    (call("nothing"), DecisionCode.UNKNOWN_TOOL, None),
]


@pytest.mark.parametrize(("denied", "code", "rule"), DENIALS)
def test_a_denied_call_is_recorded_twice_and_never_sent(
    denied: ToolCall, code: DecisionCode, rule: str | None
) -> None:
    commands = play(machine(), Called(denied), Recorded(), Recorded())
    assert [type(command) for command in commands] == [Record, Record, Answer]
    outcome = commands[-1].outcome
    assert isinstance(outcome, Denied)
    assert (outcome.decision.effect, outcome.decision.code, outcome.decision.rule) == (
        Effect.DENY,
        code,
        rule,
    )


def test_a_decision_that_cannot_be_recorded_is_a_denial_and_nothing_is_sent() -> None:
    commands = play(machine(), Called(call(path="/workspace/a")), RecordLost("disk full"))
    assert [type(command) for command in commands] == [Record, Answer]
    assert commands[-1].outcome.decision.code is DecisionCode.AUDIT_UNAVAILABLE


def test_an_outcome_that_cannot_be_recorded_is_not_shown() -> None:
    events = (
        Called(call(path="/workspace/a")),
        Recorded(),
        Acquired("sb"),
        Returned({"content": []}),
        RecordLost("full"),
    )
    outcome = play(machine(), *events)[-1].outcome
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.AUDIT_UNAVAILABLE


@pytest.mark.parametrize("before", [[], [Acquired("sb")]])
def test_a_server_that_breaks_before_or_after_the_send_is_a_failure_with_a_record(
    before: list[Event],
) -> None:
    broke = Broke(FailureKind.CRASHED, "gone", ServerError(-1, "x"))
    commands = play(machine(), Called(call(path="/workspace/a")), Recorded(), *before, broke, Recorded())
    assert commands[-2].body["outcome"]["kind"] == "failed"
    assert commands[-1].outcome == Failed(
        commands[-1].outcome.decision, FailureKind.CRASHED, "gone", broke.error
    )


def test_a_tool_that_changed_since_it_was_served_is_denied_before_and_after_the_server_starts() -> None:
    session = machine()
    play(session, Called(call(path="/workspace/a")), Recorded())
    session.listed("fs", [{**READ, "description": "now with more"}, HIDDEN])
    commands = play(session, Acquired("sb"), Recorded())
    assert commands[-1].outcome.decision.code is DecisionCode.DEFINITION_CHANGED
    commands = play(session, Called(call(path="/workspace/a")), Recorded(), Recorded())
    assert commands[-1].outcome.decision.code is DecisionCode.DEFINITION_CHANGED
    session.listed("fs", [READ, HIDDEN])
    assert play(session, Called(call(path="/workspace/a")), Recorded())[-1] == Acquire("fs")


def test_a_tool_outside_the_lock_is_hidden_and_denied() -> None:
    session = machine(locked=False)
    assert session.tools() == []
    outcome = play(session, Called(call(path="/workspace/a")), Recorded(), Recorded())[-1].outcome
    assert outcome.decision.code is DecisionCode.DEFINITION_CHANGED


def test_tools_shows_only_what_the_policy_could_allow() -> None:
    assert [tool["name"] for tool in machine().tools()] == ["read"]


def test_secrets_are_masked_in_results_and_errors() -> None:
    start: list[Event] = [Called(call(path="/workspace/a")), Recorded(), Acquired("sb")]
    shown = play(
        machine(secrets=("hunter2",)),
        *start,
        Returned({"content": ["a hunter2 b"], "hunter2": 1}),
        Recorded(),
    )
    assert shown[-1].outcome.result == {"content": ["a [secret] b"], "[secret]": 1}
    error = ServerError(-1, "hunter2", {"k": "hunter2"})
    broke = Broke(FailureKind.SERVER_ERROR, "hunter2!", error)
    outcome = play(machine(secrets=("hunter2",)), *start, broke, Recorded())[-1].outcome
    assert "hunter2" not in repr(outcome)


def test_arguments_are_recorded_as_shape_and_digest_unless_asked_for() -> None:
    (record,) = play(machine(), Called(call(path="/workspace/very-private-name")))
    assert "very-private-name" not in str(record.body)


@pytest.mark.parametrize(
    "events",
    [
        [Acquired("sb")],
        [Returned({})],
        [Recorded(), Returned({})],
        [Recorded(), Recorded()],
        [Recorded(), Acquired("sb"), Acquired("sb")],
        [Recorded(), Acquired("sb"), Returned({}), Returned({})],
        [Recorded(), Acquired("sb"), Returned({}), Recorded(), Recorded()],
    ],
)
def test_an_event_out_of_order_is_refused_by_name(events: list[Event]) -> None:
    session = machine()
    play(session, Called(call(path="/workspace/a")))
    with pytest.raises(RuntimeError, match=f"unexpected {type(events[-1]).__name__}"):
        play(session, *events)


def test_one_call_id_names_one_call() -> None:
    session = machine()
    play(session, Called(call(path="/workspace/a")))
    with pytest.raises(RuntimeError, match="in use"):
        play(session, Called(call(path="/workspace/a")))
