"""`diff`: recorded calls judged under two policies, and what two files say differently."""

from __future__ import annotations

from typing import Any

from gateway.core.calls import Answered, Front, ToolCall
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonObject
from gateway.core.policy import PackFacts, compile_policy, load_policy
from gateway.core.policy.diff import CallDiff, diff_calls, diff_files
from gateway.core.policy.recorded import Recording, read_recording
from gateway.core.records import CallIds, ToolIds, decision_record, outcome_record

KEY = bytes(32)
OLD = """\
version: 1
rules:
  - {id: read, allow: fs.read}
  - {id: push, ask: git.push}
  - {id: never, deny: fs.rm}
"""


def decision(effect: Effect, call_id: str, code: DecisionCode = DecisionCode.RULE_ALLOW) -> Decision:
    return Decision(effect, code, "because", call_id=call_id)


def written(
    call_id: str,
    tool: str,
    arguments: JsonObject,
    *,
    effect: Effect = Effect.ALLOW,
    code: DecisionCode = DecisionCode.RULE_ALLOW,
    front: Front = Front.MCP,
    plain: bool = True,
    session: str = "s",
) -> JsonObject:
    server, _, name = tool.partition(".")
    return decision_record(
        call=ToolCall(call_id, name, arguments, front),
        decision=decision(effect, call_id, code),
        ids=CallIds(session, None, None, "alice", "pack"),
        tool=ToolIds(server or None, name, None, None),
        arguments=arguments,
        plain=arguments if plain else None,
        key=KEY,
    )


def changes(new: str, *records: JsonObject, old: str = OLD) -> CallDiff:
    before, after = (compile_policy(load_policy(text, "p.yaml")) for text in (old, new))
    return diff_calls(before, after, read_recording(records), PackFacts())


def test_calls_whose_effect_changes_are_grouped_by_the_rule_that_changes_it() -> None:
    new = OLD.replace("allow: fs.read", "allow: fs.read, args: {path: {under: /workspace}}").replace(
        "ask:", "deny:"
    )
    found = changes(
        new,
        written("c1", "fs.read", {"path": "/etc/passwd"}),
        written("c2", "fs.read", {"path": "/workspace/a"}),
        written("c3", "git.push", {}),
        written("c4", "fs.read", {"path": "/etc/shadow"}),
    )
    assert found.wire() == {
        "judged": 4,
        "changed": [
            {"call_id": "c1", "tool": "fs.read", "before": "allow", "after": "deny"},
            {"call_id": "c3", "tool": "git.push", "before": "ask", "after": "deny"},
            {"call_id": "c4", "tool": "fs.read", "before": "allow", "after": "deny"},
        ],
        "by_rule": {"read": ["c1", "c4"], "push": ["c3"]},
    }
    assert found.lines()[:3][0] == "3 of 4 recorded calls change"


def test_the_same_policy_changes_nothing() -> None:
    assert changes(OLD, written("c1", "fs.rm", {})).wire() == {"judged": 1, "changed": [], "by_rule": {}}


def test_each_call_is_judged_in_the_mode_it_was_recorded_in() -> None:
    records = [written("c1", "git.push", {}), written("c2", "git.push", {}, front=Front.ENV)]
    found = changes(OLD.replace("ask: git.push", "allow: git.push"), *records)
    assert [change.before.effect.value for change in found.changed] == ["ask", "deny"]


def test_a_call_that_was_asked_for_and_approved_is_one_call_that_ran() -> None:
    asked = written("c1", "git.push", {}, effect=Effect.ASK, code=DecisionCode.APPROVAL_PENDING)
    (call,) = read_recording([asked, written("c1", "git.push", {}, code=DecisionCode.APPROVED)]).calls
    assert (call.name, call.ran, call.principal.user) == ("git.push", True, "alice")


def test_a_call_without_argument_values_is_counted_and_left_out() -> None:
    recording = read_recording([written("c1", "fs.read", {"path": "x"}, plain=False)])
    assert recording == Recording((), 1)


def test_refusals_that_are_no_policys_and_outcomes_are_left_out() -> None:
    call = ToolCall("c2", "read", {}, Front.MCP)
    outcome = outcome_record(
        call=call,
        outcome=Answered(decision(Effect.ALLOW, "c2"), {}),
        ids=CallIds("s", None, None, "alice", "pack"),
        tool=ToolIds("fs", "read", None, None),
        ms=1.0,
        key=KEY,
    )
    unknown = written("c1", "fs.x", {}, effect=Effect.DENY, code=DecisionCode.UNKNOWN_TOOL)
    assert read_recording([unknown, outcome]) == Recording(())


def parts(old: str, new: str) -> Any:
    return diff_files(load_policy(old, "old.yaml"), load_policy(new, "new.yaml")).wire()["parts"]


def test_without_calls_the_structured_parts_are_compared_and_order_does_not_count() -> None:
    reordered = "version: 1\nrules:\n" + "".join(f"{line}\n" for line in reversed(OLD.splitlines()[2:]))
    assert parts(OLD, reordered) == []
    new = OLD.replace("deny: fs.rm", "deny: [fs.rm, fs.mv]").replace("  - {id: push, ask: git.push}\n", "")
    assert parts(OLD, f"{new}defaults: {{max_depth: 8}}\n") == [
        {"part": "rules.push", "before": {"ask": ["git.push"]}, "after": None},
        {"part": "rules.never.deny", "before": ["fs.rm"], "after": ["fs.rm", "fs.mv"]},
        {"part": "defaults", "before": None, "after": {"max_depth": 8}},
    ]


def test_variables_are_compared_where_they_are_used() -> None:
    text = (
        "version: 1\nvars: {root: /a}\nrules: [{id: r, allow: fs.read, args: {path: {under: '${root}'}}}]\n"
    )
    (change,) = parts(text, text.replace("/a", "/b"))
    assert change == {"part": "rules.r.args.path.under", "before": ["/a"], "after": ["/b"]}
