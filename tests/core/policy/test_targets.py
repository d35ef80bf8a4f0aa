"""Resources and prompts: named by URI and name, judged, labelled and limited as tools are."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.calls import LOCAL, Principal
from gateway.core.policy import CompiledPolicy, PackFacts, Request, explain
from gateway.core.policy.patterns import split_name
from gateway.core.policy.wildcards import PatternError
from tests.support.policies import Life, with_rules


@pytest.mark.parametrize(
    ("pattern", "uri", "allowed"),
    [
        ("resource:file:///workspace/**", "file:///workspace/a/b.txt", True),
        ("resource:file:///workspace/**", "file:///etc/passwd", False),
        ("resource:file:///workspace/*", "file:///workspace/a/b.txt", False),
        ("fs/resource:file:///**", "file:///a", True),
        ("git/resource:file:///**", "file:///a", False),
        ("resource:fs/file:///**", "file:///a", True),
        ("resource:**", "note://x/y", True),
        ("resource:*", "note://x/y/z", True),
        ("fs/resource:*", "note://x/y/z", True),
        ("git/resource:*", "note://x/y/z", False),
        ("fs.*", "file:///workspace/a", False),
        ("*", "file:///workspace/a", False),
        ("prompt:*", "file:///workspace/a", False),
    ],
)
def test_a_resource_is_named_by_its_uri(pattern: str, uri: str, allowed: bool) -> None:
    decision = with_rules({"allow": pattern}).judge(Request.of_resource("fs", uri)).decision
    assert decision.allowed is allowed
    assert decision.code.value == ("rule_allow" if allowed else "no_match")


def test_who_denies_every_resource_means_those_of_many_segments_too() -> None:
    policy = with_rules({"allow": "resource:**"}, {"deny": "resource:*"})
    assert policy.judge(Request.of_resource("fs", "file:///workspace/a/b")).decision.code.value == "rule_deny"


@pytest.mark.parametrize(
    "uri",
    [
        "file:///workspace/../etc/passwd",
        "file:///workspace/%2e%2E/etc/passwd",
        "file:///workspace/a%2fb",
        "file:///workspace\\a",
        "file:///work space",
        "https://user@example.com/",
        "FILE:///a",
        "file:///workspace/.%65nv",
        "file:workspace",
        "file://elsewhere/share",
        "file:///%ff",
        "HTTPS://example.com/",
        "https://EXAMPLE.com/",
        "https://example.com:443/",
        "no-scheme",
        "",
        "x:" + "y" * 10_000,
    ],
)
def test_a_uri_that_may_be_read_two_ways_is_refused_before_any_rule(uri: str) -> None:
    judgement = with_rules({"allow": "resource:**"}).judge(Request.of_resource("fs", uri))
    assert judgement.decision.code.value == "invalid_arguments"


def test_a_star_in_a_deny_covers_everything_and_conditions_see_the_uri() -> None:
    everything = with_rules({"allow": ["resource:**", "prompt:*", "*"]}, {"deny": "*"})
    assert everything.judge(Request.of_resource("fs", "a://b")).decision.code.value == "rule_deny"
    assert everything.judge(Request.of_prompt("fs", "hello", {})).decision.code.value == "rule_deny"
    some = with_rules({"allow": "resource:**"}, {"deny": "*", "args": {"uri": {"glob": "**/.env"}}})
    assert some.judge(Request.of_resource("fs", "file:///a/.env")).decision.code.value == "rule_deny"
    assert some.judge(Request.of_resource("fs", "file:///a/b")).decision.allowed


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("prompt:review-*", "review-code", True),
        ("prompt:review-*", "deploy", False),
        ("git/prompt:*", "review-code", False),
        ("fs/prompt:*", "review-code", True),
        ("prompt:fs/*", "review-code", True),
        ("*", "review-code", False),
    ],
)
def test_a_prompt_is_named_by_its_name(pattern: str, name: str, allowed: bool) -> None:
    policy = with_rules({"allow": pattern})
    assert policy.judge(Request.of_prompt("fs", name, {})).decision.allowed is allowed
    assert not policy.judge(Request("fs", name, {})).decision.allowed or pattern == "*"


def test_a_prompts_arguments_are_judged() -> None:
    policy = with_rules({"allow": "prompt:*", "args": {"level": {"in": ["low"]}}})
    assert policy.judge(Request.of_prompt("fs", "p", {"level": "low"})).decision.allowed
    assert not policy.judge(Request.of_prompt("fs", "p", {"level": "high"})).decision.allowed


# --- what a URI says to rules about paths and URLs


@pytest.mark.parametrize(
    "uri",
    [
        "file:///workspace/.env",
        "file:/workspace/.env",
        "file://localhost/workspace/.env",
        "file:////workspace//.env",
        "file:///workspace/.env?x=1",
        "file:///workspace/.env#L1",
        "file:///workspace/caf%C3%A9/.env.local",
    ],
)
def test_a_deny_about_paths_covers_the_files_that_uris_name(uri: str) -> None:
    policy = with_rules({"allow": "resource:**"}, {"deny": "*", "args": {"@path": {"glob": "**/.env*"}}})
    assert policy.judge(Request.of_resource("fs", uri)).decision.code.value == "rule_deny"
    assert policy.judge(Request.of_resource("fs", uri.replace(".env", "env"))).decision.allowed


def test_a_deny_about_urls_covers_the_resources_of_the_web() -> None:
    policy = with_rules({"allow": "resource:**"}, {"deny": "*", "args": {"@url": {"host": "*.evil.example"}}})
    assert not policy.judge(Request.of_resource("web", "https://a.evil.example/x")).decision.allowed
    assert policy.judge(Request.of_resource("web", "https://example.org/x")).decision.allowed


def test_a_uri_is_judged_and_forwarded_as_it_came() -> None:
    rule = {"allow": "resource:**", "args": {"uri": {"host": "example.org"}}}
    uri = "note://example.org"
    judgement = with_rules(rule, {"deny": "prompt:*"}).judge(Request.of_resource("fs", uri))
    assert judgement.decision.allowed
    assert judgement.arguments == {"uri": uri}


def test_path_matchers_say_nothing_of_a_uri_and_judge_the_path_it_names() -> None:
    under = {"under": "/workspace/docs"}
    assert not _reads(
        with_rules({"allow": "resource:**", "args": {"uri": under}}), "file:///workspace/docs/a"
    )
    by_path = with_rules({"allow": "resource:**", "args": {"path": under}})
    assert _reads(by_path, "file:///workspace/docs/a")
    assert not _reads(by_path, "file:///workspace/src/a")
    assert not _reads(by_path, "note://docs/a")
    denied = with_rules({"allow": "resource:**"}, {"deny": "resource:**", "args": {"uri": under}})
    assert not _reads(denied, "note://docs/a"), "what cannot be judged makes a deny hold"


def _reads(policy: CompiledPolicy, uri: str) -> bool:
    return policy.judge(Request.of_resource("fs", uri)).decision.allowed


def test_a_prompts_paths_are_judged_and_forwarded_in_their_one_spelling() -> None:
    policy = with_rules({"allow": "prompt:*", "args": {"file": {"under": "/workspace"}}})
    judgement = policy.judge(Request.of_prompt("fs", "p", {"file": "/workspace/a/../b"}))
    assert judgement.decision.allowed
    assert judgement.arguments == {"file": "/workspace/b"}
    assert not policy.judge(Request.of_prompt("fs", "p", {"file": "/workspace/../etc"})).decision.allowed


# --- listings


CODER = Principal("c", client="ci")


def test_listings_show_the_resources_and_prompts_that_could_be_had() -> None:
    policy = with_rules(
        {"allow": "resource:fs/file:///workspace/**"},
        {"allow": "prompt:review-*", "to": "coder"},
        {"deny": "resource:**/.git/**"},
        {"allow": "*"},
        principals={"coder": {"client": "ci"}},
    )
    shown = [
        uri
        for uri in ("file:///workspace/a", "file:///etc/x", "file:///workspace/.git/config")
        if policy.could_allow("fs", uri, LOCAL, target="resource")
    ]
    assert shown == ["file:///workspace/a"]
    assert not policy.could_allow("git", "file:///workspace/a", LOCAL, target="resource")
    assert policy.could_allow("fs", "review-code", CODER, target="prompt")
    assert not policy.could_allow("fs", "review-code", LOCAL, target="prompt")
    assert not policy.could_allow("fs", "deploy", CODER, target="prompt")


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("file:///workspace/{path}", True),
        ("file:///{path}", True),
        ("{uri}", True),
        ("file:///workspace/docs/{name}.md", True),
        ("file:///etc/{path}", False),
        ("note://{id}", False),
        ("file:///workspace/docs/private/{name}", False),
    ],
)
def test_a_template_is_listed_if_some_resource_it_makes_could_be_read(template: str, shown: bool) -> None:
    policy = with_rules(
        {"allow": "resource:file:///workspace/docs/**"},
        {"deny": "resource:file:///workspace/docs/private/**"},
        {"deny": "*", "args": {"@path": {"glob": "**/.env"}}},
    )
    assert policy.could_allow_template("fs", template, LOCAL) is shown


def test_a_template_is_hidden_from_a_server_and_a_principal_the_rules_do_not_name() -> None:
    policy = with_rules({"allow": "resource:fs/**", "to": "coder"}, principals={"coder": {"client": "ci"}})
    assert policy.could_allow_template("fs", "x:{y}", CODER)
    assert not policy.could_allow_template("fs", "x:{y}", LOCAL)
    assert not policy.could_allow_template("git", "x:{y}", CODER)


# --- the same life as a tool's


def test_what_a_resource_says_labels_the_session_and_is_cleaned() -> None:
    secret = "AKIA" + "IOSFODNN7EXAMPLE"
    life = Life(
        with_rules(
            {"allow": ["resource:**", "*"]},
            {"deny": "git.push", "if_labels": {"any": ["untrusted"]}},
            labels=[{"tool": "resource:https://**", "adds": ["untrusted"]}],
            results=[{"tool": "*", "redact": ["aws_key"]}],
        )
    )
    assert life.call("git.push") == "rule_allow"
    contents = {"contents": [{"uri": "https://a.example/", "text": secret}]}
    assert life.call("resource:web/https://a.example/", result=contents) == "rule_allow"
    assert secret not in str(life.shown)
    assert life.call("git.push") == "label_deny"


def test_a_result_rule_for_tools_leaves_resources_alone() -> None:
    secret = "AKIA" + "IOSFODNN7EXAMPLE"
    life = Life(with_rules({"allow": "prompt:*"}, results=[{"tool": "fs.*", "redact": ["aws_key"]}]))
    life.call("prompt:fs/p", result=secret)
    assert secret in str(life.shown)


def test_limits_count_resources_and_sessions_count_tools_only() -> None:
    limited = {"allow": "resource:**", "limit": {"calls": 2, "per": "tool"}}
    life = Life(with_rules(limited, {"allow": "*"}))
    assert [life.call(f"resource:fs/a:{name}") for name in "xyz"] == [
        "rule_allow",
        "rule_allow",
        "limit_exceeded",
    ], "names that a caller makes up have no counters of their own"
    life.call("fs.read")
    assert life.state.calls == {"fs.read": 1}


def test_hints_never_name_another_resource() -> None:
    policy = with_rules({"allow": "resource:file:///a"})
    first = policy.judge(Request.of_resource("fs", "file:///b")).decision
    second = policy.judge(Request.of_resource("fs", "file:///c")).decision
    assert first.reason == second.reason == "no rule allows this resource of 'fs'"


# --- in tests and explanations


def test_a_file_tests_resources_and_prompts_too() -> None:
    tests: list[dict[str, Any]] = [
        {"call": "resource:fs/file:///workspace/a", "expect": "allow", "rule": "r0"},
        {"call": "resource:git/file:///workspace/a", "expect": "deny"},
        {"call": "prompt:fs/review", "args": {"level": "low"}, "expect": "allow", "rule": "r1"},
        {"call": "prompt:fs/review", "args": {"level": "high"}, "expect": "deny"},
    ]
    policy = with_rules(
        {"allow": "resource:fs/**"}, {"allow": "prompt:*", "args": {"level": {"in": ["low"]}}}, tests=tests
    )
    assert [result.passed for result in policy.run_tests()] == [True] * 4


def test_an_explanation_names_the_rule_a_resource_missed() -> None:
    policy = with_rules({"allow": "resource:**", "args": {"path": {"under": "/workspace"}}})
    told = explain(policy, Request.of_resource("fs", "file:///etc/passwd"))
    assert [miss.argument for miss in told.near_misses] == ["path"]
    assert told.arguments == {"uri": "file:///etc/passwd", "path": "/etc/passwd"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fs.read", ("tool", "fs", "read")),
        ("resource:fs/file:///a/b", ("resource", "fs", "file:///a/b")),
        ("prompt:fs/review", ("prompt", "fs", "review")),
    ],
)
def test_one_call_is_named_by_kind_server_and_name(text: str, parts: tuple[str, str, str]) -> None:
    assert split_name(text) == parts
    assert Request.named(text, {}, PackFacts()).name == text


@pytest.mark.parametrize("text", ["fs", "fs.*", "*", "resource:file:///a", "resource:fs", "prompt:", ""])
def test_what_names_no_single_call_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        split_name(text)
