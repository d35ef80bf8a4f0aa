"""What an environment answers, as frozen values. Data and views of it only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from gateway.core.decisions import Decision
from gateway.core.episode import DoneReason
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps

__all__ = [
    "Action",
    "CodeCall",
    "DoneReason",
    "EpisodeStatus",
    "ResetResult",
    "StepResult",
    "Tool",
    "ToolError",
    "shown_text",
]

Action: TypeAlias = Mapping[str, JsonValue]
"""An action as the wire has it: `{"type": "call_tool", "tool_name": ..., "arguments": {...}}`,
`{"type": "submit", "answer": ...}`, `{"type": "code", "code": ...}`, `{"type": "snapshot"}` or
`{"type": "list_tools"}`."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as the policy shows it; `input_schema` is a JSON Schema."""

    name: str
    description: str
    input_schema: JsonObject


@dataclass(frozen=True, slots=True)
class ToolError:
    """Why a call brought no result.

    `error_type` is one of `execution_error invalid_args transport_error tool_not_found timeout`.
    """

    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class CodeCall:
    """A call that code made: `outcome` is one of `answered denied failed`, `effect` what the policy said.

    `effect` is `None` where the call was not decided.
    """

    tool: str
    arguments: JsonObject
    outcome: str
    effect: str | None


@dataclass(frozen=True, slots=True)
class ResetResult:
    """A started episode: what is asked, and what it was started from.

    `prompt` and `task` are `None` for a pack without tasks. `workspace_digest` is equal for equal starts.
    """

    observation: JsonObject
    prompt: str | None
    task: str | None
    seed: int | None
    session_id: str
    episode_id: str
    workspace_digest: str | None
    metadata: JsonObject


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step showed.

    `reward` is `None` where nothing scored it. `done_reason` is set once `done`; `truncated` says that
    the infrastructure ended the episode, so it has no score. `decision` is what the policy said of a
    tool call, `error` why it brought no result.
    """

    observation: JsonObject
    reward: float | None
    done: bool
    truncated: bool
    done_reason: DoneReason | None
    decision: Decision | None
    error: ToolError | None
    metadata: JsonObject

    @property
    def denied(self) -> bool:
        """Whether the policy refused the call, or one that code made."""
        if self.decision is not None:
            return not self.decision.allowed
        return any(call.outcome == "denied" for call in self.calls)

    @property
    def calls(self) -> tuple[CodeCall, ...]:
        """The calls that code made, in their order; empty for any other step."""
        return tuple(_code_call(entry) for entry in _objects(self.observation.get("calls")))

    @property
    def rubric(self) -> tuple[JsonObject, ...]:
        """The score of each component of the task's rubric, once the episode was scored."""
        return _objects(self.metadata.get("rubric"))

    @property
    def text(self) -> str:
        """What a model is shown of it: the tool's text, or the sentence that says why there is none."""
        return shown_text(self.observation)


@dataclass(frozen=True, slots=True)
class EpisodeStatus:
    """How an episode stands. `workspace_digest` changes with every file the tools change."""

    episode_id: str | None
    step_count: int
    task: str | None
    done: bool
    denials: int
    workspace_digest: str | None
    metadata: JsonObject


_BESIDE = {"reward", "done", "metadata"}
"""What stands in an observation and beside it."""


def shown_text(observation: JsonObject) -> str:
    """Return what a model is shown of an observation: an error's sentence, a result's text, else the JSON."""
    error, result = observation.get("error"), observation.get("result")
    if isinstance(error, dict) and "stdout" not in observation:
        return str(error.get("message") or "")
    if isinstance(result, dict) and "content" in result:
        return _result_text(result)
    return dumps({name: value for name, value in observation.items() if name not in _BESIDE}).decode()


def _result_text(result: JsonObject) -> str:
    blocks = _objects(result.get("content"))
    texts = [_block_text(block) for block in blocks]
    if texts or result.get("structured_content") is None:
        return "\n".join(texts)
    return dumps(result["structured_content"]).decode()


def _block_text(block: JsonObject) -> str:
    text = block.get("text")
    return text if isinstance(text, str) else f"[{block.get('type')}]"


def _code_call(entry: JsonObject) -> CodeCall:
    arguments, decision = entry.get("arguments"), entry.get("decision")
    effect = decision.get("effect") if isinstance(decision, dict) else None
    return CodeCall(
        tool=str(entry.get("tool") or ""),
        arguments=arguments if isinstance(arguments, dict) else {},
        outcome=str(entry.get("outcome") or ""),
        effect=effect if isinstance(effect, str) else None,
    )


def _objects(value: JsonValue) -> tuple[JsonObject, ...]:
    entries = value if isinstance(value, list) else []
    return tuple(cast("list[JsonObject]", [entry for entry in entries if isinstance(entry, dict)]))
