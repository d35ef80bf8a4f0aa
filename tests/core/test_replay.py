"""A recorded episode held against its re-execution: what counts as a difference, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.replay import RecordedEpisode, all_differences, differences, read_trajectory
from gateway.errors import UsageError

POLICY = {
    "effect": "allow",
    "code": "rule_allow",
    "rule": "talk",
    "call_id": "call_1",
    "policy": "policy.yaml",
}


def answer(text: str = "hi", call_id: str = "call_1", **more: Any) -> dict[str, Any]:
    policy = {**POLICY, "call_id": call_id}
    result = {"data": text, "meta": {"sandgate/decision": policy}}
    seen = {"tool_name": "echo", "result": result, "error": None, "done": False, "metadata": {"step": 1}}
    return {"observation": seen, "reward": None, "done": False, "metadata": {"policy": policy}, **more}


def line(number: int = 1, **more: Any) -> dict[str, Any]:
    action = {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "hi"}}
    told = {"pack": "echo", "task": "be-good", "seed": 7, "policy_sha256": "ab", "session_id": "s"}
    return {**told, "episode_id": "e", "step": number, "action": action, **answer(), **more}


def read(*lines: Any) -> RecordedEpisode:
    return read_trajectory("\n".join(json.dumps(entry) for entry in lines) + "\n", "t.jsonl")


def fields(now: dict[str, Any]) -> list[str]:
    [step] = read(line()).steps
    return [difference.field for difference in differences(step, now)]


def test_a_trajectory_tells_what_was_played() -> None:
    episode = read(line(1), line(2))
    assert (episode.pack, episode.task, episode.seed, episode.policy_sha256) == ("echo", "be-good", 7, "ab")
    assert [(step.number, call.tool, call.effect) for step in episode.steps for call in step.calls] == [
        (1, "echo", "allow"),
        (2, "echo", "allow"),
    ]


def test_ids_that_each_run_mints_anew_are_no_difference() -> None:
    assert fields(answer(call_id="call_2")) == []


def test_what_stands_beside_the_observation_is_compared_once() -> None:
    now = answer()
    now["observation"]["metadata"] = {"step": 9}
    assert fields(now) == []


@pytest.mark.parametrize(
    ("now", "field"),
    [
        (answer("ho"), "observation"),
        (answer(reward=0.5), "reward"),
        (answer(reward=False), "reward"),
        (answer(done=True), "done"),
        (answer(metadata={"policy": {**POLICY, "rule": "other"}}), "decision"),
        (answer(metadata={"policy": POLICY, "done_reason": "max_steps"}), "done_reason"),
        (answer(metadata={"policy": POLICY, "rubric": []}), "rubric"),
    ],
)
def test_a_field_that_came_out_otherwise_is_named(now: dict[str, Any], field: str) -> None:
    assert fields(now) == [field]


def test_a_difference_shows_both_values() -> None:
    [step] = read(line()).steps
    [difference] = differences(step, answer(reward=0.5))
    assert difference.wire() == {"step": 1, "field": "reward", "recorded": None, "now": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.jsonl: no steps"),
        ("{", "t.jsonl:1"),
        ("[]", "t.jsonl:1: not a step"),
        ('\n{"step": 1}', "t.jsonl:2: not a step"),
        (json.dumps(line(2)), "out of order"),
        (json.dumps(line(1)) + "\n" + json.dumps(line(3)), "out of order"),
        (json.dumps(line(1)) + "\n" + json.dumps(line(2, episode_id="f")), "several episodes"),
    ],
)
def test_what_is_no_trajectory_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_trajectory(text, "t.jsonl")


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        ({"seed": True}, "'seed' has to be int"),
        ({"seed": "7"}, "'seed' has to be int"),
        ({"pack": None}, "'pack' has to be str"),
        ({"task": 3}, "'task' has to be str or null"),
        ({"step": True}, "'step' has to be int"),
        ({"observation": []}, "'observation' has to be dict"),
        ({"metadata": None}, "'metadata' has to be dict"),
        ({"done": 0}, "'done' has to be bool"),
        ({"reward": "1"}, "'reward' has to be int or float or null"),
    ],
)
def test_a_line_that_was_edited_out_of_shape_is_refused_with_its_place(edited: Any, said: str) -> None:
    with pytest.raises(UsageError, match=rf"^t\.jsonl:2: .*{said}$"):
        read(line(1), line(2, **edited))


@pytest.mark.parametrize("edited", [{"seed": 8}, {"task": "other"}, {"pack": "git"}, {"policy_sha256": "cd"}])
def test_lines_that_tell_of_different_episodes_are_refused(edited: Any) -> None:
    with pytest.raises(UsageError, match="several episodes"):
        read(line(1), line(2, **edited))


def test_steps_that_a_re_execution_does_not_come_to_are_differences() -> None:
    episode = read(line(1), line(2))
    [missing] = all_differences(episode, [answer()])
    assert (missing.step, missing.field, missing.now) == (2, "observation", None)
    assert missing.recorded == answer()["observation"]
    assert all_differences(episode, [answer(), answer()]) == []
