"""What arrives is either of the contract or told, entry by entry, why it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.episode import CallTool, Code, ListTools, Snapshot, Submit
from gateway.core.strict_json import JsonLimits
from gateway.errors import ClientError, LedgerError, SandboxError, SandgateError, TooManySessions
from gateway.runtime.episodes import NoSuchTask, ResetRequest
from gateway.serve.openenv.schemas import schemas
from gateway.serve.openenv.wire import (
    Close,
    ErrorCode,
    Frame,
    Mcp,
    Reset,
    State,
    Step,
    WireError,
    error_frame,
    mcp_frame,
    parse_action,
    parse_frame,
    parse_reset,
    parse_step_body,
)

LIMITS = JsonLimits(max_bytes=10_000)


def frame(value: Any) -> Frame:
    return parse_frame(value if isinstance(value, str) else json.dumps(value), LIMITS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "reset"}, Reset(ResetRequest())),
        ({"type": "reset", "data": {}}, Reset(ResetRequest())),
        (
            {
                "type": "reset",
                "data": {"seed": 3, "episode_id": "e", "task": "t", "split": "train", "index": 2},
            },
            Reset(ResetRequest(3, "e", "t", "train", 2)),
        ),
        ({"type": "reset", "data": {"seed": None, "difficulty": "hard"}}, Reset(ResetRequest())),
        ({"type": "step", "data": {"type": "list_tools"}}, Step(ListTools())),
        ({"type": "state"}, State()),
        ({"type": "close"}, Close()),
        ({"type": "mcp", "data": {"method": "x"}}, Mcp({"method": "x"})),
    ],
)
def test_frames_of_the_contract(value: Any, expected: Frame) -> None:
    assert frame(value) == expected


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", ErrorCode.INVALID_JSON),
        ("{", ErrorCode.INVALID_JSON),
        ('{"type": "state", "type": "close"}', ErrorCode.INVALID_JSON),
        ('{"type": "reset", "data": {"seed": NaN}}', ErrorCode.INVALID_JSON),
        ("x" * 20_000, ErrorCode.INVALID_JSON),
        ("[" * 5_000, ErrorCode.INVALID_JSON),
        ([], ErrorCode.VALIDATION_ERROR),
        ([{"type": "state"}], ErrorCode.VALIDATION_ERROR),
        ("null", ErrorCode.VALIDATION_ERROR),
        ('"state"', ErrorCode.VALIDATION_ERROR),
        ({}, ErrorCode.UNKNOWN_TYPE),
        ({"type": "dance"}, ErrorCode.UNKNOWN_TYPE),
        ({"type": ["state"]}, ErrorCode.UNKNOWN_TYPE),
        ({"type": None}, ErrorCode.UNKNOWN_TYPE),
        ({"type": "state", "data": {}}, ErrorCode.VALIDATION_ERROR),
        ({"type": "close", "more": 1}, ErrorCode.VALIDATION_ERROR),
        ({"type": "step"}, ErrorCode.VALIDATION_ERROR),
        ({"type": "mcp"}, ErrorCode.VALIDATION_ERROR),
        ({"type": "step", "data": []}, ErrorCode.VALIDATION_ERROR),
        ({"type": "step", "data": {"type": "list_tools"}, "more": 1}, ErrorCode.VALIDATION_ERROR),
        ({"type": "reset", "data": None}, ErrorCode.VALIDATION_ERROR),
    ],
)
def test_other_frames_are_refused_with_a_code(value: Any, code: ErrorCode) -> None:
    with pytest.raises(WireError) as refused:
        frame(value)
    assert refused.value.code is code


@pytest.mark.parametrize(
    "data",
    [
        {"seed": -1},
        {"seed": True},
        {"seed": 1.5},
        {"seed": "1"},
        {"seed": 2**64},
        {"episode_id": ""},
        {"episode_id": "x" * 256},
        {"episode_id": 7},
        {"index": -1},
        {"task": ["t"]},
        {"snapshot": ""},
        {"snapshot": 7},
    ],
)
def test_a_reset_with_values_of_another_kind_is_refused(data: Any) -> None:
    with pytest.raises(WireError) as refused:
        parse_reset(data)
    assert refused.value.code is ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize(
    ("data", "action"),
    [
        ({"type": "list_tools", "metadata": {"a": 1}}, ListTools()),
        ({"type": "call_tool", "tool_name": "t"}, CallTool("t", {})),
        ({"tool_name": "t", "arguments": {"a": 2**70}}, CallTool("t", {"a": 2**70})),
        ({"type": "submit"}, Submit()),
        ({"type": "code", "code": "1"}, Code("1")),
        ({"type": "snapshot"}, Snapshot()),
        ({"type": "submit", "answer": {"x": [1]}}, Submit({"x": [1]})),
    ],
)
def test_actions_of_the_contract(data: Any, action: object) -> None:
    assert parse_action(data) == action


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "call_tool"},
        {"type": "call_tool", "tool_name": ""},
        {"type": "call_tool", "tool_name": "t", "arguments": None},
        {"type": "call_tool", "tool_name": "t", "arguments": "{}"},
        {"type": "call_tool", "tool_name": "t", "argument": {}},
        {"type": "list_tools", "tool_name": "t"},
        {"type": "submit", "answers": 1},
        {"type": "code"},
        {"type": "code", "code": 1},
        {"type": "dance"},
        {"type": None, "tool_name": "t"},
    ],
)
def test_other_actions_are_refused(data: Any) -> None:
    with pytest.raises(WireError) as refused:
        parse_action(data)
    assert refused.value.code is ErrorCode.VALIDATION_ERROR


def test_an_action_of_a_later_version_is_named_with_what_there_is() -> None:
    with pytest.raises(WireError, match=r"'dance'.*list_tools, call_tool, submit"):
        parse_action({"type": "dance"})


def test_what_is_wrong_is_told_with_its_place_and_without_its_value() -> None:
    with pytest.raises(WireError) as refused:
        parse_action({"type": "call_tool", "tool_name": 7, "arguments": "hunter2"})
    assert [entry["loc"] for entry in refused.value.errors if isinstance(entry, dict)] == [
        ["tool_name"],
        ["arguments"],
    ]
    assert "hunter2" not in json.dumps(refused.value.errors) + str(refused.value)


def test_an_http_step_wraps_an_action_and_may_bring_a_deadline() -> None:
    body = parse_step_body({"action": {"tool_name": "t"}, "timeout_s": 3, "request_id": "r", "render": True})
    assert (body.action, body.seconds) == (CallTool("t", {}), 3.0)


@pytest.mark.parametrize("body", [{}, {"action": []}, {"action": {"tool_name": "t"}, "timeout_s": 0}])
def test_an_http_step_without_a_proper_action_or_deadline_is_refused(body: Any) -> None:
    with pytest.raises(WireError):
        parse_step_body(body)


@pytest.mark.parametrize(
    ("error", "code", "fatal"),
    [
        (WireError(ErrorCode.UNKNOWN_TYPE, "m"), "UNKNOWN_TYPE", False),
        (NoSuchTask("m"), "VALIDATION_ERROR", False),
        (ClientError("m"), "EXECUTION_ERROR", False),
        (LedgerError("m"), "EXECUTION_ERROR", False),
        (TooManySessions(1, "this gateway"), "CAPACITY_REACHED", True),
        (SandboxError("m"), "FACTORY_ERROR", True),
    ],
)
def test_an_error_has_its_code_and_only_some_end_the_connection(
    error: SandgateError, code: str, fatal: bool
) -> None:
    told, ends = error_frame(error)
    assert told["type"] == "error"
    assert isinstance(told["data"], dict)
    assert (told["data"]["code"], ends) == (code, fatal)


def test_json_rpc_in_a_frame_is_answered_as_json_rpc() -> None:
    response: Any = {"jsonrpc": "2.0", "id": 7, "result": {}}
    assert mcp_frame(response) == {"type": "mcp", "data": response}


def test_the_schemas_are_named_as_the_contract_wants_them() -> None:
    told: Any = schemas()
    assert set(told) == {"action", "observation", "reset_observation", "state"}
    assert told["action"]["title"] == "CallToolAction"
