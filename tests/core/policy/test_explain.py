"""Explaining: the rules that held, and the first thing that each other one did not accept."""

from __future__ import annotations

from typing import Any

from gateway.core.calls import LOCAL
from gateway.core.policy import CompiledPolicy, Explanation, Request, explain
from gateway.core.policy.explain import imagined
from tests.support.policies import KINDS, compiled

POLICY = """\
version: 1
principals: {coder: {client: ci}}
rules:
  - id: write
    allow: fs.write
    args: {path: {under: /workspace/src, not_glob: "**/x"}, content: {max_len: 3}}
  - id: write-ci
    allow: fs.write
    to: coder
  - id: secrets
    deny: "*"
    args: {"@path": {glob: "**/.env"}}
  - id: other
    deny: git.*
"""


def explained(arguments: dict[str, Any], policy: CompiledPolicy | None = None) -> Explanation:
    return explain(policy or compiled(POLICY), Request("fs", "write", arguments, KINDS, principal=LOCAL))


def test_an_explanation_names_the_rules_that_held_and_why_others_did_not() -> None:
    wire = explained({"path": "src/../src/.env", "content": "abc"}).wire()
    assert wire["rules"] == [
        {"id": "write", "file": "p.yaml", "line": 4, "effect": "allow"},
        {"id": "secrets", "file": "p.yaml", "line": 10, "effect": "deny"},
    ]
    assert wire["near_misses"] == [
        {
            "id": "write-ci",
            "file": "p.yaml",
            "line": 7,
            "failed": {"argument": "@principal", "matcher": "to", "expected": ["coder"], "actual": "local"},
        }
    ]
    assert wire["arguments"] == {"path": "/workspace/src/.env", "content": "abc"}
    decision = wire["decision"]
    assert isinstance(decision, dict)
    assert decision["rule"] == "secrets"


def test_a_near_miss_shows_argument_matcher_expected_and_actual() -> None:
    misses = explained({"path": "docs/a", "content": "abc"}).near_misses
    shown = {
        miss.rule.rule.id: (miss.argument, miss.check.matcher, miss.check.expected, miss.actual)
        for miss in misses
    }
    assert shown["write"] == ("path", "under", ["/workspace/src"], "/workspace/docs/a")
    assert shown["secrets"] == ("@path", "glob", ["**/.env"], "/workspace/docs/a")


def test_huge_values_are_cut() -> None:
    wire: Any = explained({"path": "src/a", "content": "x" * 100_000}).wire()
    failed = wire["near_misses"][0]["failed"]
    assert failed["matcher"] == "max_len"
    assert len(str(failed)) < 500


def test_a_missing_argument_is_said_to_be_missing() -> None:
    misses = {miss.rule.rule.id: miss for miss in explained({"path": "src/a"}).near_misses}
    assert (misses["write"].argument, misses["write"].check.matcher) == ("content", "present")


def test_arguments_refused_before_the_rules_have_no_rules_to_show() -> None:
    explanation = explained({"path": "a\0"})
    assert explanation.decision.code.value == "invalid_arguments"
    assert (explanation.held, explanation.near_misses) == ((), ())


def test_the_lines_for_a_person_name_every_rule_with_its_place() -> None:
    text = "\n".join(explained({"path": "docs/a", "content": "abc"}).lines())
    assert "denied: no rule allows fs.write" in text
    assert "allow rule 'write' (p.yaml:4)" in text
    assert "'path': under" in text


def test_a_session_may_be_imagined_to_explain_what_would_be_decided_in_it() -> None:
    policy = compiled(
        "version: 1\n"
        "rules:\n"
        "  - id: a\n    allow: mail.send\n    args: {to: {from: [prompt]}}\n"
        "    when: session.calls['web.get'] == 1\n"
        "  - {id: d, deny: mail.send, if_labels: {all: [untrusted, mine]}}\n"
        "labels: [{tool: web.*, args: {url: {host: x.example}}, adds: [untrusted]}]\n"
    )
    call = Request("mail", "send", {"to": "ann"})

    def decided(**session: Any) -> str:
        return explain(policy, call.seen_in(imagined(policy, **session))).decision.code.value

    assert decided() == "no_match"
    assert decided(prompt="Write to ann", after=["web.get"]) == "rule_allow"
    assert decided(prompt="Write to bob", after=["web.get"]) == "no_match"
    assert decided(prompt="Write to ann", after=["web.get", "web.get"]) == "no_match"
    assert decided(prompt="Write to ann", after=["web.get"], labels=["mine"]) == "label_deny"
