"""Recorded reads of resources and gets of prompts: judged again and learned from as what they are."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.calls import LOCAL
from gateway.core.json_types import JsonObject
from gateway.core.policy import PackFacts, compile_policy, load_policy
from gateway.core.policy.learning import learn
from gateway.core.policy.recorded import RecordedCall, Recording
from gateway.core.policy.rejudging import rejudge


def recorded(number: int, tool: str, arguments: JsonObject) -> RecordedCall:
    return RecordedCall(
        f"call_{number}", f"s{number}", "p", "fs", tool, arguments, LOCAL, "deployment", ran=True, at=0.0
    )


CALLS = (
    recorded(1, "resource:file:///a/b?c.txt", {"uri": "file:///a/b?c.txt", "path": "/a/b"}),
    recorded(2, "prompt:review", {"language": "de"}),
    recorded(3, "read", {"path": "/workspace/x"}),
)
POLICY = """
version: 1
rules:
  - {id: files, allow: "resource:fs/file:///a/**"}
  - {id: prompts, allow: "prompt:*", args: {language: {in: [en]}}}
"""


def test_they_are_judged_again_by_the_rules_that_speak_of_them() -> None:
    policy = compile_policy(load_policy(POLICY, "p.yaml"))
    effects = [decision.effect.value for decision in rejudge(policy, Recording(CALLS), PackFacts())]
    assert effects == ["allow", "deny", "deny"]
    assert [call.name for call in CALLS[:2]] == ["resource:fs/file:///a/b?c.txt", "prompt:fs/review"]


def test_what_is_learned_from_them_allows_them_and_no_others() -> None:
    calls = tuple(replace(call, session="one") for call in CALLS)
    policy = compile_policy(load_policy(learn(Recording(calls), PackFacts()).text, "p.yaml"))
    assert all(decision.allowed for decision in rejudge(policy, Recording(calls[:2]), PackFacts()))
    other = recorded(9, "resource:file:///a/secret", {"uri": "file:///a/secret"})
    assert not any(decision.allowed for decision in rejudge(policy, Recording((other,)), PackFacts()))
