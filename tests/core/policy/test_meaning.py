"""The sentences of the policy's meaning, one by one, each way."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.calls import Principal
from gateway.core.decisions import DecisionCode, Effect
from gateway.core.policy import DENY_ALL, Request
from tests.support.policies import code_of, compiled, effect_of, judged, with_rules

ALLOW_ALL: dict[str, Any] = {"allow": "*"}


# --- deny before ask before allow, order never matters, nothing matches: denied


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_the_strictest_rule_that_holds_decides_in_any_order(order: tuple[int, ...]) -> None:
    rules = [{"deny": "fs.rm"}, {"ask": ["fs.rm", "fs.mv"]}, {"allow": "fs.*"}]
    policy = with_rules(*(rules[index] for index in order))
    assert effect_of(policy, "fs.rm") == "deny"
    assert effect_of(policy, "fs.mv") == "ask"
    assert effect_of(policy, "fs.ls") == "allow"


def test_where_no_rule_holds_the_call_is_denied() -> None:
    policy = with_rules({"allow": "fs.read"})
    decision = judged(policy, "fs.write").decision
    assert (decision.effect, decision.code) == (Effect.DENY, DecisionCode.NO_MATCH)
    assert decision.rule is None
    assert "fs.write" in decision.reason


def test_without_a_policy_every_call_is_denied_and_told_why() -> None:
    decision = DENY_ALL.judge(Request("fs", "read", {})).decision
    assert decision.code is DecisionCode.NO_MATCH
    assert decision.policy is None
    assert "no policy was given" in decision.reason


def test_a_decision_names_rule_file_line_and_digest() -> None:
    policy = compiled("version: 1\nrules:\n  - id: read\n    allow: fs.read\n    why: reading is fine\n")
    decision = judged(policy, "fs.read").decision
    assert (decision.rule, decision.policy, decision.line) == ("read", "p.yaml", 3)
    assert decision.policy_sha256 == policy.sha256
    assert decision.reason == "reading is fine"


@pytest.mark.parametrize(
    ("pattern", "call", "expected"),
    [
        ("*", "fs.read", "allow"),
        ("fs.*", "fs.read", "allow"),
        ("fs.*", "fsx.read", "deny"),
        ("*.read", "git.read", "allow"),
        ("fs.read_*", "fs.read_file", "allow"),
        ("fs.read", "fs.read_file", "deny"),
        ("fs.read", "fs.READ", "deny"),
        (["fs.a", "fs.b"], "fs.b", "allow"),
    ],
)
def test_tool_patterns_are_globs_on_server_and_tool(pattern: Any, call: str, expected: str) -> None:
    assert effect_of(with_rules({"allow": pattern}), call) == expected


# --- missing, mistyped, unreachable, null


@pytest.mark.parametrize("effect", ["allow", "ask"])
@pytest.mark.parametrize(
    "arguments", [{}, {"path": 3}, {"path": None}, {"path": ["/workspace/a"]}, {"path": {}}]
)
def test_a_missing_or_mistyped_argument_grants_nothing(effect: str, arguments: dict[str, Any]) -> None:
    policy = with_rules({effect: "fs.*", "args": {"path": {"under": "/workspace"}}})
    assert code_of(policy, "fs.read", arguments) == "no_match"


@pytest.mark.parametrize("value", [3, None, ["/etc/a"], {}, True])
def test_an_argument_that_is_there_and_cannot_be_judged_makes_a_deny_hold(value: Any) -> None:
    policy = with_rules(ALLOW_ALL, {"deny": "*", "args": {"path": {"under": "/etc"}}})
    decision = judged(policy, "fs.read", {"path": value}).decision
    assert decision.code is DecisionCode.RULE_DENY
    assert "cannot be judged" in decision.reason


def test_a_missing_argument_does_not_make_a_deny_hold() -> None:
    policy = with_rules(ALLOW_ALL, {"deny": "*", "args": {"path": {"under": "/etc"}}})
    assert effect_of(policy, "fs.read", {}) == "allow"


def test_in_a_deny_a_clear_mismatch_outweighs_a_doubt_about_another_argument() -> None:
    policy = with_rules(ALLOW_ALL, {"deny": "*", "args": {"a": {"glob": "x*"}, "b": {"equals": 1}}})
    assert effect_of(policy, "fs.read", {"a": 3, "b": 2}) == "allow"
    assert effect_of(policy, "fs.read", {"a": 3, "b": 1}) == "deny"


def test_a_negation_of_what_cannot_be_judged_still_counts_against_the_call() -> None:
    args = {"a": {"not": {"glob": "x*"}}}
    assert effect_of(with_rules({"allow": "*", "args": args}), "fs.read", {"a": 3}) == "deny"
    assert effect_of(with_rules(ALLOW_ALL, {"deny": "*", "args": args}), "fs.read", {"a": 3}) == "deny"
    assert effect_of(with_rules(ALLOW_ALL, {"deny": "*", "args": args}), "fs.read", {"a": "xa"}) == "allow"


def test_all_arguments_of_a_rule_have_to_hold() -> None:
    policy = with_rules({"allow": "*", "args": {"a": {"equals": 1}, "b": {"equals": 2}}})
    assert effect_of(policy, "fs.read", {"a": 1, "b": 2}) == "allow"
    assert effect_of(policy, "fs.read", {"a": 1, "b": 3}) == "deny"
    assert effect_of(policy, "fs.read", {"a": 1}) == "deny"


# --- nested arguments and absence


def test_a_dotted_path_names_a_nested_argument() -> None:
    policy = with_rules({"allow": "*", "args": {"options.mode": {"in": ["fast"]}}})
    assert effect_of(policy, "fs.read", {"options": {"mode": "fast"}}) == "allow"
    assert effect_of(policy, "fs.read", {"options": {"mode": "slow"}}) == "deny"
    assert effect_of(policy, "fs.read", {"options": {}}) == "deny"
    assert effect_of(policy, "fs.read", {"options.mode": "fast"}) == "deny"


@pytest.mark.parametrize("options", ["fast", 3, None, ["mode"]])
def test_a_non_object_on_a_dotted_path_cannot_be_judged(options: Any) -> None:
    args = {"options.mode": {"equals": "fast"}}
    call = {"options": options}
    assert effect_of(with_rules({"allow": "*", "args": args}), "fs.read", call) == "deny"
    assert code_of(with_rules(ALLOW_ALL, {"deny": "*", "args": args}), "fs.read", call) == "rule_deny"


def test_absent_says_that_an_argument_must_not_be_there() -> None:
    policy = with_rules({"allow": "*", "args": {"force": {"absent": True}}})
    assert effect_of(policy, "git.push", {}) == "allow"
    assert effect_of(policy, "git.push", {"force": None}) == "deny"
    assert effect_of(policy, "git.push", {"force": False}) == "deny"
    required = with_rules(ALLOW_ALL, {"deny": "*", "args": {"reason": {"absent": True}}})
    assert effect_of(required, "git.push", {}) == "deny"
    assert effect_of(required, "git.push", {"reason": "x"}) == "allow"


def test_absence_behind_something_that_is_no_object_cannot_be_judged() -> None:
    args = {"options.force": {"absent": True}}
    assert effect_of(with_rules({"allow": "*", "args": args}), "git.push", {"options": 3}) == "deny"
    assert (
        code_of(with_rules(ALLOW_ALL, {"deny": "*", "args": args}), "git.push", {"options": 3}) == "rule_deny"
    )


def test_absent_false_says_that_an_argument_must_be_there() -> None:
    policy = with_rules({"allow": "*", "args": {"reason": {"absent": False}}})
    assert effect_of(policy, "git.push", {"reason": None}) == "allow"
    assert effect_of(policy, "git.push", {}) == "deny"


# --- kinds


def test_a_kind_names_every_argument_of_it_wherever_it_stands() -> None:
    policy = with_rules(ALLOW_ALL, {"deny": "*", "args": {"@path": {"glob": "**/.env*"}}})
    for arguments in (
        {"path": ".env"},
        {"paths": ["a", "x/.env.local"]},
        {"options": {"target": "/srv/.env"}},
        {"path": "a", "paths": ["b"], "options": {"target": "a/../.env"}},
    ):
        assert code_of(policy, "fs.read", arguments) == "rule_deny", arguments
    assert effect_of(policy, "fs.read", {"path": "a", "paths": ["b"], "content": ".env"}) == "allow"


def test_in_a_grant_every_value_of_a_kind_counts_and_there_is_one() -> None:
    policy = with_rules({"allow": "*", "args": {"@path": {"under": "/workspace"}}})
    assert effect_of(policy, "fs.read", {"path": "a", "paths": ["b", "c"]}) == "allow"
    assert effect_of(policy, "fs.read", {"path": "a", "paths": ["b", "/etc/passwd"]}) == "deny"
    assert effect_of(policy, "fs.read", {"path": "/etc/passwd", "paths": ["b"]}) == "deny"
    assert effect_of(policy, "fs.read", {"content": "x"}) == "deny"
    assert effect_of(policy, "fs.read", {"paths": []}) == "deny"


@pytest.mark.parametrize("value", [3, None, [["/workspace/.env"]], [3], {}])
def test_a_value_of_a_kind_that_is_no_text_makes_a_deny_hold(value: Any) -> None:
    policy = with_rules(ALLOW_ALL, {"deny": "*", "args": {"@path": {"glob": "**/.env"}}})
    assert code_of(policy, "fs.read", {"path": value}) == "rule_deny"


def test_a_list_where_a_path_is_judged_needs_items() -> None:
    plain = with_rules({"allow": "*", "args": {"paths": {"under": "/workspace"}}})
    assert effect_of(plain, "fs.read", {"paths": ["a"]}) == "deny"
    items = with_rules({"allow": "*", "args": {"paths": {"items": {"all": {"under": "/workspace"}}}}})
    assert effect_of(items, "fs.read", {"paths": ["a", "b/../c"]}) == "allow"
    assert effect_of(items, "fs.read", {"paths": ["a", "../c"]}) == "deny"


@pytest.mark.parametrize(
    ("selector", "arguments"),
    [
        ("@path", {"path": "a"}),
        ("@url", {"url": "https://a.example/"}),
        ("@host", {"host": "a.example"}),
        ("@sql", {"query": "DROP TABLE x"}),
        ("@command", {"command": "rm -rf ."}),
    ],
)
def test_each_kind_has_its_selector(selector: str, arguments: dict[str, Any]) -> None:
    policy = with_rules(ALLOW_ALL, {"deny": "*", "args": {selector: {"type": "string"}}})
    assert effect_of(policy, "db.run", arguments) == "deny"
    assert effect_of(policy, "db.run", {"other": "a"}) == "allow"


# --- what is forwarded is what was judged


@pytest.mark.parametrize(
    ("arguments", "forwarded"),
    [
        ({"path": "a/../b"}, {"path": "/workspace/b"}),
        ({"paths": ["a", "./b"]}, {"paths": ["/workspace/a", "/workspace/b"]}),
        ({"options": {"target": "x", "keep": "./y"}}, {"options": {"target": "/workspace/x", "keep": "./y"}}),
        ({"url": "HTTPS://A.example"}, {"url": "https://a.example/"}),
        ({"host": "A.Example."}, {"host": "a.example"}),
        ({"content": "a/../b\r\n%2e%2e\\"}, {"content": "a/../b\r\n%2e%2e\\"}),
        ({"query": "SELECT  '../x'"}, {"query": "SELECT  '../x'"}),
        ({"path": 3, "paths": [3, "a"]}, {"path": 3, "paths": [3, "/workspace/a"]}),
        ({"n": 2**70, "f": 1.0}, {"n": 2**70, "f": 1.0}),
    ],
)
def test_arguments_of_a_kind_are_forwarded_in_their_one_spelling_and_others_as_they_came(
    arguments: dict[str, Any], forwarded: dict[str, Any]
) -> None:
    judgement = judged(with_rules(ALLOW_ALL), "fs.read", arguments)
    assert judgement.decision.allowed
    assert judgement.arguments == forwarded


def test_an_argument_that_a_path_matcher_touches_is_a_path_without_being_declared_one() -> None:
    policy = with_rules({"allow": "*", "args": {"out": {"under": "/workspace"}}})
    judgement = judged(policy, "fs.write", {"out": "a/../b", "in": "a/../b"}, kinds={})
    assert judgement.decision.allowed
    assert judgement.arguments == {"out": "/workspace/b", "in": "a/../b"}
    assert effect_of(policy, "fs.write", {"out": "../b"}, kinds={}) == "deny"


def test_an_argument_that_a_url_matcher_touches_is_a_url() -> None:
    policy = with_rules({"allow": "*", "args": {"target": {"scheme": "https", "host": "*.example.com"}}})
    judgement = judged(policy, "web.get", {"target": "HTTPS://A.example.COM:443/x"})
    assert judgement.decision.allowed
    assert judgement.arguments == {"target": "https://a.example.com/x"}
    assert code_of(policy, "web.get", {"target": "https://u@a.example.com"}) == "invalid_arguments"


def test_a_touched_list_is_canonicalised_item_by_item() -> None:
    policy = with_rules(
        {"allow": "*", "args": {"out": {"not": {"items": {"any": {"not_under": "/workspace"}}}}}}
    )
    judgement = judged(policy, "fs.write", {"out": ["a", "b/.."]}, kinds={})
    assert judgement.decision.allowed
    assert judgement.arguments == {"out": ["/workspace/a", "/workspace"]}


def test_the_callers_arguments_are_never_changed_in_place() -> None:
    arguments = {"path": "a/../b", "paths": ["./a"], "options": {"target": "./x"}}
    judged(with_rules(ALLOW_ALL), "fs.read", arguments)
    assert arguments == {"path": "a/../b", "paths": ["./a"], "options": {"target": "./x"}}


def test_relative_paths_resolve_against_the_workspace_of_the_call() -> None:
    policy = with_rules({"allow": "*", "args": {"path": {"under": "."}}})
    assert effect_of(policy, "fs.read", {"path": "/srv/a"}, workspace="/srv") == "allow"
    assert effect_of(policy, "fs.read", {"path": "/srv/a"}, workspace="/workspace") == "deny"
    assert effect_of(policy, "fs.read", {"path": "/srv/a"}, workspace="/srv") == "allow"


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "a\0"},
        {"path": "..\\x"},
        {"paths": ["a", "%2e%2e/x"]},
        {"options": {"target": "\uff0e\uff0e/x"}},
        {"url": "https://user@a.example/"},
        {"host": "a b"},
    ],
)
def test_what_may_be_read_two_ways_is_refused_before_any_rule(arguments: dict[str, Any]) -> None:
    decision = judged(with_rules(ALLOW_ALL), "fs.read", arguments).decision
    assert decision.code is DecisionCode.INVALID_ARGUMENTS
    assert next(iter(arguments)) in decision.reason


# --- who asks


CODER = Principal("c", client="ci-agent")
LEAD = Principal("l", client="web", user="ann@example.com", groups=frozenset({"staff", "leads"}))


def test_a_rule_to_somebody_holds_for_nobody_else() -> None:
    policy = with_rules(
        {"allow": "fs.*", "to": "coder"},
        {"allow": "git.*", "to": ["coder", "lead"]},
        principals={"coder": {"client": "ci-*"}, "lead": {"user": "*@example.com", "group": "leads"}},
    )
    assert effect_of(policy, "fs.read", principal=CODER) == "allow"
    assert effect_of(policy, "fs.read", principal=LEAD) == "deny"
    assert effect_of(policy, "git.log", principal=LEAD) == "allow"
    outsider = Principal("x", user="ann@example.com.evil", groups=frozenset({"leads"}))
    assert effect_of(policy, "git.log", principal=outsider) == "deny"
    assert effect_of(policy, "git.log", principal=Principal("l", user="ann@example.com")) == "deny"


def test_what_a_principal_could_call_leaves_out_what_is_always_denied() -> None:
    policy = with_rules(
        {"allow": "fs.*", "args": {"path": {"under": "/workspace"}}, "to": "coder"},
        {"deny": "fs.rm"},
        {"deny": "fs.write", "args": {"path": {"under": "/etc"}}},
        {"ask": "git.push"},
        principals={"coder": {"client": "ci-*"}},
    )
    assert policy.could_allow("fs", "write", CODER)
    assert not policy.could_allow("fs", "rm", CODER)
    assert not policy.could_allow("fs", "write", LEAD)
    assert policy.could_allow("git", "push", LEAD)
    assert not policy.could_allow("git", "push", LEAD, mode="training")
    assert not policy.could_allow("db", "run", CODER)


# --- asking


def test_a_training_ask_is_a_denial_that_names_the_rule() -> None:
    policy = with_rules({"ask": "git.push"})
    decision = judged(policy, "git.push", mode="training").decision
    assert (decision.effect, decision.code, decision.rule) == (
        Effect.DENY,
        DecisionCode.APPROVAL_DENIED,
        "r0",
    )


def test_a_deployment_ask_is_not_allowed_until_somebody_approves() -> None:
    decision = judged(with_rules({"ask": "git.push"}), "git.push").decision
    assert (decision.effect, decision.code, decision.allowed) == (
        Effect.ASK,
        DecisionCode.APPROVAL_PENDING,
        False,
    )


def test_a_deployment_may_turn_asking_into_denying() -> None:
    policy = with_rules({"ask": "git.push"}, modes={"deployment": {"ask": "deny"}})
    assert code_of(policy, "git.push") == "approval_denied"


def test_the_idiom_known_pass_the_rest_asks() -> None:
    policy = with_rules(
        {"allow": "mail.send", "args": {"to": {"in": ["ann"]}}},
        {"ask": "mail.send", "args": {"to": {"not": {"in": ["ann"]}}}},
    )
    assert effect_of(policy, "mail.send", {"to": "ann"}) == "allow"
    assert effect_of(policy, "mail.send", {"to": "bob"}) == "ask"


# --- caps


@pytest.mark.parametrize(
    ("defaults", "arguments"),
    [
        ({"max_args_bytes": 100}, {"a": "x" * 101}),
        ({"max_args_bytes": "1KB"}, {"a": "ü" * 501}),
        ({"max_depth": 2}, {"a": {"b": {"c": 1}}}),
        ({"max_items": 3}, {"a": [1, 2, 3, 4]}),
        ({"max_items": 3}, {"a": {"b": [1, 2, 3, 4]}}),
        ({"max_items": 3}, {"a": 1, "b": 2, "c": 3, "d": 4}),
        ({}, {"a": "x" * 1_000_001}),
        ({}, {"a": list(range(10_001))}),
        ({"max_args_bytes": 10}, {"a": 10**40}),
    ],
)
def test_arguments_beyond_a_cap_are_refused(defaults: dict[str, Any], arguments: dict[str, Any]) -> None:
    policy = with_rules(ALLOW_ALL, defaults=defaults)
    assert code_of(policy, "fs.write", arguments) == "arguments_too_large"


@pytest.mark.parametrize(
    ("defaults", "arguments"),
    [
        ({"max_args_bytes": 120}, {"a": "x" * 100}),
        ({"max_depth": 2}, {"a": {"b": 1}}),
        ({"max_items": 3}, {"a": [1, 2, 3]}),
        ({}, {"a": "x" * 999_000}),
        ({}, {"a": list(range(10_000))}),
    ],
)
def test_arguments_within_the_caps_are_judged(defaults: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert code_of(with_rules(ALLOW_ALL, defaults=defaults), "fs.write", arguments) == "rule_allow"


# --- reasons that help


def test_no_match_names_the_closest_rule_and_what_it_wants() -> None:
    policy = with_rules(
        {"allow": "fs.write", "args": {"path": {"under": "/workspace/docs"}, "mode": {"equals": "a"}}},
        {"allow": "fs.write", "args": {"path": {"under": "/workspace/src"}, "content": {"max_len": 5}}},
    )
    reason = judged(policy, "fs.write", {"path": "src/a", "content": "secret text"}).decision.reason
    assert "'r1'" in reason
    assert "max_len 5" in reason


def test_a_reason_never_repeats_an_arguments_value() -> None:
    policy = with_rules({"allow": "fs.write", "args": {"content": {"equals": "x"}}})
    assert "hunter2" not in judged(policy, "fs.write", {"content": "hunter2"}).decision.reason
    assert "hunter2" not in judged(policy, "fs.write", {"path": "hunter2\0"}).decision.reason


def test_no_match_says_which_argument_is_missing_and_whom_a_rule_is_for() -> None:
    policy = with_rules(
        {"allow": "fs.a", "args": {"x": {"equals": 1}}},
        {"allow": "fs.b", "to": "coder"},
        principals={"coder": {"client": "ci"}},
    )
    assert "'x', which is missing" in judged(policy, "fs.a").decision.reason
    assert "coder" in judged(policy, "fs.b").decision.reason
