"""`when`: CEL for what matchers cannot say. Only true holds; doubts count against the call."""

from __future__ import annotations

import builtins
import time
from typing import Any

import pytest

from gateway.core.calls import Principal, Role
from gateway.core.policy.explain import explain
from gateway.core.policy.request import Request
from gateway.core.policy.situation import Situation
from gateway.errors import ConfigError
from tests.support.policies import Life, code_of, compiled, with_rules

ANN = Principal("ann", client="ci", groups=frozenset({"leads"}), roles=frozenset({Role.AGENT}))
HERE = Situation(labels=frozenset({"untrusted"}), now=1_783_339_200.0, steps=3, denials=1, calls={"fs.a": 2})


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("true", True),
        ("false", False),
        ("args.path == '/workspace/a'", True),
        ("args.n > 2 && args.n < 4", True),
        ("size(args.path) > 100", False),
        ("tool == 'read' && server == 'fs'", True),
        ("principal.name == 'ann' && principal.client == 'ci'", True),
        ("'leads' in principal.groups && 'agent' in principal.roles", True),
        ("session.calls['fs.a'] == 2 && session.calls['fs.never'] == 0", True),
        ("session.denials == 1 && session.steps == 3", True),
        ("'untrusted' in session.labels", True),
        ("mode == 'deployment'", True),
        ("now.getFullYear() == 2026", True),
        ("args.items.all(x, x > 0)", True),
        ("args.path", None),
        ("args.nope == 1", None),
        ("args.n / 0 == 1", None),
        ("args.path > 3", None),
        ("args.path.matches('(')", None),
        ("args.items.all(x, args.items.all(y, args.items.exists(z, z == x + y)))", False),
    ],
)
def test_an_expression_holds_fails_or_is_a_doubt(expression: str, holds: bool | None) -> None:
    arguments = {"path": "a", "n": 3, "items": [1, 2]}
    asked: dict[str, Any] = {"principal": ANN, "situation": HERE}
    allowed = with_rules({"allow": "fs.*", "when": expression})
    assert code_of(allowed, "fs.read", arguments, **asked) == ("rule_allow" if holds else "no_match")
    denied = with_rules({"allow": "*"}, {"deny": "fs.*", "when": expression})
    assert code_of(denied, "fs.read", arguments, **asked) == ("rule_allow" if holds is False else "rule_deny")


def test_a_commit_needs_a_write_before_it() -> None:
    life = Life(with_rules({"allow": "fs.*"}, {"allow": "git.*", "when": "session.calls['fs.write'] > 0"}))
    assert life.call("git.commit") == "no_match"
    assert life.call("fs.read") == "rule_allow"
    assert life.call("git.commit") == "no_match"
    assert life.call("fs.write") == "rule_allow"
    assert life.call("git.commit") == "rule_allow"


@pytest.mark.parametrize("expression", ["args.", "nothing == 1", "1 + 1", "'a'", "size(args"])
def test_an_expression_that_can_be_no_condition_is_refused_at_its_place(expression: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(f'version: 1\nrules:\n  - id: a\n    allow: fs.x\n    when: "{expression}"\n')
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (5, 5)


def test_without_the_library_a_policy_with_when_is_refused_and_told_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cel_expr_python"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'sandgate\[cel\]'"):
        with_rules({"allow": "*", "when": "true"})
    assert code_of(with_rules({"allow": "*"}), "fs.read") == "rule_allow"


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 2**70},
        {"text": "\ud800"},
        {"text": "x" * 900_000, "items": list(range(5_000))},
        {"items": [[[0] * 20] * 20] * 20},
        {"text": "ab" * 16_000, "items": [0] * 9_000},
    ],
)
def test_what_is_too_large_or_odd_for_an_expression_is_a_doubt_at_once(arguments: dict[str, Any]) -> None:
    looping = "args.items.all(x, args.items.all(y, !args.text.matches('(a|b)*c'))) || size(args) > 99"
    policy = with_rules({"allow": "*"}, {"deny": "fs.*", "when": looping})
    code_of(policy, "fs.read", {"items": [], "text": ""})
    start = time.process_time()
    assert code_of(policy, "fs.read", arguments) == "rule_deny"
    assert time.process_time() - start < 0.5


def test_explain_shows_the_expression_that_was_not_true() -> None:
    policy = with_rules({"allow": "fs.*", "when": "args.n == 1"})
    shown = explain(policy, Request("fs", "read", {"n": 2}))
    failed: Any = shown.wire()["near_misses"]
    assert failed[0]["failed"] == {
        "argument": "@session",
        "matcher": "when",
        "expected": "args.n == 1",
        "actual": "it is not true",
    }
    assert "args.n == 1" in shown.decision.reason
