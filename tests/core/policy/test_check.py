"""Warnings: what is well-formed and still probably wrong."""

from __future__ import annotations

import pytest

from gateway.core.policy import PackFacts, check, load_policy, report
from gateway.errors import Problem

FACTS = PackFacts(
    tools={
        "fs": {
            "read": {"type": "object", "properties": {"path": {"type": "string"}}},
            "write": {"properties": {"path": {}, "content": {}, "options": {"properties": {"mode": {}}}}},
            "ping": {"type": "object", "properties": {}},
            "opaque": {},
        },
        "web": {"fetch": {"properties": {"source_url": {}, "out_file": {}}}},
    },
    kinds={"fs": {"path": "path"}},
)


def warnings_of(rules: str, facts: PackFacts | None = FACTS) -> list[str]:
    policy = load_policy(f"version: 1\nrules:\n{rules}", "p.yaml")
    return [f"{problem.line}:{problem.column} {problem.code}" for problem in check(policy, facts)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("  - {id: a, allow: fs.read, args: {path: {under: /w}}}\n", []),
        ("  - {id: a, allow: fs.reed}\n", ["3:13 unknown_tool"]),
        ("  - {id: a, allow: [fs.read, 'db.*']}\n", ["3:30 unknown_tool"]),
        ("  - {id: a, deny: '*'}\n", []),
        ("  - {id: a, allow: fs.read, args: {pth: {equals: 1}}}\n", ["3:36 unknown_argument"]),
        ("  - {id: a, allow: fs.write, args: {options.mode: {equals: 1}}}\n", []),
        ("  - {id: a, allow: fs.write, args: {options.mood: {equals: 1}}}\n", ["3:37 unknown_argument"]),
        ("  - {id: a, allow: fs.opaque, args: {anything: {equals: 1}}}\n", []),
        ("  - {id: a, allow: fs.read, args: {'@url': {scheme: https}}}\n", ["3:36 unknown_argument"]),
        ("  - {id: a, allow: web.fetch}\n", ["3:5 no_kind", "3:5 no_kind"]),
        (
            "  - {id: a, allow: web.fetch, args: {source_url: {scheme: https}, out_file: {under: /w}}}\n",
            [],
        ),
        ("  - {id: a, allow: fs.ping}\n  - {id: b, deny: fs.*}\n", ["3:5 never_matters"]),
        ("  - {id: a, allow: fs.ping}\n  - {id: b, deny: fs.*, args: {path: {under: /w}}}\n", []),
        ("  - {id: a, deny: fs.read, args: {path: {glob: '*.pem'}}}\n", ["3:35 relative_pattern"]),
        ("  - {id: a, deny: 'resource:note://*'}\n", ["3:13 short_pattern"]),
        ("  - {id: a, deny: ['resource:note://**', 'resource:*', 'prompt:*']}\n", []),
    ],
)
def test_a_policy_is_held_against_its_toolpack(rules: str, expected: list[str]) -> None:
    assert warnings_of(rules) == expected


@pytest.mark.parametrize(
    ("matchers", "warned"),
    [
        ("{min: 3, max: 2}", True),
        ("{min: 2, max: 2}", False),
        ("{type: integer, glob: x}", True),
        ("{type: [integer, string], glob: x}", False),
        ("{min: 1, max_len: 3}", True),
        ("{keys: [a], required_keys: [b]}", True),
        ("{keys: [a, b], required_keys: [b]}", False),
        ("{in: [a, b], regex: c}", True),
        ("{in: [a, c], regex: c}", False),
        ("{equals: 3, in: [4]}", True),
        ("{in: []}", True),
        ("{under: [/w/a, /w/b/c], not_under: [/w/a, /w/b]}", True),
        ("{under: [/w/a, /w/bc], not_under: [/w/a, /w/b]}", False),
        ("{in: [/etc/x], under: /w}", False),
    ],
)
def test_a_rule_that_can_never_hold_is_named(matchers: str, warned: bool) -> None:
    found = warnings_of(f"  - {{id: a, allow: fs.read, args: {{n: {matchers}}}}}\n", None)
    assert found == (["3:36 never_holds"] if warned else [])


@pytest.mark.parametrize(
    ("guards", "warned"),
    [
        ("if_labels: {all: [x], none: [x]}", True),
        ("if_labels: {any: [x, z], none: [x, z]}", True),
        ("if_labels: {any: [x, y], none: [x]}", False),
        ("limit: {calls: 0}", True),
        ("limit: {calls: 1}", False),
    ],
)
def test_a_rule_whose_other_conditions_can_never_hold_is_named(guards: str, warned: bool) -> None:
    labels = "labels: [{tool: '*', adds: [x, y, z]}]\n"
    policy = load_policy(f"version: 1\n{labels}rules:\n  - {{id: a, allow: fs.read, {guards}}}\n", "p.yaml")
    assert [problem.code for problem in check(policy)] == (["never_holds"] if warned else [])


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ("  - {id: a, allow: fs.ping}\n  - {id: b, deny: 'fs.w*'}\n", []),
        ("  - {id: a, allow: fs.read, args: {path: {under: /w}}}\n  - {id: b, allow: 'fs.*'}\n", ["a"]),
        ("  - {id: a, allow: fs.ping, limit: {calls: 1}}\n  - {id: b, allow: fs.ping}\n", ["a"]),
        ("  - {id: a, allow: fs.ping}\n  - {id: b, ask: fs.ping}\n", ["a"]),
        ("  - {id: a, ask: fs.ping}\n  - {id: b, allow: fs.ping}\n", ["b"]),
        ("  - {id: a, deny: fs.ping, hours: 'Mon 01:00-02:00 UTC'}\n  - {id: b, deny: '*'}\n", ["a"]),
        ("  - {id: a, allow: fs.ping}\n  - {id: b, deny: fs.ping, hours: 'Mon 01:00-02:00 UTC'}\n", []),
    ],
)
def test_a_rule_that_another_decides_for_is_named(rules: str, named: list[str]) -> None:
    policy = load_policy(f"version: 1\nrules:\n{rules}", "p.yaml")
    found = [problem for problem in check(policy, FACTS) if problem.code == "never_matters"]
    assert [problem.message.split("'")[1] for problem in found] == named


def test_a_server_without_a_lock_is_told_apart_from_one_that_is_not_there() -> None:
    facts = PackFacts(tools={"fs": {"read": {}}}, kinds={"fs": {}, "new": {}})
    rules = "  - {id: a, allow: [fs.read, fs.nope, new.any, 'n*.any', other.any]}\n"
    assert warnings_of(rules, facts) == [
        "3:30 unknown_tool",
        "3:39 not_locked",
        "3:48 not_locked",
        "3:58 unknown_tool",
    ]


HOSTED = PackFacts(tools={"web": {"get": {"properties": {"url": {}}}}}, kinds={"web": {"url": "url"}})


@pytest.mark.parametrize(
    ("host", "grants", "codes"),
    [
        ("a.example", "{web: {egress: ['a.example:443']}}", []),
        ("b.example", "{web: {egress: ['a.example:443']}}", ["grant_missing", "grant_wider"]),
        ("'*.example.org'", "{web: {egress: ['a.example.org:443']}}", []),
        ("a.example.org", "{web: {egress: ['*.example.org']}}", []),
        ("a.example", "{web: {egress: [a.example, c.test]}}", ["grant_wider"]),
        ("a.example", "{web: {}}", ["grant_missing"]),
        ("a.example", "{}", []),
    ],
)
def test_hosts_of_rules_and_of_grants_are_held_against_each_other(
    host: str, grants: str, codes: list[str]
) -> None:
    rule = f"rules: [{{id: a, allow: web.get, args: {{url: {{host: {host}}}}}}}]"
    policy = load_policy(f"version: 1\n{rule}\ngrants: {grants}\n", "p.yaml")
    found = [problem.code for problem in check(policy, HOSTED)]
    assert [code for code in found if code in ("grant_missing", "grant_wider")] == codes


def test_a_grant_for_a_server_that_no_rule_lets_anybody_use_is_wider_than_the_rules() -> None:
    policy = load_policy("version: 1\nrules: [{id: a, deny: 'web.*'}]\ngrants: {web: {cpu: 1}}\n", "p.yaml")
    assert "grant_wider" in [problem.code for problem in check(policy, HOSTED)]


def test_the_report_has_the_shape_of_the_commands_json() -> None:
    problem = Problem("p.yaml", 3, 5, "code", "message")
    assert report([], [problem]) == {
        "ok": True,
        "errors": [],
        "warnings": [{"file": "p.yaml", "line": 3, "column": 5, "code": "code", "message": "message"}],
    }
    assert report([problem], [])["ok"] is False


def test_an_approval_that_clears_what_nothing_adds_is_named() -> None:
    text = "version: 1\nrules:\n  - {id: a, ask: fs.read, approve: {clears: [untrusted]}}\n"
    [problem] = check(load_policy(text, "p.yaml"))
    assert (problem.code, problem.line) == ("unknown_label", 3)
