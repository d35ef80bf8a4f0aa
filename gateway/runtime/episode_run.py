"""One episode as it runs: a session of the gateway, the task, and what came of each step.

Nothing is decided here: the policy judges calls (`gateway.runtime.episode_calls` makes them),
`gateway.core.episode` says when it is over, `gateway.runtime.scoring` what it is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gateway.core.calls import Front
from gateway.core.episode import (
    Action,
    CallTool,
    Code,
    Ending,
    EpisodeState,
    ListTools,
    Snapshot,
    StepResult,
    Submit,
    action_json,
)
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.observations import (
    ErrorType,
    call_observation,
    error_observation,
    policy_of,
    submitted_observation,
    told_error,
    tools_observation,
)
from gateway.core.policy import CompiledPolicy
from gateway.core.rubric import Reward
from gateway.core.strict_json import dumps
from gateway.core.tasks import Task
from gateway.errors import SandboxError
from gateway.runtime.checks import CheckFault
from gateway.runtime.episode_calls import EpisodeCalls
from gateway.runtime.episode_code import EpisodeCode
from gateway.runtime.episode_events import EpisodeEvents
from gateway.runtime.gateway import Gateway
from gateway.runtime.programs import ProgramFault
from gateway.runtime.scoring import Scoring
from gateway.runtime.sessions import Session
from gateway.runtime.snapshots import Origin, Snapshots
from gateway.runtime.trajectories import TrajectoryWriter

__all__ = ["EpisodeRun"]


@dataclass(frozen=True, slots=True)
class _Shown:
    """What an action brought to light, before the episode's own words are added."""

    observation: JsonObject
    metadata: JsonObject = field(default_factory=dict[str, JsonValue])


@dataclass(slots=True, eq=False)
class EpisodeRun:
    """One episode of one task (`None`: nothing asked, nothing scored) over a fresh session.

    `started` is when, on the monotonic clock; `trajectory` names its file, where there is a writer.
    """

    gateway: Gateway
    session: Session
    state: EpisodeState
    calls: EpisodeCalls
    code: EpisodeCode
    events: EpisodeEvents
    scoring: Scoring
    episode_id: str
    seed: int
    task: Task | None
    started: float
    trajectory: str
    snapshots: Snapshots
    origin: Origin | None = None
    writer: TrajectoryWriter | None = None
    _known: tuple[CompiledPolicy, bytes] | None = None

    # -- showing

    async def opened(self) -> StepResult:
        """Return what a reset shows: the task, and the digest that proves a pristine start."""
        task = self.task
        observation: JsonObject = {"prompt": task.prompt if task else None, "task": task.id if task else None}
        metadata = {**self._identity(), "workspace_digest": await self._digest()}
        return StepResult(observation, metadata)

    async def shown(self) -> JsonObject:
        """Return the episode's state, as the contract's `state` answers it."""
        state = self.state
        metadata = {**self._identity(), "workspace_digest": await self._digest()}
        return {
            "episode_id": self.episode_id,
            "step_count": state.steps,
            "task": self.task.id if self.task else None,
            "done": state.ending is not None,
            "denials": state.denials,
            "metadata": {**metadata, **(state.ending.metadata() if state.ending else {})},
        }

    async def _digest(self) -> str | None:
        """Return the workspace's digest, `None` where the agent left what nobody can read to its end."""
        try:
            return await self.session.workspace.digest()
        except SandboxError:
            return None

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
            "lock_sha256": self.session.pack.lock_sha256,
            "max_steps": self.state.limits.max_steps,
            "origin": self.origin and {"trajectory": self.origin.trajectory, "step": self.origin.step},
        }

    # -- stepping

    async def step(self, action: Action, seconds: float | None) -> StepResult:
        """Take one step, a call or code of which gets `seconds` at most.

        Raises `EpisodeOver`, `ShuttingDown`, `UnknownSession` (it was idle too long) or `LedgerError`.
        """
        number = self.state.begin()
        self.calls.begin(number)
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
        try:
            happened = await self.events.before(self.state.steps + 1, tuple(self.state.answered))
        except ProgramFault as fault:
            self.state.fail(str(fault))
            return _Shown({"error": told_error(ErrorType.TRANSPORT_ERROR, str(fault))})
        bounds = [bound for bound in (seconds, left) if bound is not None]
        shown = await self._act(action, min(bounds, default=None))
        self._time_left()
        return replace(shown, metadata={**shown.metadata, "events": happened}) if happened else shown

    def _time_left(self) -> float | None:
        return self.state.time_left(self.gateway.clock.monotonic() - self.started)

    async def _act(self, action: Action, seconds: float | None) -> _Shown:
        match action:
            case ListTools():
                return _Shown(tools_observation(self.tools()))
            case Submit(answer):
                self.state.submit(answer)
                return _Shown({"submitted": True})
            case CallTool(tool_name, arguments) if self.calls.submits(tool_name):
                self.state.submit(arguments.get("answer"))
                return _Shown(submitted_observation())
            case CallTool():
                return await self._call(action, seconds)
            case Code(code):
                return _Shown(await self.code.run(code, seconds))
            case Snapshot():
                return await self._snapshot()

    async def _call(self, action: CallTool, seconds: float | None) -> _Shown:
        name = action.tool_name
        outcome, _ = await self.calls.call(name, action.arguments, Front.ENV, seconds)
        return _Shown(call_observation(name, outcome), {"policy": policy_of(outcome)})

    async def _snapshot(self) -> _Shown:
        """Keep the workspace. One that cannot be kept is told, and the episode goes on."""
        task, origin = self.task and self.task.id, Origin(self.trajectory, self.state.steps + 1)
        try:
            kept = await self.snapshots.take(self.session, task=task, seed=self.seed, origin=origin)
        except SandboxError as error:
            return _Shown({"snapshot_id": None, "error": told_error(ErrorType.EXECUTION_ERROR, str(error))})
        return _Shown({"snapshot_id": kept.id, "error": None}, {"workspace_digest": kept.files.digest})

    def tools(self) -> list[JsonObject]:
        """Return the tools' MCP definitions as the policy shows them, with the one that submits."""
        return self.calls.tools()

    # -- ending

    async def _settled(self, shown: _Shown, number: int) -> StepResult:
        metadata: JsonObject = {"episode_id": self.episode_id, "step": number, **shown.metadata}
        ending = self.state.settle()
        earned, told = await self._earned(ending)
        metadata |= told
        ending = self.state.ending
        if ending is None:
            return StepResult(shown.observation, metadata, earned)
        ending, scored = await self._conclude(ending)
        metadata |= ending.metadata()
        if scored is not None:
            metadata["rubric"] = scored.components
            earned = scored.reward + (earned or 0.0)
        return StepResult(shown.observation, metadata, earned, done=True)

    async def _earned(self, ending: Ending | None) -> tuple[float | None, JsonObject]:
        """Return the step's own reward and what is told of it: denials cost, the task may pay."""
        reward = self.calls.reward
        if ending is not None and ending.failure is not None:
            return reward, {}
        try:
            paid = await self.scoring.of_step()
        except CheckFault as fault:
            self.state.unscored(str(fault))
            return reward, {}
        if paid is None:
            return reward, {}
        return paid[0] + (reward or 0.0), {"step_rewards": paid[1]} if paid[1] else {}

    async def _conclude(self, ending: Ending) -> tuple[Ending, Reward | None]:
        """Stop the servers, then score what they left, unless the infrastructure ended the episode."""
        await self.session.stop_servers()
        if ending.failure is not None:
            return ending, None
        try:
            return ending, await self.scoring.final()
        except CheckFault as fault:
            return self.state.unscored(str(fault)), None

    def _line(self, number: int, action: Action, result: StepResult) -> bytes:
        """Return a line of the trajectory: whose step it is, then the answer as the client gets it."""
        asked = self._asked() if number == 1 else {}
        step = dumps({**asked, "step": number, "action": action_json(action)})[1:-1]
        now = dumps(self.gateway.clock.now())
        return b'{"ts":%b,%b,%b,%b' % (now, self._whose(), step, result.encoded()[1:])

    def _whose(self) -> bytes:
        """Return the fields that every line begins with. Encoded again only where the policy is another."""
        policy = self.session.pack.policy
        if self._known is None or self._known[0] is not policy:
            fields: JsonObject = {"pack": self.session.pack.name, **self._identity()}
            self._known = (policy, dumps(fields)[1:-1])
        return self._known[1]

    def _asked(self) -> JsonObject:
        """Return what an agent is given, which the first line of a trajectory tells those who train on it."""
        return {"prompt": self.task.prompt if self.task else None, **tools_observation(self.tools())}


def _too_late(action: Action) -> JsonObject:
    message = "the episode's time is over; nothing was done"
    if isinstance(action, CallTool):
        return error_observation(action.tool_name, ErrorType.TIMEOUT, message)
    return {"error": told_error(ErrorType.TIMEOUT, message)}
