"""One episode: what an action is, and when the episode is over.

Pure: no clock, files or network. It counts; it never decides what a call may do, and how things look
as observations is `gateway.core.observations`' business.

    begin ──> (an action -> saw | submit | time over) ──> settle ──> open again, or ended

A step counts once it is settled; an episode ends once. How it ended is an `Ending`: a task end
(`submitted`, `max_steps`, `max_denials`, `time_limit`) is scored, an infrastructure end
(`server_failed`, or checks that could not be run) is truncated and not scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from gateway.core.calls import Answered, Denied, Outcome
from gateway.core.decisions import Decision, DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps
from gateway.errors import ClientError

__all__ = [
    "Action",
    "CallTool",
    "Code",
    "DoneReason",
    "Ending",
    "EpisodeLimits",
    "EpisodeOver",
    "EpisodeState",
    "ListTools",
    "Snapshot",
    "StepResult",
    "Submit",
    "action_json",
]


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


@dataclass(frozen=True, slots=True)
class Code:
    """Run Python in the session's sandbox, with the tools as functions."""

    code: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Keep the workspace as it is now, for episodes to start from."""


Action: TypeAlias = ListTools | CallTool | Submit | Code | Snapshot


def action_json(action: Action) -> JsonObject:
    """Return an action in the form in which it is sent and recorded."""
    match action:
        case ListTools():
            return {"type": "list_tools"}
        case CallTool(tool_name, arguments):
            return {"type": "call_tool", "tool_name": tool_name, "arguments": arguments}
        case Submit(answer):
            return {"type": "submit", "answer": answer}
        case Code(code):
            return {"type": "code", "code": code}
        case Snapshot():
            return {"type": "snapshot"}


# -- what a step comes to -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a reset or a step shows; `reward` is `None` where nothing scored it."""

    observation: JsonObject
    metadata: JsonObject
    reward: float | None = None
    done: bool = False
    _encoded: bytes | None = field(default=None, init=False, compare=False, repr=False)

    def wire(self) -> JsonObject:
        """Return the contract's answer. `done`, `reward` and `metadata` also stand in the observation:
        typed clients read them there, generic ones beside it."""
        shared = self._shared()
        return {"observation": {**self.observation, **shared}, **shared}

    def encoded(self) -> bytes:
        """Return `wire()` as compact JSON. Made once, and of its parts: a client and a trajectory get the
        same, and what stands in it twice is large."""
        if self._encoded is None:
            object.__setattr__(self, "_encoded", self._encode())
        assert self._encoded is not None
        return self._encoded

    def _shared(self) -> JsonObject:
        return {"reward": self.reward, "done": self.done, "metadata": self.metadata}

    def _encode(self) -> bytes:
        observation, shared = self.observation, self._shared()
        if not observation or not shared.keys().isdisjoint(observation):
            return dumps(self.wire())
        told = dumps(shared)[1:]
        return b'{"observation":%b,%b,%b' % (dumps(observation)[:-1], told, told)


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

    @property
    def over(self) -> bool:
        """Whether nothing more may be called: it has ended, or will when the step is settled."""
        most = self.limits.max_denials
        return self.ending is not None or (most is not None and self.denials >= most)

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
