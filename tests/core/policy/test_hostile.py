"""Hostile arguments: the judge answers every one, soon, and never raises."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decisions import DecisionCode, Effect
from gateway.core.policy import CompiledPolicy, Request
from gateway.core.policy.provenance import MAX_TEXT
from tests.support.policies import KINDS, Life, compiled, judged, with_rules

POLICY = """
version: 1
rules:
  - id: everything
    allow: "*"
  - id: paths
    deny: "*"
    args:
      "@path": {glob: ["**/.env*", "**/a*b*c/**/d?e/**", "/workspace/**/x/**/y/**/z"], not_under: /nowhere}
  - id: texts
    deny: "*"
    args: {content: {regex: '(?s).*(secret|password|token)=[a-z0-9]{20,40}.*', glob: "**/*a*b*c*/**"}}
  - id: lists
    deny: "*"
    args: {rows: {items: {any: {regex: "[0-9]+", min: 3}, none: {equals: {a: [1, 2, 3]}}}}}
  - id: urls
    deny: "*"
    args: {"@url": {host: ["*.evil.example", "evil.example"], glob: "**/*a*b/**"}}
  - id: meanings
    deny: "*"
    args:
      content: {not: {no_secrets: true}, sql: read_only, argv: {prefix: [git], deny_flags: [--force, -f]}}
  - id: origins
    deny: "*"
    args: {content: {not: {from: [prompt, policy, "tool:fs.*"]}}, rows: {type: "null"}}
  - id: words
    deny: "*"
    when: "args.rows.all(x, args.rows.exists(y, x == y)) && args.content.matches('(a|b)*c')"
vars: {known: [a, b, /]}
labels: [{tool: "*", args: {content: {sql: read_only}}, adds: [x]}]
"""


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = wrap(value)
    return value


def in_a_list(value: Any) -> Any:
    return [value]


def in_an_object(value: Any) -> Any:
    return {"target": value}


def hostile() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "1 MB of text", {"content": "a" * 999_000}
    yield "1 MB of slashes", {"content": "/" * 999_000}
    yield "8 KB that almost match a glob", {"content": "ab" * 4_000}
    yield "a long path", {"path": "/a" * 2_047}
    yield "a long path of stars' bait", {"path": "/" + "ab" * 2_000}
    yield "a path of dots", {"path": "../" * 1_300}
    yield "a path of compatibility characters", {"path": "ﷺ" * 4_000}
    yield "too long a path", {"path": "a" * 900_000}
    yield "1,000 paths", {"paths": ["/a" * 32] * 1_000}
    yield "1,000 long paths", {"paths": ["/a" * 400] * 1_000}
    yield "10,000 paths", {"paths": ["/workspace/a"] * 10_000}
    yield "a list of 10,000 numbers as text", {"rows": [str(n) for n in range(10_000)]}
    yield "a list of 300,000", {"rows": [0] * 300_000}
    yield "a wide tree", {"rows": [[[0] * 100] * 100] * 100}
    yield "an object of 300,000 keys", {"rows": dict.fromkeys(map(str, range(300_000)), 0)}
    yield "lists 10,000 deep", {"rows": nested(10_000, in_a_list)}
    yield "objects 10,000 deep", {"options": nested(10_000, in_an_object)}
    yield "an integer of 100,000 digits", {"n": 1 << 332_000, "rows": [1 << 300_000]}
    yield "a long URL", {"url": "https://" + "a." * 4_000 + "example/"}
    yield "a long host outside ASCII", {"host": "ü." * 500}
    yield "a huge host outside ASCII", {"url": "https://" + "ü" * 7_000 + "/"}
    yield "100 URLs of look-alikes", {"url": ["https://" + "ü." * 60 + "example/"] * 100}
    yield "half a surrogate pair", {"path": "\ud800", "content": "\udfff"}
    yield "a number that is none", {"rows": [float("nan"), float("inf")]}


@pytest.mark.parametrize("arguments", [pytest.param(value, id=name) for name, value in hostile()])
def test_a_hostile_call_is_answered_soon(arguments: dict[str, Any]) -> None:
    policy = compiled(POLICY)
    judged(policy, "fs.read", {"path": "a"})  # binds the rules, once per tool
    start = time.process_time()
    decision = judged(policy, "fs.read", arguments).decision
    spent = time.process_time() - start
    assert decision.effect in (Effect.ALLOW, Effect.DENY)
    assert decision.code is not DecisionCode.POLICY_ERROR
    # The aim is 50 ms on a quiet machine; a machine that runs tests is not quiet.
    assert spent < 0.5


SEEN = {"from": ["prompt", "policy", "tool:fs.*"]}


@pytest.mark.parametrize("item", ["/a" * 32, "/workspace/a", "a" * 8_000, "z", "a" * 15 + "b" + "a" * 15])
@pytest.mark.parametrize("count", [64, 1_000, 10_000])
@pytest.mark.parametrize("matchers", [SEEN, {"items": {"all": SEEN}}, {"items": {"any": SEEN}}])
def test_values_are_looked_for_in_a_long_past_soon(matchers: dict[str, Any], count: int, item: str) -> None:
    policy = with_rules(
        {"allow": "fs.*"},
        {"allow": "mail.*", "args": {"to": matchers}},
        {"deny": "mail.*", "args": {"to": {"not": matchers}}},
        vars={"known": ["a", "b", "/"]},
    )
    life = Life(policy, prompt="a" * MAX_TEXT)
    for result in ("/a" * (MAX_TEXT // 2), "a" * MAX_TEXT, "/workspace/aa " * (MAX_TEXT // 14)):
        life.call("fs.read", result=result)
    life.call("mail.send", {"to": []})  # binds the rules
    start = time.process_time()
    life.call("mail.send", {"to": [item] * min(count, 1_000_000 // len(item))})
    # Some 20 ms of searching at the worst, and what walking the list takes: 50 ms on a quiet machine.
    assert time.process_time() - start < 0.2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*KINDS, "options", "content", "rows", "n"]), JSON, max_size=5))
def test_no_json_makes_the_judge_fail(arguments: dict[str, Any]) -> None:
    assert judged(compiled(POLICY), "fs.read", arguments).decision.code is not DecisionCode.POLICY_ERROR


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"kinds": {"path": "no-such-kind"}}, id="an unknown kind"),
        pytest.param({"arguments": []}, id="arguments that are no object"),
        pytest.param({"arguments": {"path": object()}, "kinds": None}, id="no kinds"),
        pytest.param({"mode": "lunch"}, id="an unknown mode"),
    ],
)
def test_a_fault_of_the_program_is_a_denial(wrong: dict[str, Any]) -> None:
    policy = with_rules({"allow": "*"}, {"deny": "*", "args": {"path": {"under": "/etc"}}})
    usual: dict[str, Any] = {"server": "fs", "tool": "read", "arguments": {}, "kinds": KINDS}
    decision = policy.judge(Request(**{**usual, **wrong})).decision
    assert (decision.effect, decision.code) == (Effect.DENY, DecisionCode.POLICY_ERROR)
    assert decision.policy_sha256 == policy.sha256


def test_tools_without_end_do_not_fill_the_memory() -> None:
    policy: CompiledPolicy = with_rules({"allow": "fs.t*"})
    for number in range(5_000):
        assert judged(policy, f"fs.t{number}").decision.allowed
    assert judged(policy, "fs.t1").decision.allowed
