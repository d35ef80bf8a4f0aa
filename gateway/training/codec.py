"""The protocol without a socket: what is sent for each request, and how its answer is read.

Both clients are thin transports around this. Pure: no network, no clock, no state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps
from gateway.training.errors import (
    CapacityReached,
    EnvError,
    EpisodeUnavailable,
    InvalidRequest,
    ProtocolBroken,
    ServerFailed,
    SnapshotElsewhere,
    SnapshotFailed,
)
from gateway.training.results import (
    Action,
    DoneReason,
    EpisodeStatus,
    ResetResult,
    StepResult,
    Tool,
    ToolError,
)

__all__ = [
    "CLOSE_FRAME",
    "LIST_TOOLS",
    "Exchange",
    "call_action",
    "call_exchange",
    "code_exchange",
    "reset_exchange",
    "snapshot_exchange",
    "socket_url",
    "state_exchange",
    "step_exchange",
    "submit_action",
    "submit_exchange",
    "tools_exchange",
    "tools_in",
]

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Exchange(Generic[_Answer]):
    """One request: the frame to send, and the reader of the one frame that answers it.

    The reader raises an `EnvError`: what the server said is wrong, or what is wrong with its answer.
    """

    frame: bytes
    read: Callable[[str | bytes], _Answer]


CLOSE_FRAME = dumps({"type": "close"})
LIST_TOOLS: Action = {"type": "list_tools"}

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def socket_url(url: str, pack: str | None = None) -> str:
    """Return the WebSocket's address from a server's, a pack's (`.../packs/git`) or its own.

    `pack` is needed where a server has several and `url` names none. Raises `InvalidRequest`.
    """
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise InvalidRequest(f"{url!r} is no address: write http://HOST:PORT, as `sandgate serve` prints it")
    path = parts.path.rstrip("/").removesuffix("/ws")
    if pack is not None and "/packs/" not in path:
        path += f"/packs/{pack}"
    return urlunsplit((scheme, parts.netloc, f"{path}/ws", "", ""))


# -- requests -------------------------------------------------------------------------------------


def call_action(tool: str, arguments: JsonObject) -> Action:
    """Return the action that calls a tool."""
    return {"type": "call_tool", "tool_name": tool, "arguments": arguments}


def submit_action(answer: JsonValue) -> Action:
    """Return the action that ends the episode."""
    return {"type": "submit", "answer": answer}


def reset_exchange(**wanted: str | int | None) -> Exchange[ResetResult]:
    """Ask for another episode; what is `None` is left to the server. Raises `InvalidRequest`."""
    data: JsonObject = {name: value for name, value in wanted.items() if value is not None}
    return Exchange(_frame("reset", data), _read_reset)


def step_exchange(action: Action) -> Exchange[StepResult]:
    """Ask for a step. Raises `InvalidRequest` for an action that is not JSON."""
    return Exchange(_frame("step", {**action}), _read_step)


def call_exchange(tool: str, arguments: JsonObject | None) -> Exchange[StepResult]:
    """Ask for the step that calls a tool. Raises `InvalidRequest`."""
    return step_exchange(call_action(tool, arguments or {}))


def submit_exchange(answer: JsonValue) -> Exchange[StepResult]:
    """Ask for the last step. Raises `InvalidRequest`."""
    return step_exchange(submit_action(answer))


def code_exchange(code: str) -> Exchange[StepResult]:
    """Ask for the step that runs code."""
    return step_exchange({"type": "code", "code": code})


def snapshot_exchange() -> Exchange[str]:
    """Ask for a snapshot's id; its reader also raises `SnapshotFailed`."""
    return Exchange(_frame("step", {"type": "snapshot"}), lambda text: _snapshot_in(_read_step(text)))


def tools_exchange() -> Exchange[tuple[Tool, ...]]:
    """Ask for the tools."""
    return Exchange(_frame("step", {**LIST_TOOLS}), lambda text: tools_in(_read_step(text)))


def state_exchange() -> Exchange[EpisodeStatus]:
    """Ask how the episode stands."""
    return Exchange(dumps({"type": "state"}), _read_state)


def _frame(kind: str, data: JsonObject) -> bytes:
    try:
        return dumps({"type": kind, "data": data})
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"a {kind} is JSON, and this is not: {error}") from None


# -- answers --------------------------------------------------------------------------------------


def _read_reset(text: str | bytes) -> ResetResult:
    data = _data(text, "observation")
    observation, metadata = _object(data, "observation"), _metadata(data)
    return ResetResult(
        observation=observation,
        prompt=_text_or_none(observation, "prompt"),
        task=_text_or_none(observation, "task"),
        seed=_optional(metadata, "seed", int),
        session_id=_text_or_none(metadata, "session_id") or "",
        episode_id=_text_or_none(metadata, "episode_id") or "",
        workspace_digest=_text_or_none(metadata, "workspace_digest"),
        metadata=metadata,
    )


def _read_step(text: str | bytes) -> StepResult:
    data = _data(text, "observation")
    observation, metadata = _object(data, "observation"), _metadata(data)
    reason, policy = _text_or_none(metadata, "done_reason"), metadata.get("policy")
    return StepResult(
        observation=observation,
        reward=_number_or_none(data, "reward"),
        done=_flag(data, "done"),
        truncated=_flag(metadata, "truncated"),
        done_reason=None if reason is None else _word(DoneReason, reason),
        decision=_decision(policy) if isinstance(policy, dict) else None,
        error=_tool_error(observation.get("error")),
        metadata=metadata,
    )


def _read_state(text: str | bytes) -> EpisodeStatus:
    data = _data(text, "state")
    metadata = _metadata(data)
    return EpisodeStatus(
        episode_id=_text_or_none(data, "episode_id"),
        step_count=_optional(data, "step_count", int) or 0,
        task=_text_or_none(data, "task"),
        done=_flag(data, "done"),
        denials=_optional(data, "denials", int) or 0,
        workspace_digest=_text_or_none(metadata, "workspace_digest"),
        metadata=metadata,
    )


def tools_in(result: StepResult) -> tuple[Tool, ...]:
    """Return the tools that a `list_tools` step showed; raises `ProtocolBroken`."""
    listed = result.observation.get("tools")
    if not isinstance(listed, list):
        _broken("a list_tools step without 'tools'")
    return tuple(_tool(entry) for entry in listed)


def _snapshot_in(result: StepResult) -> str:
    snapshot = _text_or_none(result.observation, "snapshot_id")
    if snapshot is None:
        raise SnapshotFailed(result.error.message if result.error else "no snapshot was taken")
    return snapshot


def _tool(entry: JsonValue) -> Tool:
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        _broken("a tool without a name")
    return Tool(name, _text_or_none(entry, "description") or "", _object(entry, "input_schema"))


def _tool_error(error: JsonValue) -> ToolError | None:
    if not isinstance(error, dict):
        return None
    return ToolError(_text_or_none(error, "error_type") or "", _text_or_none(error, "message") or "")


def _decision(wire: JsonObject) -> Decision:
    return Decision(
        effect=_word(Effect, _text_or_none(wire, "effect") or ""),
        code=_word(DecisionCode, _text_or_none(wire, "code") or ""),
        reason=_text_or_none(wire, "reason") or "",
        rule=_text_or_none(wire, "rule"),
        policy=_text_or_none(wire, "policy"),
        line=_optional(wire, "line", int),
        policy_sha256=_text_or_none(wire, "policy_sha256"),
        call_id=_text_or_none(wire, "call_id") or "",
    )


# -- error frames ---------------------------------------------------------------------------------

_ERRORS: dict[str, type[EnvError]] = {
    "INVALID_JSON": InvalidRequest,
    "UNKNOWN_TYPE": InvalidRequest,
    "VALIDATION_ERROR": InvalidRequest,
    "EXECUTION_ERROR": EpisodeUnavailable,
    "FACTORY_ERROR": ServerFailed,
    "SESSION_ERROR": ServerFailed,
}


def _said(data: JsonObject) -> EnvError:
    """Return the error that an error frame tells."""
    code, message = _text_or_none(data, "code") or "", _text_or_none(data, "message") or "no reason given"
    if code == "CAPACITY_REACHED":
        return CapacityReached(message, code, _number_or_none(data, "retry_after") or 5.0)
    if "connect" in data:
        return SnapshotElsewhere(message, code)
    return _ERRORS.get(code, ServerFailed)(message, code)


# -- reading --------------------------------------------------------------------------------------


def _data(text: str | bytes, kind: str) -> JsonObject:
    """Return the data of an answer of this kind; raises what an error frame says."""
    try:
        frame: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolBroken(f"the server's answer is not JSON: {error}") from None
    if not isinstance(frame, dict):
        _broken("a frame that is no object")
    answer = cast("JsonObject", frame)
    data = _object(answer, "data")
    if answer.get("type") == "error":
        raise _said(data)
    if answer.get("type") != kind:
        _broken(f"a frame of type {str(answer.get('type'))[:64]!r} where {kind!r} was due")
    return data


def _metadata(data: JsonObject) -> JsonObject:
    """Return the metadata beside an observation, or in it, as other servers of the contract have it."""
    for place in (data, data.get("observation")):
        if isinstance(place, dict) and isinstance(found := place.get("metadata"), dict):
            return found
    return {}


def _object(data: JsonObject, name: str) -> JsonObject:
    value = data.get(name)
    return value if isinstance(value, dict) else _broken(f"{name!r} is no object")


def _flag(data: JsonObject, name: str) -> bool:
    return _optional(data, name, bool) or False


def _text_or_none(data: JsonObject, name: str) -> str | None:
    return _optional(data, name, str)


def _number_or_none(data: JsonObject, name: str) -> float | None:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        _broken(f"{name!r} is no number")
    return None if value is None else float(value)


_Kind = TypeVar("_Kind", bool, int, str)


def _optional(data: JsonObject, name: str, kind: type[_Kind]) -> _Kind | None:
    value = data.get(name)
    if value is None or type(value) is kind:
        return cast("_Kind | None", value)
    return _broken(f"{name!r} is not of type {kind.__name__}")


_Word = TypeVar("_Word", DoneReason, Effect, DecisionCode)


def _word(kind: type[_Word], value: str) -> _Word:
    try:
        return kind(value)
    except ValueError:
        return _broken(f"a {kind.__name__} {value[:64]!r} that this version does not know")


def _broken(what: str) -> NoReturn:
    raise ProtocolBroken(f"the server's answer has {what}: is it sandgate, and of this version?")
