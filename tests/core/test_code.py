"""What the gateway and the interpreter say to each other: names, frames, and what calls come to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.calls import Answered, Denied, Failed, FailureKind, ServerError
from gateway.core.code import CodeCall, CodeDone, OddFrame, call_answer, call_entry, code_tools, read_frame
from gateway.core.decisions import Decision, DecisionCode, Effect

ALLOWED = Decision(Effect.ALLOW, DecisionCode.RULE_ALLOW, "fine", rule="r")
DENIED = Decision(Effect.DENY, DecisionCode.RULE_DENY, "no", rule="n", policy="p.yaml", line=3)


def names(*tools: str) -> list[Any]:
    return [tool["function"] for tool in code_tools({"name": name} for name in tools)]  # pyright: ignore


def test_every_tool_has_a_python_name_of_its_own() -> None:
    assert names("read-file", "read.file", "read_file", "2fast", "import", "list_tools", "call_tool") == [
        *("read_file", "read_file_2", "read_file_3", "_2fast", "_import", "list_tools_2", "call_tool_2")
    ]


def frame(**fields: Any) -> bytes:
    return json.dumps({"turn": 1, **fields}).encode()


DONE: dict[str, Any] = {"stdout": "o", "stderr": "e", "json": "[1]", "repr": "[1]", "error": None}


def test_frames_are_read_into_what_they_say() -> None:
    assert read_frame(frame(call=3, tool="echo", arguments="{}"), 1) == CodeCall(3, "echo", "{}")
    assert read_frame(frame(**DONE), 1) == CodeDone("o", "e", [1], None)


@pytest.mark.parametrize(
    ("shown", "result"),
    [
        ({"json": '{"a": 1, "A": 2}', "repr": "{'a': 1, 'A': 2}"}, "{'a': 1, 'A': 2}"),
        ({"json": "nonsense", "repr": "r"}, "r"),
        ({"json": None, "repr": "<object>"}, "<object>"),
        ({"json": "null", "repr": "None"}, None),
    ],
)
def test_a_value_that_readers_could_read_differently_is_shown_as_text(shown: Any, result: Any) -> None:
    done = read_frame(frame(**{**DONE, **shown}), 1)
    assert isinstance(done, CodeDone)
    assert done.result == result


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"garbage", b"[]", b"{}", b'{"turn": 2, "stdout": "", "stderr": ""}', b'{"turn": true}'),
        *(frame(call="1", tool="t", arguments="{}"), frame(call=1, tool=None, arguments="{}")),
        *(frame(call=1, tool="t", arguments={}), frame(stdout=1, stderr=""), frame(**{**DONE, "error": 1})),
    ],
)
def test_anything_else_is_odd(line: bytes) -> None:
    with pytest.raises(OddFrame):
        read_frame(line, 1)


def test_an_error_is_told_by_its_kind() -> None:
    told = {"exception": "ValueError", "message": "bad", "traceback": "T", "late": False}
    done = read_frame(frame(**{**DONE, "error": told}), 1)
    assert isinstance(done, CodeDone)
    assert done.error == {
        "error_type": "execution_error",
        "message": "ValueError: bad",
        "exception": "ValueError",
        "traceback": "T",
    }


def test_a_call_comes_to_its_data_or_to_what_is_raised() -> None:
    text: Any = {"content": [{"type": "text", "text": "hi"}]}
    image: Any = {"content": [{"type": "image", "data": "", "mimeType": "image/png"}]}
    assert call_answer(Answered(ALLOWED, text)) == {"data": "hi"}
    assert call_answer(Answered(ALLOWED, {**text, "structuredContent": {"n": 1}})) == {"data": {"n": 1}}
    assert call_answer(Answered(ALLOWED, image)) == {"data": image["content"]}
    assert call_answer(Answered(ALLOWED, {**text, "isError": True})) == {"raise": "error", "message": "hi"}
    denied = call_answer(Denied(DENIED))
    assert denied["raise"] == "denied"
    assert denied["decision"] == DENIED.wire()
    failed = Failed(ALLOWED, FailureKind.SERVER_ERROR, "x", ServerError(-1, "says no"))
    assert call_answer(failed) == {"raise": "failed", "message": "says no", "kind": "server_error"}


def test_a_call_is_listed_with_its_outcome_and_decision() -> None:
    assert call_entry("t", {"a": 1}, Denied(DENIED)) == {
        "tool": "t",
        "arguments": {"a": 1},
        "outcome": "denied",
        "decision": DENIED.wire(),
    }
    late = call_entry("t", {}, Failed(DENIED, FailureKind.TIMEOUT, "no answer"))
    assert (late["outcome"], late["failure"], late["decision"]) == ("failed", "timeout", DENIED.wire())
