"""The words of the environment contract: frames and bodies in, frames out. Translates, decides nothing.

    {"type":"reset","data":{seed?,episode_id?,task?,split?,index?}}  -> {"type":"observation","data":STEP}
    {"type":"step","data":ACTION}                                    -> {"type":"observation","data":STEP}
    {"type":"state"}                   -> {"type":"state","data":{episode_id,step_count,...}}
    {"type":"mcp","data":JSONRPC}      -> {"type":"mcp","data":JSONRPC}
    {"type":"close"}                   -> nothing; anything else -> {"type":"error","data":{message,code}}

`STEP` is `{observation,reward,done,metadata}`; HTTP bodies are the `data` of frames, a step's is
`{action,timeout_s?,request_id?}`.

Everything that arrives passes the strict JSON gate and one of these models; what does not fit is a
`WireError` that says where and leaves the session alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.core.episode import Action, CallTool, Code, ListTools, Snapshot, StepResult, Submit
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError, dumps, loads
from gateway.core.task_choice import NoSuchTask, ResetRequest
from gateway.errors import ClientError, LedgerError, SandgateError, TooManySessions
from gateway.runtime.snapshots import SnapshotElsewhere, UnknownSnapshot

__all__ = [
    "Close",
    "ErrorCode",
    "FieldsModel",
    "Frame",
    "Mcp",
    "Reset",
    "State",
    "Step",
    "StepBody",
    "WireError",
    "error_frame",
    "frame_text",
    "mcp_frame",
    "observation_frame",
    "parse_action",
    "parse_frame",
    "parse_reset",
    "parse_step_body",
    "state_frame",
    "validated",
]


class ErrorCode(StrEnum):
    """Codes of error frames. The last three are sent before the connection is closed."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"
    FACTORY_ERROR = "FACTORY_ERROR"
    SESSION_ERROR = "SESSION_ERROR"


class WireError(SandgateError):
    """What arrived is not of the contract; the session goes on. `errors` says where, entry by entry."""

    def __init__(self, code: ErrorCode, message: str, errors: list[JsonValue] | None = None) -> None:
        self.code = code
        self.errors = errors or []
        super().__init__(message)

    @classmethod
    def at(cls, place: str, message: str, kind: str) -> WireError:
        """Return that the field `place` does not fit, in the words of the models' own faults."""
        return cls(ErrorCode.VALIDATION_ERROR, message, [{"loc": [place], "msg": message, "type": kind}])


# -- what may arrive ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reset:
    """Start an episode."""

    wanted: ResetRequest


@dataclass(frozen=True, slots=True)
class Step:
    """Take a step."""

    action: Action


@dataclass(frozen=True, slots=True)
class State:
    """Tell the state."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the session."""


@dataclass(frozen=True, slots=True)
class Mcp:
    """A JSON-RPC message inside a frame."""

    message: JsonObject = field(default_factory=dict[str, JsonValue])


Frame: TypeAlias = Reset | Step | State | Close | Mcp

_Model = TypeVar("_Model", bound=BaseModel)
_Object: TypeAlias = dict[str, Any]
_MOST_OF_A_NAME = 255
_Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=_MOST_OF_A_NAME)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class FieldsModel(BaseModel):
    """Further fields are an environment's own affair, says the contract: ours has none and ignores them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class _Envelope(_Closed):
    type: str
    data: _Object = Field(default_factory=dict)


class _ResetData(FieldsModel):
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    episode_id: _Name | None = None
    task: _Name | None = None
    split: _Name | None = None
    index: Annotated[int, Field(ge=0)] | None = None
    snapshot: _Name | None = None


class _ListTools(_Closed):
    type: Literal["list_tools"]
    metadata: _Object = Field(default_factory=dict)


class _CallTool(_Closed):
    type: Literal["call_tool"] = "call_tool"
    tool_name: _Name
    arguments: _Object = Field(default_factory=dict)
    metadata: _Object = Field(default_factory=dict)


class _Submit(_Closed):
    type: Literal["submit"]
    answer: Any = None
    metadata: _Object = Field(default_factory=dict)


class _Code(_Closed):
    type: Literal["code"]
    code: str
    metadata: _Object = Field(default_factory=dict)


class _Snapshot(_Closed):
    type: Literal["snapshot"]
    metadata: _Object = Field(default_factory=dict)


class _StepData(FieldsModel):
    action: _Object
    timeout_s: Annotated[float, Field(gt=0, strict=False)] | None = None
    request_id: Annotated[str, Field(max_length=255)] | None = None


@dataclass(frozen=True, slots=True)
class StepBody:
    """The body of an HTTP step; `seconds` is how long the call may take."""

    action: Action
    seconds: float | None


def parse_frame(text: str, limits: JsonLimits) -> Frame:
    """Return what one text frame asks for; raises `WireError`."""
    try:
        value = loads(text, limits)
    except StrictJsonError as error:
        raise WireError(ErrorCode.INVALID_JSON, f"Invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise WireError(ErrorCode.VALIDATION_ERROR, f"a frame is a JSON object, not {_kind(value)}")
    kind = value.get("type", "")
    if not isinstance(kind, str) or kind not in _FRAMES:
        known = ", ".join(_FRAMES)
        raise WireError(
            ErrorCode.UNKNOWN_TYPE, f"Unknown message type: {str(kind)[:64]!r}; there are: {known}"
        )
    return _frame(kind, value)


_FRAMES = ("reset", "step", "state", "close", "mcp")


def _frame(kind: str, value: JsonObject) -> Frame:
    if kind in ("state", "close") and value.keys() != {"type"}:
        extra = next(name for name in value if name != "type")
        raise WireError.at(extra, f"a {kind!r} frame has no field but 'type'", "extra_forbidden")
    if kind in ("step", "mcp") and "data" not in value:
        raise WireError.at("data", f"a {kind!r} frame has 'data'", "missing")
    data = value.get("data")
    if type(data) is not dict or len(value) != 2:
        data = validated(_Envelope, value).data
    match kind:
        case "reset":
            return Reset(parse_reset(data))
        case "step":
            return Step(parse_action(data))
        case "mcp":
            return Mcp(data)
        case _:
            return State() if kind == "state" else Close()


def parse_reset(data: JsonObject) -> ResetRequest:
    """Return what a reset asks for; raises `WireError`."""
    return ResetRequest(**validated(_ResetData, data).model_dump())


def parse_action(data: JsonObject) -> Action:
    """Return an action; without a `type` it is a tool call, the contract's default. Raises `WireError`."""
    match data.get("type", "call_tool"):
        case "list_tools":
            validated(_ListTools, data)
            return ListTools()
        case "call_tool":
            return _plain_call(data) or _call(data)
        case "submit":
            return Submit(validated(_Submit, data).answer)
        case "code":
            return Code(validated(_Code, data).code)
        case "snapshot":
            validated(_Snapshot, data)
            return Snapshot()
        case other:
            known = "list_tools, call_tool, submit, code, snapshot"
            message = f"no action of type {str(other)[:64]!r} in this version; there are: {known}"
            raise WireError.at("type", message, "literal_error")


def _plain_call(data: JsonObject) -> CallTool | None:
    """Return what nearly every step is, told without a model; `None` leaves it to that to say what is odd."""
    name, arguments = data.get("tool_name"), data.get("arguments")
    if type(name) is not str or type(arguments) is not dict or not 0 < len(name) <= _MOST_OF_A_NAME:
        return None
    return CallTool(name, arguments) if len(data) == 2 + ("type" in data) else None


def _call(data: JsonObject) -> CallTool:
    call = validated(_CallTool, data)
    return CallTool(call.tool_name, call.arguments)


def parse_step_body(body: JsonObject) -> StepBody:
    """Return the body of an HTTP step; raises `WireError`."""
    step = validated(_StepData, body)
    return StepBody(parse_action(step.action), step.timeout_s)


def validated(model: type[_Model], value: JsonObject) -> _Model:
    """Return `value` as a model; raises `WireError` that says where it does not fit."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        entries: list[JsonValue] = [
            {"loc": list(fault["loc"]), "msg": fault["msg"], "type": fault["type"]} for fault in faults[:20]
        ]
        where = ".".join(str(step) for step in faults[0]["loc"])
        message = f"Invalid message: {where}: {faults[0]['msg']}"[:500]
        raise WireError(ErrorCode.VALIDATION_ERROR, message, entries) from None


def _kind(value: JsonValue) -> str:
    match value:
        case list():
            return "an array"
        case str():
            return "a string"
        case None:
            return "null"
        case _:
            return "a boolean" if isinstance(value, bool) else "a number"


# -- what is answered -----------------------------------------------------------------------------


def observation_frame(result: StepResult) -> str:
    """Return the answer to a reset or a step, as text."""
    return (b'{"type":"observation","data":%b}' % result.encoded()).decode()


def state_frame(state: JsonObject) -> JsonObject:
    """Return the answer to a state."""
    return {"type": "state", "data": state}


def mcp_frame(response: JsonObject) -> JsonObject:
    """Return the frame around a JSON-RPC response."""
    return {"type": "mcp", "data": response}


def error_frame(error: SandgateError) -> tuple[JsonObject, bool]:
    """Return the frame that tells an error, and whether the connection ends with it."""
    code = _code_of(error)
    data: JsonObject = {"message": str(error), "code": code.value}
    if isinstance(error, WireError) and error.errors:
        data["errors"] = error.errors
    if isinstance(error, TooManySessions):
        data |= {"retry_after": error.retry_after, "max_sessions": error.limit}
    if isinstance(error, SnapshotElsewhere):
        data["connect"] = f"?{error.query}"
    return {"type": "error", "data": data}, code in _FATAL


_FATAL = {ErrorCode.CAPACITY_REACHED, ErrorCode.FACTORY_ERROR, ErrorCode.SESSION_ERROR}


def _code_of(error: SandgateError) -> ErrorCode:
    match error:
        case WireError():
            return error.code
        case NoSuchTask() | UnknownSnapshot() | SnapshotElsewhere():
            return ErrorCode.VALIDATION_ERROR
        case TooManySessions():
            return ErrorCode.CAPACITY_REACHED
        case ClientError() | LedgerError():
            return ErrorCode.EXECUTION_ERROR
        case _:  # no sandbox, no workspace: there is nothing to go on with
            return ErrorCode.FACTORY_ERROR


def frame_text(frame: JsonObject) -> str:
    """Return a frame as text."""
    return dumps(frame).decode()
