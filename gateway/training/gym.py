"""Gymnasium environments: `sandgate/<pack>-v0`. The only module that imports gymnasium (extra `gymnasium`).

An action is the JSON text of an environment action, an observation is text: what a model writes and reads.
"""

# gymnasium is not installed where this is type-checked.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUntypedBaseClass=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from typing import Any, cast

import gymnasium

from gateway.core.json_types import JsonObject
from gateway.core.strict_json import dumps
from gateway.training.env import Env
from gateway.training.errors import InvalidRequest
from gateway.training.own_gateway import OwnGateway
from gateway.training.results import Action, DoneReason, StepResult, Tool

__all__ = ["ActionText", "AnyText", "SandgateEnv", "register_pack"]

_MAX_TEXT = 1_000_000
_TASK_ENDS = {DoneReason.SUBMITTED, DoneReason.MAX_DENIALS}
"""Ends that are part of the task; any other cuts the episode off."""
_TRUNCATION_MARK = "\n[cut]"


def register_pack(name: str, pack: str | None = None) -> str:
    """Register `sandgate/<name>-v0` and return that id; `pack` is a folder, where `name` is not bundled."""
    spec = f"sandgate/{name}-v0"
    if spec not in gymnasium.registry:
        gymnasium.register(
            spec, entry_point="gateway.training.gym:SandgateEnv", kwargs={"pack": name, "folder": pack}
        )
    return spec


class AnyText(gymnasium.spaces.Text):
    """Any Unicode text of up to `max_length` characters; samples are printable ASCII."""

    def __init__(self, max_length: int = _MAX_TEXT, *, seed: Any = None) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is such a text."""
        return isinstance(x, str) and len(x) <= self.max_length


class ActionText(AnyText):
    """JSON texts of actions. Any text is taken, for models write what they write; samples are calls."""

    def __init__(self, tools: tuple[Tool, ...] = (), *, seed: Any = None) -> None:
        self.tools = tools
        super().__init__(seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return the call of a random tool, with the strings its schema requires drawn at random."""
        if mask is not None or probability is not None:
            return super().sample(mask, probability)
        if not self.tools:
            return '{"type":"list_tools"}'
        tool = self.tools[int(self.np_random.integers(len(self.tools)))]
        return dumps(
            {"type": "call_tool", "tool_name": tool.name, "arguments": self._arguments(tool)}
        ).decode()

    def _arguments(self, tool: Tool) -> JsonObject:
        required = tool.input_schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        letters = list(string.ascii_lowercase)
        return {name: "".join(self.np_random.choice(letters, size=6)) for name in names}


class SandgateEnv(gymnasium.Env):
    """A pack as a Gymnasium environment.

    `url` is a served gateway (`token` for one with an auth file); without it one of its own is started,
    with `serve` as further arguments of `sandgate serve`, and ended with the environment. `task`, `split`
    and `index` choose the task unless a reset's `options` do. `last` is the last step as the wire tells it.

    Rewards that are `null` on the wire are 0. Submitting and `max_denials` terminate; limits of steps and
    time and a lost server truncate. A text that is no action is answered as such, and counts as a step.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium's own convention

    def __init__(
        self,
        pack: str,
        *,
        folder: str | None = None,
        url: str | None = None,
        token: str | None = None,
        task: str | None = None,
        split: str | None = None,
        index: int | None = None,
        serve: tuple[str, ...] = (),
        timeout: float = 120.0,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._chosen: dict[str, Any] = {"task": task, "split": split, "index": index}
        self._own = OwnGateway(folder or pack, arguments=serve) if url is None else None
        try:
            self._env = Env(self._own.url if self._own else str(url), pack, token=token, timeout=timeout)
            self.action_space = ActionText(self._listed())
        except BaseException:
            self.close()
            raise
        self.observation_space = AnyText()
        self.last: StepResult | None = None
        self._shown = ""
        self._steps = 0
        self._max_steps: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, JsonObject]:
        """Start an episode; `options` may hold `task`, `split` and `index`. The observation is the prompt.

        The episode's own seed is drawn from the environment's generator, as `seed` set it.
        """
        super().reset(seed=seed)
        chosen = {**self._chosen, **(options or {})}
        start = self._env.reset(**chosen, seed=int(self.np_random.integers(2**32)))
        limit = start.metadata.get("max_steps")
        self.last, self._steps = None, 0
        self._max_steps = limit if isinstance(limit, int) else None
        info: JsonObject = {
            "task": start.task,
            "seed": start.seed,
            "workspace_digest": start.workspace_digest,
        }
        return self._show(start.prompt or ""), info

    def step(self, action: str) -> tuple[str, float, bool, bool, JsonObject]:
        """Take the step that `action`, the JSON text of one, asks for."""
        self._steps += 1
        try:
            result = self._env.step(_action(action))
        except InvalidRequest as error:
            return self._mistaken(str(error))
        return self._told(result, self._limit_reached(result))

    def render(self) -> str | None:
        """Return what was last shown, in mode `ansi`."""
        return self._shown if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End the episode, and the gateway if it is this environment's own. Idempotent."""
        if (env := getattr(self, "_env", None)) is not None:
            env.close()
        if self._own is not None:
            self._own.close()

    def _listed(self) -> tuple[Tool, ...]:
        """Return the tools, asked for in an episode that is given up again."""
        self._env.reset(**self._chosen)
        return self._env.tools()

    def _mistaken(self, why: str) -> tuple[str, float, bool, bool, JsonObject]:
        """Answer a text that is no action. The server never sees it, so its limit is kept here."""
        ended = self._limit_reached(None)
        if ended is not None:
            return self._told(ended, ended)
        return (
            self._show(f"not an action: {why}"),
            0.0,
            False,
            False,
            {"error": {"error_type": "invalid_args"}},
        )

    def _limit_reached(self, result: StepResult | None) -> StepResult | None:
        """Return the end of an episode whose steps, the mistaken ones included, are used up."""
        if result is not None and result.done:
            return None
        if self._max_steps is None or self._steps < self._max_steps:
            return None
        return self._env.submit()

    def _told(
        self, result: StepResult, ended: StepResult | None
    ) -> tuple[str, float, bool, bool, JsonObject]:
        end = ended or result
        self.last = end
        reward = sum(step.reward or 0.0 for step in {id(result): result, id(end): end}.values())
        terminated = end.done and ended is None and end.done_reason in _TASK_ENDS and not end.truncated
        info = _info(result, end, DoneReason.MAX_STEPS if ended else end.done_reason)
        return self._show(result.text), float(reward), terminated, end.done and not terminated, info

    def _show(self, text: str) -> str:
        too_long = len(text) > _MAX_TEXT
        self._shown = text[: _MAX_TEXT - len(_TRUNCATION_MARK)] + _TRUNCATION_MARK if too_long else text
        return self._shown


def _action(text: str) -> Action:
    try:
        value: Any = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise InvalidRequest("an action is a JSON object")
    return cast("Action", value)


def _info(result: StepResult, end: StepResult, reason: DoneReason | None) -> JsonObject:
    """Return what a step's info tells: nothing that differs between two equal episodes, so no ids."""
    info: JsonObject = {}
    if result.decision is not None:
        info["decision"] = {
            name: value for name, value in result.decision.wire().items() if name != "call_id"
        }
    if result.error is not None:
        info["error"] = {"error_type": result.error.error_type, "message": result.error.message}
    if end.done:
        info |= {"done_reason": reason.value if reason else None, "rubric": [*end.rubric]}
    if end.truncated:
        info["truncated_reason"] = end.metadata.get("truncated_reason")
    return info
