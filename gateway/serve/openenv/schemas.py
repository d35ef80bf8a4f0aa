"""JSON Schemas of actions, observations and state, as `/schema` tells them. Data only."""

from __future__ import annotations

from gateway.core.episode import DoneReason
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.observations import ErrorType

__all__ = ["schemas"]


def schemas() -> JsonObject:
    """Return `{action, observation, reset_observation, state}`."""
    seen = _observation()
    return {"action": _action(), "observation": seen, "reset_observation": seen, "state": _state()}


def _object(
    title: str, properties: JsonObject, required: list[JsonValue], *, closed: bool = False
) -> JsonObject:
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": not closed,
    }


def _action() -> JsonObject:
    kinds: list[JsonValue] = ["call_tool", "list_tools", "submit", "code", "snapshot"]
    properties: JsonObject = {
        "type": {"enum": kinds, "default": "call_tool"},
        "tool_name": {"type": "string", "description": "The tool to call, as list_tools names it."},
        "arguments": {"type": "object", "default": {}},
        "answer": {"description": "What is submitted; any JSON value."},
        "code": {"type": "string", "description": "Python to run, with the tools as functions."},
        "metadata": {"type": "object", "default": {}},
    }
    calls: JsonObject = {"properties": {"type": {"const": "call_tool"}}}
    action = _object("CallToolAction", properties, [], closed=True)
    return {**action, "if": calls, "then": {"required": ["tool_name"]}}


def _observation() -> JsonObject:
    error_types: list[JsonValue] = [kind.value for kind in ErrorType]
    tool = _object(
        "Tool",
        {"name": {"type": "string"}, "description": {"type": "string"}, "input_schema": {"type": "object"}},
        ["name", "description", "input_schema"],
    )
    result = _object(
        "ToolResult",
        {
            "content": {"type": "array"},
            "structured_content": True,
            "data": True,
            "is_error": {"type": "boolean"},
            "meta": {"type": ["object", "null"]},
        },
        ["content", "structured_content", "data", "is_error", "meta"],
    )
    error = _object(
        "ToolError",
        {
            "error_type": {"enum": error_types},
            "message": {"type": "string"},
            "exception": {"type": ["string", "null"], "description": "Of code: the exception's class."},
            "traceback": {"type": "string"},
        },
        ["error_type", "message"],
    )
    properties: JsonObject = {
        "prompt": {"type": ["string", "null"], "description": "After a reset: what the task asks for."},
        "task": {"type": ["string", "null"]},
        "tools": {"type": "array", "items": tool},
        "tool_name": {"type": "string"},
        "result": {
            "description": "A call's, or null; code's last value.",
            "anyOf": [result, True],
        },
        "error": {"anyOf": [error, {"type": "null"}]},
        "submitted": {"type": "boolean"},
        "snapshot_id": {"type": ["string", "null"], "description": "Reset to it with 'snapshot'."},
        "stdout": {"type": "string", "description": "What code printed."},
        "stderr": {"type": "string"},
        "calls": {"type": "array", "items": _code_call()},
        "done": {"type": "boolean"},
        "reward": {"type": ["number", "null"]},
        "metadata": _metadata(),
    }
    return _object("Observation", properties, ["done", "reward", "metadata"])


def _code_call() -> JsonObject:
    properties: JsonObject = {
        "tool": {"type": "string"},
        "arguments": {"type": "object"},
        "outcome": {"enum": ["answered", "denied", "failed"]},
        "is_error": {"type": "boolean"},
        "failure": {"type": "string"},
        "decision": {"type": ["object", "null"]},
    }
    return _object("CodeCall", properties, ["tool", "arguments", "outcome", "decision"])


def _metadata() -> JsonObject:
    reasons: list[JsonValue] = [reason.value for reason in DoneReason]
    properties: JsonObject = {
        "episode_id": {"type": "string"},
        "session_id": {"type": "string"},
        "step": {"type": "integer"},
        "policy": {"type": "object", "description": "The decision on a tool call."},
        "policy_file": {"type": ["string", "null"]},
        "policy_sha256": {"type": ["string", "null"]},
        "lock_sha256": {"type": "string"},
        "workspace_digest": {"type": ["string", "null"]},
        "origin": {"type": ["object", "null"], "description": "The step whose snapshot it started from."},
        "done_reason": {"enum": reasons},
        "truncated": {"type": "boolean", "description": "Whether the infrastructure ended the episode."},
        "truncated_reason": {"type": "string"},
        "rubric": {"type": "array", "items": {"type": "object"}},
        "step_rewards": {"type": "array", "items": {"type": "object"}},
        "events": {"type": "array", "items": {"type": "object"}},
    }
    return _object("Metadata", properties, [])


def _state() -> JsonObject:
    properties: JsonObject = {
        "episode_id": {"type": ["string", "null"]},
        "step_count": {"type": "integer", "minimum": 0},
        "task": {"type": ["string", "null"]},
        "done": {"type": "boolean"},
        "denials": {"type": "integer", "minimum": 0},
        "metadata": _metadata(),
    }
    return _object("State", properties, ["episode_id", "step_count"])
