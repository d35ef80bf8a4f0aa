"""Labels: what a result does to its session, and rules that ask what the session carries."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.policy.explain import explain
from gateway.core.policy.request import Request
from gateway.core.policy.situation import Situation
from tests.support.policies import KINDS, Life, code_of, compiled, effect_of, with_rules

ALLOW: dict[str, Any] = {"allow": "*"}
FETCH = {"tool": "web.*", "adds": ["untrusted"]}
PEM = {"tool": "fs.read", "args": {"path": {"glob": "**/*.pem"}}, "adds": ["secret"]}


def carrying(*labels: str) -> Situation:
    return Situation(labels=frozenset(labels))


def test_a_result_labels_its_session_from_then_on() -> None:
    life = Life(with_rules(ALLOW, {"deny": "git.push", "if_labels": {"all": ["untrusted"]}}, labels=[FETCH]))
    assert life.call("git.push") == "rule_allow"
    assert life.call("web.get") == "rule_allow"
    assert life.call("git.push") == "label_deny"
    assert life.state.labels == {"untrusted"}


def test_labels_only_grow() -> None:
    life = Life(with_rules(ALLOW, labels=[FETCH, PEM]))
    life.call("web.get")
    life.call("fs.read", {"path": "a.pem"})
    life.call("fs.read", {"path": "a.txt"})
    assert life.state.labels == {"untrusted", "secret"}


@pytest.mark.parametrize(
    ("arguments", "labelled"),
    [
        ({"path": "keys/a.pem"}, True),
        ({"path": "keys/../a.pem"}, True),
        ({"path": "a.txt"}, False),
        ({}, False),
        ({"path": 3}, True),
        ({"path": None}, True),
    ],
)
def test_a_doubt_about_an_argument_adds_the_label(arguments: dict[str, Any], labelled: bool) -> None:
    life = Life(with_rules(ALLOW, labels=[PEM]))
    life.call("fs.read", arguments)
    assert bool(life.state.labels) is labelled


def test_a_denied_call_and_one_that_never_reached_its_server_label_nothing() -> None:
    life = Life(with_rules({"allow": "web.a"}, labels=[FETCH]))
    assert life.call("web.b") == "no_match"
    assert life.call("web.a", result=None) == "rule_allow"
    assert life.state.labels == frozenset()


def test_a_withheld_or_failed_result_labels_all_the_same() -> None:
    life = Life(with_rules(ALLOW, labels=[FETCH], results=[{"tool": "*", "max_bytes": 10}]))
    call_id, decision = life.start("web.get")
    life.end(call_id, decision, "x" * 100)
    assert isinstance(life.shown, str)
    assert life.state.labels == {"untrusted"}


@pytest.mark.parametrize(
    ("asked", "labels", "holds"),
    [
        ({"all": ["a", "b"]}, ["a", "b", "c"], True),
        ({"all": ["a", "b"]}, ["a"], False),
        ({"any": ["a", "b"]}, ["b"], True),
        ({"any": ["a", "b"]}, ["c"], False),
        ({"none": ["a"]}, [], True),
        ({"none": ["a"]}, ["a"], False),
        ({"all": ["a"], "none": ["b"]}, ["a"], True),
        ({"all": ["a"], "none": ["b"]}, ["a", "b"], False),
    ],
)
def test_a_rule_may_ask_for_labels(asked: dict[str, Any], labels: list[str], holds: bool) -> None:
    here = carrying(*labels)
    allowed = with_rules({"allow": "fs.*", "if_labels": asked})
    assert code_of(allowed, "fs.read", situation=here) == ("rule_allow" if holds else "no_match")
    denied = with_rules(ALLOW, {"deny": "fs.*", "if_labels": asked})
    assert code_of(denied, "fs.read", situation=here) == ("label_deny" if holds else "rule_allow")
    asking = with_rules({"ask": "fs.*", "if_labels": asked})
    assert effect_of(asking, "fs.read", situation=here) == ("ask" if holds else "deny")


def test_a_tool_denied_by_labels_alone_is_still_listed() -> None:
    policy = with_rules(ALLOW, {"deny": "git.push", "if_labels": {"all": ["x"]}})
    assert policy.could_allow("git", "push", Life(policy).principal)


def test_explain_shows_labels_what_a_rule_wanted_of_them_and_what_a_result_would_add() -> None:
    policy = with_rules({"allow": "web.*", "if_labels": {"none": ["secret"]}}, labels=[FETCH])
    shown = explain(policy, Request("web", "get", {}, KINDS, situation=carrying("secret")))
    wire: Any = shown.wire()
    assert wire["labels"] == ["secret"]
    assert shown.adds == ("untrusted",)
    failed = wire["near_misses"][0]["failed"]
    assert (failed["argument"], failed["matcher"], failed["actual"]) == ("@session", "if_labels", ["secret"])
    assert "labels" in shown.decision.reason


def test_a_case_may_stand_in_a_session_with_labels_and_a_prompt() -> None:
    policy = compiled(
        "version: 1\n"
        "rules:\n"
        "  - {id: a, allow: fs.x, args: {to: {from: [prompt]}}}\n"
        "  - {id: d, deny: fs.x, if_labels: {any: [bad]}}\n"
        "tests:\n"
        "  - {call: fs.x, args: {to: ann}, prompt: Write to ann., expect: allow}\n"
        "  - {call: fs.x, args: {to: bob}, prompt: Write to ann., expect: deny, code: no_match}\n"
        "  - {call: fs.x, args: {to: ann}, prompt: Write to ann., labels: [bad], expect: deny, rule: d}\n"
    )
    assert [result.passed for result in policy.run_tests()] == [True] * 3
