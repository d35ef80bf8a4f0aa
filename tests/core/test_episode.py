"""An episode counts, shows and ends as the environment contract says."""

from __future__ import annotations

import pytest

from gateway.core.calls import Answered, Denied, Failed, FailureKind, ServerError
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.episode import (
    DoneReason,
    Ending,
    EpisodeLimits,
    EpisodeOver,
    EpisodeState,
    StepResult,
)
from gateway.core.json_types import JsonObject
from gateway.core.observations import call_observation, submit_definition, tools_observation
from gateway.core.strict_json import dumps

ALLOWED = Decision(Effect.ALLOW, DecisionCode.RULE_ALLOW, "the rule allows this call", rule="r")
DENIED = Decision(Effect.DENY, DecisionCode.RULE_DENY, "secret files are never in scope", rule="no-secrets")


def denied(code: DecisionCode) -> Denied:
    return Denied(Decision(Effect.DENY, code, "because"))


def text_result(text: str, **more: object) -> JsonObject:
    return {"content": [{"type": "text", "text": text}], **more}  # pyright: ignore[reportReturnType]


# -- observations


def test_an_answered_call_shows_the_result_and_no_error() -> None:
    shown = call_observation("echo", Answered(ALLOWED, text_result("hi", isError=False)))
    assert shown == {
        "tool_name": "echo",
        "result": {
            "content": [{"type": "text", "text": "hi"}],
            "structured_content": None,
            "data": "hi",
            "is_error": False,
            "meta": {"sandgate/decision": ALLOWED.wire()},
        },
        "error": None,
    }


def test_data_is_the_structured_value_where_there_is_one_even_if_it_is_empty() -> None:
    answered = Answered(ALLOWED, text_result("{}", structuredContent={}))
    result = call_observation("t", answered)["result"]
    assert isinstance(result, dict)
    assert result["data"] == {}
    assert result["structured_content"] == {}


def test_data_joins_the_text_blocks_and_skips_what_is_no_text() -> None:
    content = [
        {"type": "text", "text": "a"},
        {"type": "image", "data": "…"},
        {"type": "text", "text": "b"},
        7,
    ]
    result = call_observation("t", Answered(ALLOWED, {"content": content}))["result"]  # pyright: ignore[reportArgumentType]
    assert isinstance(result, dict)
    assert result["data"] == "a\nb"
    assert result["content"] == content


def test_a_tools_own_error_is_a_result_not_an_error() -> None:
    shown = call_observation("t", Answered(ALLOWED, text_result("no such file", isError=True)))
    assert shown["error"] is None
    assert isinstance(shown["result"], dict)
    assert shown["result"]["is_error"] is True


@pytest.mark.parametrize(
    ("code", "error_type"),
    [
        (DecisionCode.RULE_DENY, "execution_error"),
        (DecisionCode.NO_MATCH, "execution_error"),
        (DecisionCode.DEFINITION_CHANGED, "execution_error"),
        (DecisionCode.INVALID_ARGUMENTS, "invalid_args"),
        (DecisionCode.ARGUMENTS_TOO_LARGE, "invalid_args"),
        (DecisionCode.UNKNOWN_TOOL, "tool_not_found"),
        (DecisionCode.AUDIT_UNAVAILABLE, "transport_error"),
    ],
)
def test_a_denied_call_is_an_observation_with_a_typed_error(code: DecisionCode, error_type: str) -> None:
    shown = call_observation("t", denied(code))
    assert shown["result"] is None
    assert isinstance(shown["error"], dict)
    assert shown["error"]["error_type"] == error_type


def test_a_denial_names_rule_and_reason() -> None:
    error = call_observation("t", Denied(DENIED))["error"]
    assert isinstance(error, dict)
    assert "no-secrets" in str(error["message"])
    assert "secret files are never in scope" in str(error["message"])


@pytest.mark.parametrize(
    ("failed", "error_type"),
    [
        (Failed(ALLOWED, FailureKind.TIMEOUT, "slow"), "timeout"),
        (Failed(ALLOWED, FailureKind.CRASHED, "died"), "transport_error"),
        (Failed(ALLOWED, FailureKind.PROTOCOL, "noise"), "transport_error"),
        (Failed(ALLOWED, FailureKind.SERVER_ERROR, "no", ServerError(-32000, "no")), "execution_error"),
        (Failed(ALLOWED, FailureKind.SERVER_ERROR, "bad", ServerError(-32602, "bad")), "invalid_args"),
    ],
)
def test_a_failed_call_is_an_observation_with_a_typed_error(failed: Failed, error_type: str) -> None:
    error = call_observation("t", failed)["error"]
    assert error == {"error_type": error_type, "message": failed.message}


def test_listed_tools_have_the_contracts_three_fields() -> None:
    shown = tools_observation([{"name": "t", "inputSchema": {"type": "object"}, "annotations": {}}])
    assert shown == {"tools": [{"name": "t", "description": "", "input_schema": {"type": "object"}}]}


def test_the_submitting_tool_is_listed_like_any_other() -> None:
    tools = tools_observation([submit_definition()])["tools"]
    assert isinstance(tools, list)
    assert isinstance(tools[0], dict)
    assert tools[0]["name"] == "submit"


def test_reward_done_and_metadata_stand_beside_the_observation_and_in_it() -> None:
    wire = StepResult({"x": 1}, {"step": 1}, reward=0.5, done=True).wire()
    shared = {"reward": 0.5, "done": True, "metadata": {"step": 1}}
    assert wire == {"observation": {"x": 1, **shared}, **shared}


@pytest.mark.parametrize("observation", [{"x": ["é", 1.5]}, {}, {"done": "own", "x": 1, "metadata": 2}])
def test_a_result_is_encoded_as_its_wire_form_to_the_byte(observation: JsonObject) -> None:
    for result in (StepResult(observation, {"step": 1}), StepResult(observation, {}, 0.5, done=True)):
        assert result.encoded() == dumps(result.wire()) == result.encoded()


# -- the episode


def test_steps_count_once_they_are_settled() -> None:
    state = EpisodeState(EpisodeLimits())
    assert (state.begin(), state.begin()) == (1, 1)
    assert state.settle() is None
    assert (state.steps, state.begin()) == (1, 2)


def test_the_last_allowed_step_ends_the_episode() -> None:
    state = EpisodeState(EpisodeLimits(max_steps=2))
    assert state.settle() is None
    assert state.settle() == Ending(DoneReason.MAX_STEPS)


def test_a_denial_costs_the_penalty_and_enough_of_them_end_the_episode() -> None:
    state = EpisodeState(EpisodeLimits(max_denials=2, penalty=-0.5))
    assert state.saw("t", Denied(DENIED)) == -0.5
    assert state.settle() is None
    state.saw("t", Denied(DENIED))
    assert state.settle() == Ending(DoneReason.MAX_DENIALS)


@pytest.mark.parametrize("code", [DecisionCode.UNKNOWN_TOOL, DecisionCode.AUDIT_UNAVAILABLE])
def test_what_no_policy_refused_is_not_counted_as_a_denial(code: DecisionCode) -> None:
    state = EpisodeState(EpisodeLimits(max_denials=1, penalty=-1.0))
    assert state.saw("t", denied(code)) is None
    assert state.settle() is None


def test_only_calls_answered_without_a_tools_own_error_count_as_answered() -> None:
    state = EpisodeState(EpisodeLimits())
    state.saw("t", Answered(ALLOWED, text_result("ok")))
    state.saw("t", Answered(ALLOWED, text_result("no", isError=True)))
    state.saw("t", Failed(ALLOWED, FailureKind.TIMEOUT, "slow"))
    assert state.answered == {"t": 1}


def test_submitting_at_the_last_step_is_still_a_submission() -> None:
    state = EpisodeState(EpisodeLimits(max_steps=1))
    state.submit("42")
    assert state.settle() == Ending(DoneReason.SUBMITTED)
    assert state.answer == "42"


def test_a_lost_server_truncates_whatever_else_is_true() -> None:
    state = EpisodeState(EpisodeLimits(max_steps=1))
    state.fail("server 'echo' ended: exit code 3")
    ending = state.settle()
    assert ending is not None
    assert ending.metadata() == {
        "done_reason": "server_failed",
        "truncated": True,
        "truncated_reason": "server 'echo' ended: exit code 3",
    }


def test_an_episode_without_time_left_is_over() -> None:
    state = EpisodeState(EpisodeLimits(seconds=10))
    assert state.time_left(4) == 6
    assert state.ending is None
    assert state.time_left(11) == -1
    assert state.settle() == Ending(DoneReason.TIME_LIMIT)


def test_time_does_not_take_back_a_submission() -> None:
    state = EpisodeState(EpisodeLimits(seconds=10))
    state.submit(None)
    state.time_left(11)
    assert state.settle() == Ending(DoneReason.SUBMITTED)


def test_a_step_after_the_end_is_refused_and_says_what_to_do() -> None:
    state = EpisodeState(EpisodeLimits(max_steps=1))
    state.settle()
    with pytest.raises(EpisodeOver, match=r"max_steps.*reset"):
        state.begin()


def test_an_episode_whose_checks_cannot_run_keeps_its_reason_and_is_truncated() -> None:
    state = EpisodeState(EpisodeLimits())
    state.submit(None)
    state.settle()
    assert state.unscored("no sandbox") == Ending(DoneReason.SUBMITTED, "no sandbox")
