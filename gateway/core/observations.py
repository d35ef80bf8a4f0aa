"""What an action's outcome looks like as an observation, in the words of the environment contract.

Pure: it shows and never decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import cast

from gateway.core.calls import Answered, Denied, Failed, FailureKind, Outcome, ServerError
from gateway.core.decisions import Decision, DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import tool_result

__all__ = [
    "SUBMIT_TOOL",
    "ErrorType",
    "call_observation",
    "data_of",
    "error_observation",
    "policy_of",
    "submit_definition",
    "submitted_observation",
    "told_error",
    "tools_observation",
]

SUBMIT_TOOL = "submit"
"""The tool that submits, where the pack offers it (manifest: `env.submit`)."""


class ErrorType(StrEnum):
    """Why a call brought no result, in the words of the environment contract."""

    EXECUTION_ERROR = "execution_error"
    INVALID_ARGS = "invalid_args"
    TRANSPORT_ERROR = "transport_error"
    TOOL_NOT_FOUND = "tool_not_found"
    TIMEOUT = "timeout"


_DENIAL_TYPES = {
    DecisionCode.UNKNOWN_TOOL: ErrorType.TOOL_NOT_FOUND,
    DecisionCode.INVALID_ARGUMENTS: ErrorType.INVALID_ARGS,
    DecisionCode.ARGUMENTS_TOO_LARGE: ErrorType.INVALID_ARGS,
    DecisionCode.AUDIT_UNAVAILABLE: ErrorType.TRANSPORT_ERROR,
}
_FAILURE_TYPES = {FailureKind.TIMEOUT: ErrorType.TIMEOUT, FailureKind.SERVER_ERROR: ErrorType.EXECUTION_ERROR}
_INVALID_PARAMS = -32602


def call_observation(tool_name: str, outcome: Outcome) -> JsonObject:
    """Return `{tool_name, result, error}`: a result exactly where the server answered, else an error."""
    match outcome:
        case Answered():
            return {"tool_name": tool_name, "result": _shown_result(tool_result(outcome)), "error": None}
        case Denied(decision):
            kind = _DENIAL_TYPES.get(decision.code, ErrorType.EXECUTION_ERROR)
            return error_observation(tool_name, kind, decision.sentence())
        case Failed(_, failure, message, error):
            return error_observation(
                tool_name, _failure_type(failure, error), error.message if error else message
            )


def error_observation(tool_name: str, kind: ErrorType, message: str) -> JsonObject:
    """Return the observation of a call that brought no result."""
    return {"tool_name": tool_name, "result": None, "error": told_error(kind, message)}


def told_error(kind: ErrorType, message: str) -> JsonObject:
    """Return `{error_type, message}`."""
    return {"error_type": kind.value, "message": message}


def tools_observation(definitions: Iterable[JsonObject]) -> JsonObject:
    """Return `{tools: [{name, description, input_schema}]}` from MCP tool definitions."""
    return {
        "tools": [
            {
                "name": tool.get("name"),
                "description": tool.get("description") or "",
                "input_schema": tool.get("inputSchema") or {"type": "object"},
            }
            for tool in definitions
        ]
    }


def submit_definition() -> JsonObject:
    """Return the definition of the submitting tool, as `tools_observation` takes it."""
    schema: JsonObject = {
        "type": "object",
        "properties": {"answer": {"description": "The final answer, where the task asks for one."}},
        "additionalProperties": False,
    }
    return {
        "name": SUBMIT_TOOL,
        "description": "Finish the task; nothing can be done after it.",
        "inputSchema": schema,
    }


def submitted_observation() -> JsonObject:
    """Return what a call of the submitting tool shows."""
    result: JsonObject = {"content": [{"type": "text", "text": "submitted"}]}
    return {"tool_name": SUBMIT_TOOL, "result": _shown_result(result), "error": None}


def policy_of(outcome: Outcome) -> JsonObject:
    """Return the decision object of an outcome (`metadata.policy`)."""
    decision: Decision = outcome.decision
    return decision.wire()


def _failure_type(kind: FailureKind, error: ServerError | None) -> ErrorType:
    if error is not None and error.code == _INVALID_PARAMS:
        return ErrorType.INVALID_ARGS
    return _FAILURE_TYPES.get(kind, ErrorType.TRANSPORT_ERROR)


def _shown_result(result: JsonObject) -> JsonObject:
    content = result.get("content")
    structured = result.get("structuredContent")
    return {
        "content": content if content is not None else [],
        "structured_content": structured,
        "data": data_of(result),
        "is_error": bool(result.get("isError", False)),
        "meta": result.get("_meta"),
    }


def data_of(result: JsonObject) -> JsonValue:
    """Return what a `CallToolResult` comes to: its structured value if any, else its joined text."""
    structured = result.get("structuredContent")
    return structured if structured is not None else _joined_text(result.get("content"))


def _joined_text(content: JsonValue) -> str:
    blocks = (
        cast("list[JsonObject]", [b for b in content if isinstance(b, dict)])
        if isinstance(content, list)
        else []
    )
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))
