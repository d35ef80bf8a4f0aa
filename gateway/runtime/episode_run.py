"""One episode as it runs: a session of the gateway, the task, and what came of each step.

Every tool call goes through `Gateway.call`, like everybody's. Nothing is decided here: the policy
judges calls, `gateway.core.episode` says when it is over, `gateway.core.rubric` what it is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from gateway.core.calls import Answered, Failed, FailureKind, Front, Outcome, ToolCall
from gateway.core.episode import (
    SUBMIT_TOOL,
    Action,
    CallTool,
    Ending,
    EpisodeState,
    ErrorType,
    ListTools,
    StepResult,
    Submit,
    call_observation,
    error_observation,
    policy_of,
    submit_definition,
    submitted_observation,
    tools_observation,
)
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.rubric import Reward, checks_of, reward_of
from gateway.core.tasks import Task
from gateway.runtime.checks import CheckFault, Checks
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id
from gateway.runtime.trajectories import TrajectoryWriter

__all__ = ["EpisodeRun"]

_SERVER_LOST = {FailureKind.CRASHED, FailureKind.START_FAILED}


@dataclass(frozen=True, slots=True)
class _Shown:
    """What an action brought to light, before the episode's own words are added."""

    observation: JsonObject
    metadata: JsonObject = field(default_factory=dict[str, JsonValue])
    reward: float | None = None


@dataclass(slots=True, eq=False)
class EpisodeRun:
    """One episode of one task (`None`: nothing asked, nothing scored) over a fresh session.

    `started` is when, on the monotonic clock; `trajectory` names its file, where there is a writer.
    """

    gateway: Gateway
    session: Session
    state: EpisodeState
    checks: Checks
    episode_id: str
    seed: int
    task: Task | None
    started: float
    trajectory: str
    writer: TrajectoryWriter | None = None

    # -- showing

    async def opened(self) -> StepResult:
        """Return what a reset shows: the task, and the digest that proves a pristine start."""
        task = self.task
        observation: JsonObject = {"prompt": task.prompt if task else None, "task": task.id if task else None}
        metadata = {**self._identity(), "workspace_digest": await self.session.workspace.digest()}
        return StepResult(observation, metadata)

    async def shown(self) -> JsonObject:
        """Return the episode's state, as the contract's `state` answers it."""
        state = self.state
        metadata = {**self._identity(), "workspace_digest": await self.session.workspace.digest()}
        return {
            "episode_id": self.episode_id,
            "step_count": state.steps,
            "task": self.task.id if self.task else None,
            "done": state.ending is not None,
            "denials": state.denials,
            "metadata": {**metadata, **(state.ending.metadata() if state.ending else {})},
        }

    def _identity(self) -> JsonObject:
        policy = self.session.pack.policy
        return {
            "session_id": self.session.id,
            "episode_id": self.episode_id,
            "task": self.task.id if self.task else None,
            "split": self.task.split if self.task else None,
            "seed": self.seed,
            "policy_file": policy.file,
            "policy_sha256": policy.sha256,
            "max_steps": self.state.limits.max_steps,
        }

    # -- stepping

    async def step(self, action: Action, seconds: float | None) -> StepResult:
        """Take one step, a call of which gets `seconds` at most.

        Raises `EpisodeOver`, `ShuttingDown`, `UnknownSession` (it was idle too long) or `LedgerError`.
        """
        number = self.state.begin()
        self.session.step = number
        shown = await self._in_time(action, seconds)
        result = await self._settled(shown, number)
        if self.writer is not None:
            await self.writer.append(self.trajectory, self._line(number, action, result))
        return result

    async def _in_time(self, action: Action, seconds: float | None) -> _Shown:
        """Take the action if the episode has time left, and no longer than that."""
        left = self._time_left()
        if left is not None and left <= 0:
            return _Shown(_too_late(action))
        bounds = [bound for bound in (seconds, left) if bound is not None]
        shown = await self._act(action, min(bounds, default=None))
        self._time_left()
        return shown

    def _time_left(self) -> float | None:
        return self.state.time_left(self.gateway.clock.monotonic() - self.started)

    async def _act(self, action: Action, seconds: float | None) -> _Shown:
        match action:
            case ListTools():
                return _Shown(tools_observation(self.tools()))
            case Submit(answer):
                self.state.submit(answer)
                return _Shown({"submitted": True})
            case CallTool(tool_name, arguments) if tool_name == SUBMIT_TOOL and self._offers_submit():
                self.state.submit(arguments.get("answer"))
                return _Shown(submitted_observation())
            case CallTool():
                return await self._call(action, seconds)

    async def _call(self, action: CallTool, seconds: float | None) -> _Shown:
        name = action.tool_name
        call = ToolCall(new_call_id(), name, action.arguments, Front.ENV)
        outcome: Outcome | None = None
        with anyio.move_on_after(seconds):
            outcome = await self.gateway.call(self.session, call)
        self._note_loss(outcome)
        if outcome is None:
            message = f"no answer within {seconds:g} s; the call may still have run"
            return _Shown(error_observation(name, ErrorType.TIMEOUT, message))
        reward = self.state.saw(name, outcome)
        if name == SUBMIT_TOOL and isinstance(outcome, Answered) and not outcome.result.get("isError"):
            self.state.submit(action.arguments.get("answer"))  # a submitting tool of the pack's own
        return _Shown(call_observation(name, outcome), {"policy": policy_of(outcome)}, reward)

    def _note_loss(self, outcome: Outcome | None) -> None:
        lost = self.session.failed
        if lost is None and isinstance(outcome, Failed) and outcome.kind in _SERVER_LOST:
            lost = outcome.message
        if lost is not None:
            self.state.fail(lost)

    def tools(self) -> list[JsonObject]:
        """Return the tools' MCP definitions as the policy shows them, with the one that submits."""
        offered = [submit_definition()] if self._offers_submit() else []
        return [*self.session.tools(), *offered]

    def _offers_submit(self) -> bool:
        """Whether the episode itself has a tool that submits; a pack's own tool of that name goes first."""
        served = self.session.pack
        return served.pack.manifest.env.submit and SUBMIT_TOOL not in served.catalog.tools

    # -- ending

    async def _settled(self, shown: _Shown, number: int) -> StepResult:
        metadata: JsonObject = {"episode_id": self.episode_id, "step": number, **shown.metadata}
        ending = self.state.settle()
        if ending is None:
            return StepResult(shown.observation, metadata, shown.reward)
        ending, scored = await self._conclude(ending)
        metadata |= ending.metadata()
        reward = shown.reward
        if scored is not None:
            metadata["rubric"] = scored.components
            reward = scored.reward + (shown.reward or 0.0)
        return StepResult(shown.observation, metadata, reward, done=True)

    async def _conclude(self, ending: Ending) -> tuple[Ending, Reward | None]:
        """Stop the servers, then score what they left, unless the infrastructure ended the episode."""
        await self.session.stop_servers()
        if ending.failure is not None or self.task is None:
            return ending, None
        checks = list(checks_of(self.task.rubric))
        try:
            scores = await self.checks.run(checks, self.session.workspace, self.state, self._told())
        except CheckFault as fault:
            return self.state.unscored(str(fault)), None
        reward_range = self.session.pack.pack.manifest.env.reward_range
        return ending, reward_of(self.task.rubric, scores, reward_range)

    def _told(self) -> JsonObject:
        """Return what the pack's own check scripts are told of the episode."""
        state = self.state
        answered: JsonObject = {**state.answered}
        return {
            "task": self.task.id if self.task else None,
            "seed": self.seed,
            "answer": state.answer,
            "steps": state.steps,
            "denials": state.denials,
            "answered": answered,
        }

    def _line(self, number: int, action: Action, result: StepResult) -> JsonObject:
        return {
            "ts": self.gateway.clock.now(),
            "pack": self.session.pack.name,
            "session_id": self.session.id,
            **self._identity(),
            "step": number,
            "action": _written(action),
            **result.wire(),
        }


def _written(action: Action) -> JsonObject:
    match action:
        case ListTools():
            return {"type": "list_tools"}
        case Submit(answer):
            return {"type": "submit", "answer": answer}
        case CallTool(tool_name, arguments):
            return {"type": "call_tool", "tool_name": tool_name, "arguments": arguments}


def _too_late(action: Action) -> JsonObject:
    name = action.tool_name if isinstance(action, CallTool) else ""
    shown = error_observation(name, ErrorType.TIMEOUT, "the episode's time is over; nothing was done")
    return shown if name else {"error": shown["error"]}
