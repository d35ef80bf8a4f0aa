"""Overlays of a mode, patterns for resources and prompts, and grants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.core.policy import PackFacts, Request, check, load_policy
from gateway.core.policy.request import ServerNeeds
from gateway.errors import ConfigError
from tests.support.policies import code_of, compiled, with_rules

# --- modes.*.rules


def test_an_overlay_holds_in_its_mode_only() -> None:
    policy = with_rules(
        {"allow": "*"},
        modes={
            "training": {"rules": [{"id": "t", "deny": "fs.rm"}]},
            "deployment": {"rules": [{"id": "d", "ask": "git.push"}]},
        },
    )
    assert code_of(policy, "fs.rm", mode="training") == "rule_deny"
    assert code_of(policy, "fs.rm") == "rule_allow"
    assert code_of(policy, "git.push", mode="training") == "rule_allow"
    assert code_of(policy, "git.push") == "approval_pending"
    assert not policy.could_allow("fs", "rm", Request("fs", "rm", {}).principal, "training")
    assert policy.could_allow("fs", "rm", Request("fs", "rm", {}).principal, "deployment")


def test_an_overlays_rule_is_named_with_its_line() -> None:
    policy = compiled(
        "version: 1\nrules:\n  - {id: a, allow: fs.x}\n"
        "modes:\n  training:\n    rules:\n      - {id: t, deny: fs.x, why: not here}\n"
    )
    decision = policy.judge(Request("fs", "x", {}, mode="training")).decision
    assert (decision.rule, decision.line, decision.reason) == ("t", 7, "not here")


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        ("{id: t, allow: fs.y}", "never allow"),
        ("{id: a, deny: fs.y}", "already used"),
        ("{id: t, deny: fs.y, to: nobody}", "unknown principal"),
        ("{id: t, deny: fs.y, args: {'@x': {min: 1}}}", "is not a kind"),
    ],
)
def test_an_overlay_that_widens_or_is_wrong_is_refused_at_its_place(overlay: str, said: str) -> None:
    text = (
        f"version: 1\nrules: [{{id: a, allow: fs.x}}]\nmodes:\n  training:\n    rules:\n      - {overlay}\n"
    )
    with pytest.raises(ConfigError, match=said) as caught:
        compiled(text)
    assert caught.value.problems[0].line == 6


# --- grants

NEEDS = ServerNeeds(memory=512, cpu=1.0, pids=64, secrets=("TOKEN", "OTHER"))


def granted(grants: dict[str, Any] | None) -> Any:
    parts = {} if grants is None else {"grants": grants}
    return with_rules({"allow": "*"}, **parts).granted("fs", NEEDS, "/workspace")


def test_without_grants_a_sandbox_gets_what_it_needs() -> None:
    got = granted(None)
    assert (got.memory, got.cpu, got.pids, got.secrets, got.writable) == (
        512, 1.0, 64, ("TOKEN", "OTHER"), True,
    )  # fmt: skip


def test_a_sandbox_gets_the_smaller_of_need_and_grant() -> None:
    got = granted({"fs": {"memory": 256, "cpu": 4, "pids": 8, "secrets": ["TOKEN", "UNNEEDED"]}})
    assert (got.memory, got.cpu, got.pids, got.secrets) == (256, 1.0, 8, ("TOKEN",))


def test_secrets_that_are_not_granted_are_not_given() -> None:
    assert granted({"fs": {"memory": "1GB"}}).secrets == ()
    assert granted({"other": {}}).secrets == ()
    assert granted({}).secrets == ()


def test_the_workspace_may_be_granted_for_reading_only() -> None:
    assert granted({"fs": {"mounts": {"rw": "/workspace"}}}).writable
    assert granted({"fs": {}}).writable
    assert not granted({"fs": {"mounts": {"ro": ["/workspace/"]}}}).writable
    assert not granted({"fs": {"mounts": {}}}).writable


def test_a_folder_that_cannot_be_mounted_is_refused_at_its_place() -> None:
    policy = compiled(
        "version: 1\nrules: []\ngrants:\n"
        "  fs:\n    mounts:\n      rw:\n        - /workspace\n        - /srv/data\n"
    )
    with pytest.raises(ConfigError, match="no other folder") as caught:
        policy.granted("fs", NEEDS, "/workspace")
    assert caught.value.problems[0].line == 8


def test_check_names_the_difference_between_needs_and_grants() -> None:
    text = (
        "version: 1\nrules: []\ngrants:\n"
        "  fs: {memory: 256, secrets: [TOKEN, MORE], mounts: {rw: [/srv]}, egress: ['a.example:443']}\n"
        "  gone: {cpu: 1}\n"
    )
    facts = PackFacts(
        tools={"fs": {}, "web": {}}, needs={"fs": NEEDS, "web": replace(NEEDS, secrets=("KEY",))}
    )
    found = [(p.line, p.code, p.message) for p in check(load_policy(text, "p.yaml"), facts)]
    said = "\n".join(f"{line} {code} {message}" for line, code, message in found)
    assert "4 grant_smaller server 'fs' needs 512 bytes of memory and is granted 256" in said
    assert "4 grant_smaller server 'fs' needs the secret OTHER" in said
    assert "4 grant_unused server 'fs' does not need MORE, a.example:443" in said
    assert "4 grant_mounts" in said
    assert "5 grant_unused no server 'gone'" in said
    assert "grant_smaller server 'web' needs the secret KEY" in said
    assert check(load_policy("version: 1\nrules: []\n", "p.yaml"), facts) == []


@pytest.mark.parametrize(
    ("needs", "grants", "said"),
    [
        (("a.example:443",), ["a.example"], None),
        (("a.example", "b.example:8443"), ["*.example:8443", "a.example"], None),
        (("*",), ["a.example"], None),
        (("*.example",), ["a.example"], "needs to reach *.example and is granted a.example:443 only"),
        (("a.example",), ["b.example"], "needs to reach a.example and is not granted it"),
        (("a.example",), None, "needs to reach a.example and is not granted it"),
        (("*",), None, "needs to reach * and is not granted it"),
    ],
)
def test_check_names_hosts_that_are_needed_and_not_granted(
    needs: tuple[str, ...], grants: list[str] | None, said: str | None
) -> None:
    written = "" if grants is None else f"grants: {{web: {{egress: {grants}}}}}\n"
    facts = PackFacts(tools={"web": {}}, needs={"web": replace(NEEDS, secrets=(), egress=needs)})
    found = [p.message for p in check(load_policy(f"version: 1\nrules: []\n{written}", "p.yaml"), facts)]
    assert [message for message in found if "reach" in message] == ([f"server 'web' {said}"] if said else [])


def test_check_warns_of_labels_nobody_adds_and_tools_nobody_has() -> None:
    text = (
        "version: 1\nrules:\n  - {id: a, deny: fs.x, if_labels: {all: [mystery]}}\n"
        "labels: [{tool: fs.y, adds: [known]}]\nresults: [{tool: web.z, max_bytes: 1}]\n"
    )
    facts = PackFacts(tools={"fs": {"x": {}}})
    assert [(p.line, p.code) for p in check(load_policy(text, "p.yaml"), facts)] == [
        (3, "unknown_label"),
        (4, "unknown_tool"),
        (5, "unknown_tool"),
    ]
