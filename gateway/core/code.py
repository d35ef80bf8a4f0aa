"""CodeAct: what the gateway and the interpreter in the sandbox say to each other, and how it is shown.

Pure; runs and decides nothing. `sandboxes/code` is the other side and has the frames.
What comes from there is as untrusted as a tool server's output: values of the code travel as JSON inside
a string, so that one which the strict gate refuses is that value's misfortune and not the line's.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.calls import Answered, Denied, Failed, Outcome
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.observations import ErrorType, data_of
from gateway.core.strict_json import JsonLimits, StrictJsonError, loads

__all__ = [
    "LATE",
    "MAX_FRAME",
    "CodeCall",
    "CodeDone",
    "CodeFrame",
    "OddFrame",
    "call_answer",
    "call_entry",
    "code_observation",
    "code_tools",
    "read_frame",
    "refusal",
]


# -- what comes from the interpreter --------------------------------------------------------------


MAX_FRAME = 8_000_000
"""Bytes of one frame of the interpreter."""

_FRAMES = JsonLimits(max_bytes=MAX_FRAME)


class OddFrame(ValueError):
    """The interpreter said something that it never says of itself: the code got at the line."""


@dataclass(frozen=True, slots=True)
class CodeCall:
    """The code calls a tool; `arguments` is JSON text."""

    number: int
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CodeDone:
    """The code has ended. `error` is `{error_type, message, exception, traceback}`, or `None`."""

    stdout: str
    stderr: str
    result: JsonValue
    error: JsonObject | None


CodeFrame: TypeAlias = CodeCall | CodeDone


def read_frame(line: bytes, turn: int) -> CodeFrame:
    """Return what one line of the interpreter says in this turn; raises `OddFrame`."""
    try:
        frame = loads(line, _FRAMES)
    except StrictJsonError as error:
        raise OddFrame(str(error)) from None
    if not isinstance(frame, dict) or frame.get("turn") != turn or isinstance(frame.get("turn"), bool):
        raise OddFrame("a frame of no turn that runs")
    return _call(frame) if "call" in frame else _done(frame)


def _call(frame: JsonObject) -> CodeCall:
    number, tool, arguments = frame.get("call"), frame.get("tool"), frame.get("arguments")
    if type(number) is int and isinstance(tool, str) and isinstance(arguments, str):
        return CodeCall(number, tool, arguments)
    raise OddFrame("a call of another shape")


def _done(frame: JsonObject) -> CodeDone:
    stdout, stderr, error = frame.get("stdout"), frame.get("stderr"), frame.get("error")
    if isinstance(stdout, str) and isinstance(stderr, str) and isinstance(error, dict | None):
        return CodeDone(stdout, stderr, _result(frame), None if error is None else _error(error))
    raise OddFrame("an end of another shape")


def _result(frame: JsonObject) -> JsonValue:
    text, shown = frame.get("json"), frame.get("repr")
    if isinstance(text, str):
        try:
            return loads(text)
        except StrictJsonError:
            return str(shown)  # no JSON that every reader reads alike
    return shown if isinstance(shown, str) else None


def _error(error: JsonObject) -> JsonObject:
    kind = ErrorType.TIMEOUT if error.get("late") is True else ErrorType.EXECUTION_ERROR
    exception, message = str(error.get("exception")), str(error.get("message"))
    return {
        "error_type": kind.value,
        "message": f"{exception}: {message}" if message else exception,
        "exception": exception,
        "traceback": str(error.get("traceback")),
    }


# -- what goes to it ------------------------------------------------------------------------------

_RESERVED = frozenset({"list_tools", "call_tool", "ToolError", "ToolDenied", "ToolFailed"})


def code_tools(definitions: Iterable[JsonObject]) -> list[JsonValue]:
    """Return `{name, function, description, schema}` of each tool; `function` is a Python name."""
    taken = set(_RESERVED)
    tools: list[JsonValue] = []
    for definition in definitions:
        name = str(definition.get("name"))
        function = _function_name(name, taken)
        taken.add(function)
        shown: JsonObject = {"name": name, "function": function}
        shown["description"] = str(definition.get("description") or "")
        tools.append(shown | {"schema": definition.get("inputSchema") or {"type": "object"}})
    return tools


def _function_name(name: str, taken: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if plain[:1].isdigit() or keyword.iskeyword(plain):
        plain = f"_{plain}"
    found, number = plain, 2
    while found in taken:
        found, number = f"{plain}_{number}", number + 1
    return found


def call_answer(outcome: Outcome) -> JsonObject:
    """Return what a call comes to in the code: `data`, or what it raises."""
    match outcome:
        case Answered(_, result):
            data = data_of(result)
            content = result.get("content")
            if result.get("isError"):
                return {"raise": "error", "message": data if isinstance(data, str) else "the tool failed"}
            return {"data": content if data == "" and content else data}
        case Denied(decision):
            return {"raise": "denied", "message": decision.sentence(), "decision": decision.wire()}
        case Failed(_, kind, message, error):
            return {"raise": "failed", "message": error.message if error else message, "kind": kind.value}


LATE: JsonObject = {"raise": "late"}
"""What a call comes to that had no answer in the code's time: the code is over."""


def refusal(message: str, kind: str) -> JsonObject:
    """Return what a call comes to that the gateway does not even judge."""
    return {"raise": "failed", "message": message, "kind": kind}


# -- how it is shown ------------------------------------------------------------------------------


def call_entry(tool: str, arguments: JsonObject, outcome: Outcome) -> JsonObject:
    """Return one of an observation's `calls`."""
    entry: JsonObject = {"tool": tool, "arguments": arguments}
    match outcome:
        case Answered(decision, result):
            entry |= {"outcome": "answered", "is_error": bool(result.get("isError"))}
        case Denied(decision):
            entry["outcome"] = "denied"
        case Failed(decision, kind):
            entry |= {"outcome": "failed", "failure": kind.value}
    return {**entry, "decision": decision.wire()}


def code_observation(done: CodeDone, calls: Sequence[JsonObject]) -> JsonObject:
    """Return `{stdout, stderr, result, error, calls}`."""
    return {
        "stdout": done.stdout,
        "stderr": done.stderr,
        "result": done.result,
        "error": done.error,
        "calls": list[JsonValue](calls),
    }
