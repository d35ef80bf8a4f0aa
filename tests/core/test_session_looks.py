"""A policy that asks about a session's files: they are looked at first, and a doubt is a denial."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.core.catalog import ServerListing, build_catalog
from gateway.core.events import Answer, Approved, Called, Event, Look, Looked, Record, Recorded, SeekApproval
from gateway.core.lock import tool_sha256
from gateway.core.policy.in_force import PolicyInForce
from gateway.core.session import SessionMachine
from gateway.core.session_facts import SessionFacts
from tests.support.policies import with_rules

READ: dict[str, Any] = {
    "name": "read",
    "inputSchema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "paths": {"type": "array"}, "note": {"type": "string"}},
    },
}
UNLINKED: dict[str, Any] = {"under": "/workspace", "symlinks": "deny"}


def machine(*rules: dict[str, Any], **parts: Any) -> SessionMachine:
    kinds: Any = {"path": "path", "paths": "path"}
    listing = ServerListing("fs", (READ,), {"read": tool_sha256(READ)}, kinds=kinds)
    return SessionMachine(
        SessionFacts(
            id="s1",
            pack="fs",
            principal=LOCAL,
            in_force=PolicyInForce(with_rules(*rules, **parts)),
            catalog=build_catalog([listing]),
            mode="deployment",
            workspace="/workspace",
            key=b"k" * 32,
        )
    )


def play(session: SessionMachine, *events: Event) -> list[Any]:
    return [session.receive("c1", event, 0.0) for event in events]


def reads(**arguments: Any) -> Called:
    return Called(ToolCall("c1", "read", arguments, Front.MCP))


def code(record: Any) -> str:
    assert isinstance(record, Record)
    decision: Any = record.body["decision"]
    return decision["code"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"/workspace/a": False}, "rule_allow"), ({"/workspace/a": True}, "no_match"), ({}, "no_match")],
)
def test_a_grant_holds_only_for_a_path_that_was_seen_to_lead_over_no_link(
    found: dict[str, bool], expected: str
) -> None:
    session = machine({"allow": "fs.read", "args": {"path": UNLINKED}})
    look, decision = play(session, reads(path="x/../a"), Looked(found))
    assert look == Look(("/workspace/a",))
    assert code(decision) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"/workspace/a": False}, "rule_allow"), ({"/workspace/a": True}, "rule_deny"), ({}, "rule_deny")],
)
def test_a_deny_holds_unless_the_path_was_seen_to_lead_over_no_link(
    found: dict[str, bool], expected: str
) -> None:
    session = machine({"allow": "*"}, {"deny": "*", "args": {"@path": {"not": {"symlinks": "deny"}}}})
    assert code(play(session, reads(path="/workspace/a"), Looked(found))[-1]) == expected


def test_every_path_of_a_list_is_looked_at_once() -> None:
    session = machine({"allow": "fs.read", "args": {"paths": {"items": {"all": UNLINKED}}}})
    look, decision = play(
        session,
        reads(paths=["a", "/workspace/a", "b"]),
        Looked({"/workspace/a": False, "/workspace/b": True}),
    )
    assert look.paths == ("/workspace/a", "/workspace/b")
    assert code(decision) == "no_match"


@pytest.mark.parametrize(
    "arguments", [{"path": "/etc/passwd"}, {"path": "a\\b"}, {"path": 3}, {"note": "/workspace/a"}, {}]
)
def test_what_is_no_path_of_the_workspace_is_not_looked_at_and_not_trusted(arguments: dict[str, Any]) -> None:
    session = machine({"allow": "fs.read", "args": {"path": {"symlinks": "deny"}}})
    (decision,) = play(session, reads(**arguments))
    assert code(decision) in ("no_match", "invalid_arguments")


def test_what_is_beyond_the_paths_one_call_may_have_looked_at_is_a_doubt() -> None:
    session = machine({"allow": "fs.read", "args": {"paths": {"items": {"all": UNLINKED}}}})
    (look,) = play(session, reads(paths=[f"f{number}" for number in range(200)]))
    assert len(look.paths) == 100
    (decision,) = play(session, Looked(dict.fromkeys(look.paths, False)))
    assert code(decision) == "no_match"


def test_a_policy_that_asks_nothing_of_files_has_nothing_looked_at() -> None:
    plain = machine({"allow": "fs.read", "args": {"path": {"under": "/workspace"}}})
    assert code(play(plain, reads(path="a"))[0]) == "rule_allow"
    elsewhere = machine(
        {"allow": "fs.read"}, {"deny": "git.*", "args": {"path": {"not": {"symlinks": "deny"}}}}
    )
    assert code(play(elsewhere, reads(path="a"))[0]) == "rule_allow"


def test_a_label_about_links_is_added_in_doubt() -> None:
    labels = [{"tool": "fs.read", "args": {"path": {"not": {"symlinks": "deny"}}}, "adds": ["odd"]}]
    for found, expected in (({"/workspace/a": False}, set[str]()), ({}, {"odd"})):
        session = machine({"allow": "fs.read"}, labels=labels)
        play(session, reads(path="a"), Looked(found), Recorded())
        session.state.answered_in_part("c1")
        assert session.state.labels == expected


def test_an_approved_call_is_looked_at_again_before_it_runs() -> None:
    session = machine({"ask": "fs.read", "args": {"path": UNLINKED}})
    asked = play(session, reads(path="a"), Looked({"/workspace/a": False}), Recorded())
    assert isinstance(asked[-1], SeekApproval)
    look, decision = play(session, Approved("appr_1", "lead"), Looked({"/workspace/a": True}))
    assert look == Look(("/workspace/a",))
    assert code(decision) == "no_match"


def test_a_reload_while_files_are_looked_at_does_not_change_who_judges() -> None:
    session = machine({"allow": "fs.read", "args": {"path": UNLINKED}})
    before = session.facts.policy.sha256
    play(session, reads(path="a"))
    session.facts.in_force.swap(with_rules({"deny": "*"}))
    (decision,) = play(session, Looked({"/workspace/a": False}))
    assert code(decision) == "rule_allow"
    assert decision.body["decision"]["policy_sha256"] == before


def test_a_look_that_nobody_asked_for_is_refused() -> None:
    session = machine({"allow": "fs.read"})
    play(session, reads(path="a"))
    with pytest.raises(RuntimeError, match="unexpected Looked"):
        play(session, Looked({}))


def test_a_denied_look_ends_as_any_denial_does() -> None:
    session = machine({"allow": "fs.read", "args": {"path": UNLINKED}})
    answer = play(session, reads(path="a"), Looked({}), Recorded(), Recorded())[-1]
    assert isinstance(answer, Answer)
    assert not isinstance(answer.outcome, Answered)
    assert "wants 'path': symlinks" in answer.outcome.decision.reason
