"""The client's codec: what is sent, and that every answer is read or refused, never half believed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decisions import DecisionCode, Effect
from gateway.training.codec import (
    call_action,
    reset_exchange,
    socket_url,
    state_exchange,
    step_exchange,
    submit_action,
    tools_in,
)
from gateway.training.errors import (
    CapacityReached,
    EnvError,
    EpisodeUnavailable,
    InvalidRequest,
    ProtocolBroken,
    ServerFailed,
)
from gateway.training.results import DoneReason, StepResult

DECISION = {
    "effect": "deny",
    "code": "rule_deny",
    "rule": "r",
    "reason": "no",
    "policy": "p.yaml",
    "line": 3,
    "policy_sha256": "0" * 64,
    "call_id": "c",
}


def observation(
    metadata: dict[str, Any] | None = None, *, reward: object = None, done: object = False, **shown: Any
) -> str:
    beside = {"reward": reward, "done": done, "metadata": metadata or {}}
    return json.dumps({"type": "observation", "data": {"observation": {**shown, **beside}, **beside}})


def read_step(text: str) -> StepResult:
    return step_exchange({"type": "list_tools"}).read(text)


def error(code: str, **more: object) -> str:
    return json.dumps({"type": "error", "data": {"message": "why", "code": code, **more}})


@pytest.mark.parametrize(
    ("url", "pack", "socket"),
    [
        ("http://127.0.0.1:8000", None, "ws://127.0.0.1:8000/ws"),
        ("http://127.0.0.1:8000/", "git", "ws://127.0.0.1:8000/packs/git/ws"),
        ("https://tools.example/gate/packs/git", "git", "wss://tools.example/gate/packs/git/ws"),
        ("ws://127.0.0.1:8000/ws", None, "ws://127.0.0.1:8000/ws"),
        ("http://[::1]:8000/packs/git/ws", None, "ws://[::1]:8000/packs/git/ws"),
    ],
)
def test_the_socket_is_found_from_any_address_a_user_has(url: str, pack: str | None, socket: str) -> None:
    assert socket_url(url, pack) == socket


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "", "http:///packs/git"])
def test_what_is_no_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidRequest, match="http://HOST:PORT"):
        socket_url(url)


def test_a_reset_sends_only_what_was_asked_for() -> None:
    frame = reset_exchange(task="t", seed=0, split=None, index=None).frame
    assert json.loads(frame) == {"type": "reset", "data": {"task": "t", "seed": 0}}


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1, 2}, object()])
def test_an_action_that_is_not_json_is_the_callers_fault(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="is JSON, and this is not"):
        step_exchange(submit_action(value))


def test_a_denial_is_a_result_with_its_decision() -> None:
    shown = {
        "tool_name": "t",
        "result": None,
        "error": {"error_type": "execution_error", "message": "denied"},
    }
    result = read_step(observation({"policy": DECISION}, reward=-1, **shown))
    assert result.denied
    assert result.decision is not None
    assert (result.decision.effect, result.decision.code) == (Effect.DENY, DecisionCode.RULE_DENY)
    assert result.decision.wire() == DECISION
    assert (result.reward, result.text) == (-1.0, "denied")
    assert result.error is not None
    assert result.error.error_type == "execution_error"


def test_the_end_tells_its_reason_and_the_rubric() -> None:
    said = {"done_reason": "max_steps", "truncated": False, "rubric": [{"score": 1.0}]}
    result = read_step(observation(said, reward=0.5, done=True))
    assert (result.done, result.truncated, result.done_reason) == (True, False, DoneReason.MAX_STEPS)
    assert result.rubric == ({"score": 1.0},)


@pytest.mark.parametrize(
    ("content", "structured", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {"x": 1}, "a\nb"),
        ([], {"x": 1}, '{"x":1}'),
        ([{"type": "image", "data": "…"}], None, "[image]"),
        ([], None, ""),
    ],
)
def test_a_model_is_shown_the_text_of_a_result(content: object, structured: object, text: str) -> None:
    shown = {"content": content, "structured_content": structured, "data": None, "is_error": False}
    assert read_step(observation(result=shown, error=None)).text == text


def test_metadata_is_also_found_where_other_servers_of_the_contract_put_it() -> None:
    inside = {"observation": {"metadata": {"episode_id": "e"}}, "reward": None, "done": False}
    text = json.dumps({"type": "observation", "data": inside})
    assert reset_exchange().read(text).episode_id == "e"


def test_the_state_is_read() -> None:
    data = {"episode_id": "e", "step_count": 2, "task": None, "done": False, "denials": 1}
    status = state_exchange().read(json.dumps({"type": "state", "data": data}))
    assert (status.episode_id, status.step_count, status.denials) == ("e", 2, 1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("VALIDATION_ERROR", InvalidRequest),
        ("INVALID_JSON", InvalidRequest),
        ("UNKNOWN_TYPE", InvalidRequest),
        ("EXECUTION_ERROR", EpisodeUnavailable),
        ("FACTORY_ERROR", ServerFailed),
        ("SESSION_ERROR", ServerFailed),
        ("A_CODE_OF_THE_FUTURE", ServerFailed),
    ],
)
def test_an_error_frame_is_raised_as_whose_fault_it_is(code: str, kind: type[EnvError]) -> None:
    with pytest.raises(kind, match="why") as raised:
        read_step(error(code))
    assert raised.value.code == code


def test_a_full_server_says_when_to_come_back() -> None:
    with pytest.raises(CapacityReached) as raised:
        read_step(error("CAPACITY_REACHED", retry_after=7))
    assert raised.value.retry_after == 7


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "null",
        "[" * 100_000,
        '{"type":"observation"}',
        '{"type":"state","data":{}}',
        '{"type":"observation","data":{"observation":[]}}',
        observation(reward="1"),
        observation(reward=True),
        observation(done="yes"),
        observation({"done_reason": "bored"}, done=True),
        observation({"policy": {**DECISION, "effect": "shrug"}}),
        observation({"policy": {**DECISION, "line": "3"}}),
    ],
)
def test_an_answer_that_is_not_of_the_contract_is_the_servers_fault(text: str) -> None:
    with pytest.raises(ProtocolBroken):
        read_step(text)


@pytest.mark.parametrize("tools", [None, {}, ["t"], [{"description": "d"}], [{"name": "t"}]])
def test_a_listing_without_tools_is_the_servers_fault(tools: object) -> None:
    with pytest.raises(ProtocolBroken):
        tools_in(read_step(observation(tools=tools)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    ["type", "data", "observation", "metadata", "reward", "done", "policy", "error", "state", "result"]
)


@given(
    st.text()
    | st.recursive(json_values, lambda inner: st.dictionaries(words, inner | words, max_size=6)).map(
        json.dumps
    )
)
def test_no_answer_at_all_raises_anything_but_an_env_error(text: str) -> None:
    for exchange in (reset_exchange(), step_exchange(call_action("t", {})), state_exchange()):
        with suppress(EnvError):
            assert exchange.read(text) is not None
