"""One episode: what an action is, how an outcome looks as an observation, when the episode is over.

Pure: no clock, files or network. It counts and shows; it never decides what a call may do.

    begin ──> (list_tools | call -> saw | submit | time over) ──> settle ──> open again, or ended

A step counts once it is settled; an episode ends once. How it ended is an `Ending`: a task end
(`submitted`, `max_steps`, `max_denials`, `time_limit`) is scored, an infrastructure end
(`server_failed`, or checks that could not be run) is truncated and not scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias, cast

from gateway.core.calls import Answered, Denied, Failed, FailureKind, Outcome, ServerError
from gateway.core.decisions import Decision, DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import tool_result
from gateway.errors import ClientError

__all__ = [
    "SUBMIT_TOOL",
    "Action",
    "CallTool",
    "DoneReason",
    "Ending",
    "EpisodeLimits",
    "EpisodeOver",
    "EpisodeState",
    "ErrorType",
    "ListTools",
    "StepResult",
    "Submit",
    "call_observation",
    "error_observation",
    "policy_of",
    "submit_definition",
    "submitted_observation",
    "tools_observation",
]

SUBMIT_TOOL = "submit"
"""The tool that submits, where the pack offers it (manifest: `env.submit`)."""


# -- actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListTools:
    """Show the tools as the policy shows them."""


@dataclass(frozen=True, slots=True)
class CallTool:
    """Call one tool; `arguments` passed the strict gate and are not yet judged."""

    tool_name: str
    arguments: JsonObject


@dataclass(frozen=True, slots=True)
class Submit:
    """End the episode with an answer (`None` where the task asks for none)."""

    answer: JsonValue = None


Action: TypeAlias = ListTools | CallTool | Submit


# -- observations ---------------------------------------------------------------------------------


class ErrorType(StrEnum):
    """Why a call brought no result, in the words of the environment contract."""

    EXECUTION_ERROR = "execution_error"
    INVALID_ARGS = "invalid_args"
    TRANSPORT_ERROR = "transport_error"
    TOOL_NOT_FOUND = "tool_not_found"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a reset or a step shows; `reward` is `None` where nothing scored it."""

    observation: JsonObject
    metadata: JsonObject
    reward: float | None = None
    done: bool = False

    def wire(self) -> JsonObject:
        """Return the contract's answer. `done`, `reward` and `metadata` also stand in the observation:
        typed clients read them there, generic ones beside it."""
        shared: JsonObject = {"reward": self.reward, "done": self.done, "metadata": self.metadata}
        return {"observation": {**self.observation, **shared}, **shared}


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
    error: JsonObject = {"error_type": kind.value, "message": message}
    return {"tool_name": tool_name, "result": None, "error": error}


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
        "data": structured if structured is not None else _joined_text(content),
        "is_error": bool(result.get("isError", False)),
        "meta": result.get("_meta"),
    }


def _joined_text(content: JsonValue) -> str:
    blocks = (
        cast("list[JsonObject]", [b for b in content if isinstance(b, dict)])
        if isinstance(content, list)
        else []
    )
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))


# -- the episode ----------------------------------------------------------------------------------


class DoneReason(StrEnum):
    """Why an episode is over; part of the public contract."""

    SUBMITTED = "submitted"
    MAX_STEPS = "max_steps"
    MAX_DENIALS = "max_denials"
    TIME_LIMIT = "time_limit"
    SERVER_FAILED = "server_failed"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an episode ended. `failure` is set where the infrastructure ended it: nothing to score."""

    reason: DoneReason
    failure: str | None = None

    def metadata(self) -> JsonObject:
        """Return what an observation says of it."""
        said: JsonObject = {"done_reason": self.reason.value, "truncated": self.failure is not None}
        return said if self.failure is None else {**said, "truncated_reason": self.failure}


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """When an episode is over at the latest, and the reward of a denial; `None` is no limit."""

    max_steps: int | None = None
    max_denials: int | None = None
    seconds: float | None = None
    penalty: float = 0.0


class EpisodeOver(ClientError):
    """A step after the end; the episode keeps its score, a reset opens the next one."""

    status = 409

    def __init__(self, reason: DoneReason) -> None:
        super().__init__(f"the episode is over ({reason.value}): reset to start another")


@dataclass(slots=True)
class EpisodeState:
    """Counts of one episode and how it ended; the rubric is judged on it.

    `answered` holds, by tool, how many calls its server answered without an error of the tool's own.
    """

    limits: EpisodeLimits
    steps: int = 0
    denials: int = 0
    answered: dict[str, int] = field(default_factory=dict[str, int])
    answer: JsonValue = None
    ending: Ending | None = None

    def begin(self) -> int:
        """Return the number of the step about to be taken, from 1. Raises `EpisodeOver`."""
        if self.ending is not None:
            raise EpisodeOver(self.ending.reason)
        return self.steps + 1

    def saw(self, tool_name: str, outcome: Outcome) -> float | None:
        """Take note of a call's outcome and return the step's own reward: the penalty of a denial."""
        match outcome:
            case Answered(_, result) if not result.get("isError"):
                self.answered[tool_name] = self.answered.get(tool_name, 0) + 1
            case Denied(decision) if _is_refusal(decision):
                self.denials += 1
                return self.limits.penalty
            case _:
                pass
        return None

    def submit(self, answer: JsonValue) -> None:
        """End with an answer."""
        self.answer = answer
        self.ending = Ending(DoneReason.SUBMITTED)

    def time_left(self, elapsed: float) -> float | None:
        """Return how many seconds are left, `None` without a limit; ends the episode if none are."""
        if self.limits.seconds is None:
            return None
        left = self.limits.seconds - elapsed
        if left <= 0 and self.ending is None:
            self.ending = Ending(DoneReason.TIME_LIMIT)
        return left

    def fail(self, reason: str) -> None:
        """End because a tool server was lost; what it held cannot be brought back."""
        self.ending = Ending(DoneReason.SERVER_FAILED, failure=reason)

    def settle(self) -> Ending | None:
        """Count a step that was taken, apply the limits, return the ending if the episode is over."""
        self.steps += 1
        if self.ending is None:
            self.ending = self._limit_reached()
        return self.ending

    def unscored(self, reason: str) -> Ending:
        """Return the ending of an episode whose checks could not be run, and keep it."""
        was = self.ending.reason if self.ending else DoneReason.SERVER_FAILED
        self.ending = Ending(was, failure=reason)
        return self.ending

    def _limit_reached(self) -> Ending | None:
        limits = self.limits
        if limits.max_denials is not None and self.denials >= limits.max_denials:
            return Ending(DoneReason.MAX_DENIALS)
        if limits.max_steps is not None and self.steps >= limits.max_steps:
            return Ending(DoneReason.MAX_STEPS)
        return None


def _is_refusal(decision: Decision) -> bool:
    """Whether the policy refused the agent: a name no tool has is a slip, a full disk nobody's fault."""
    return decision.code not in {DecisionCode.UNKNOWN_TOOL, DecisionCode.AUDIT_UNAVAILABLE}
