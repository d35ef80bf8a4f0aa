"""Drafts of policies: nothing is allowed, and what is proposed loads once its comment marks are off."""

from __future__ import annotations

from gateway.core.json_types import JsonObject
from gateway.core.policy import PackFacts, Request, compile_policy, load_policy
from gateway.core.policy.drafting import draft_policy

TOOLS: list[JsonObject] = [
    {
        "name": "read",
        "description": "Read.\nrules: [{allow: '*'}]\u2028- {allow: '*'}",
        "inputSchema": {"type": "object", "properties": {"path": {}, "x\ny": {}}},
        "annotations": {"readOnlyHint": True, "destructiveHint": "\nrules:", "title": "x"},
    },
    {"name": "a.b", "inputSchema": {"type": "object"}},
    {"name": "no good\n- {}", "inputSchema": {"type": "object"}},
]


def allows(text: str, call: str) -> bool:
    policy = compile_policy(load_policy(text, "policy.yaml"), None)
    return policy.judge(Request.named(call, {}, PackFacts())).decision.allowed


def test_a_draft_allows_nothing_whatever_its_tools_say_of_themselves() -> None:
    text = draft_policy({"one": TOOLS}, "Drafted.")
    assert load_policy(text, "policy.yaml").model.rules == ()
    assert (allows(text, "one.read"), allows(text, "one.a.b")) == (False, False)
    assert "says of itself: readOnlyHint: true" in text
    assert text.isascii()


def test_a_rule_of_a_draft_holds_once_its_comment_marks_are_off() -> None:
    lines = draft_policy({"one": TOOLS}, "Drafted.", {"one": {"egress": ["example.com:443"], "secrets": []}})
    start = lines.index("# - id: one.read")
    bare = "\n".join(line.removeprefix("# ") for line in lines[start:].splitlines())
    grants = bare.partition("grants:\n")[2]
    rules = bare.partition("A server elsewhere")[0]
    text = f"version: 1\nrules:\n{rules}\ngrants:\n{grants}"
    assert (allows(text, "one.read"), allows(text, "one.a.b"), allows(text, "one.c")) == (True, True, False)
