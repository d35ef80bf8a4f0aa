"""Trajectories as trainers read them: one JSON object an episode, its steps as messages with tool calls.

    {messages, tools, reward, step_rewards, done_reason, truncated, denials, rubric,
     pack, task, seed, episode_id, policy_sha256, trajectory}

`messages` begin with the task's prompt; a call is an assistant's message and what it came to a tool's, a
denial included; an answer is the assistant's last. Listing tools and taking snapshots are no turns of a
model. `tools` are functions as chat templates take them. `reward` is the sum of all steps' rewards, and
`null` where nothing scored the episode. Pure but for `export_files`, which reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.replay import RecordedEpisode, RecordedStep, read_trajectory
from gateway.core.strict_json import dumps
from gateway.errors import UsageError
from gateway.training.results import shown_text

__all__ = ["Style", "export_episode", "export_files", "trajectories_in"]

Style: TypeAlias = Literal["trl", "openai"]
"""`trl`: arguments are objects, as chat templates take them. `openai`: they are JSON texts, and each call
has an id that its answer names, as the API has it."""

_CODE: JsonObject = {
    "type": "function",
    "function": {
        "name": "code",
        "description": "Run Python in the sandbox, with the tools as functions.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}


def trajectories_in(source: Path) -> list[Path]:
    """Return the trajectory files of a state folder, of its `trajectories`, or the file itself.

    Raises `UsageError` where there is none.
    """
    if source.is_file():
        return [source]
    inside = source / "trajectories"
    found = sorted((inside if inside.is_dir() else source).glob("*.jsonl"))
    if not found:
        raise UsageError(f"{source}: no trajectories: give a state folder of training mode, or its files")
    return found


def export_files(files: Iterable[Path], style: Style = "trl") -> Iterator[JsonObject]:
    """Yield an object for each trajectory; raises `UsageError` that names file and line."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: cannot be read: {error}") from None
        yield export_episode(text, str(file), style)


def export_episode(text: str, file: str, style: Style = "trl") -> JsonObject:
    """Return the object of one trajectory, whose text is `text`; raises `UsageError`."""
    episode = read_trajectory(text, file)
    first, last = episode.steps[0].wire, episode.steps[-1].wire
    ending = _metadata(last)
    rewards: list[JsonValue] = [step.wire.get("reward") for step in episode.steps]
    return {
        "messages": _messages(episode, style),
        "tools": _tools(episode),
        "reward": _total(rewards, unscored=bool(ending.get("truncated")) or last.get("done") is not True),
        "step_rewards": rewards,
        "done_reason": ending.get("done_reason"),
        "truncated": bool(ending.get("truncated")),
        "denials": sum(call.effect != "allow" for step in episode.steps for call in step.calls),
        "rubric": ending.get("rubric") or [],
        "pack": episode.pack,
        "task": episode.task,
        "seed": episode.seed,
        "episode_id": first.get("episode_id"),
        "policy_sha256": episode.policy_sha256,
        "trajectory": Path(file).name,
    }


def _total(rewards: list[JsonValue], *, unscored: bool) -> float | None:
    numbers = [float(reward) for reward in rewards if isinstance(reward, int | float)]
    return None if unscored else sum(numbers)


def _messages(episode: RecordedEpisode, style: Style) -> list[JsonValue]:
    prompt = episode.steps[0].wire.get("prompt")
    messages: list[JsonValue] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    for step in episode.steps:
        messages += _turn(step, style)
    return messages


def _turn(step: RecordedStep, style: Style) -> list[JsonObject]:
    """Return the messages of a step: none where a model took no turn."""
    match step.action.get("type", "call_tool"):
        case "call_tool":
            arguments = step.action.get("arguments")
            name = str(step.action.get("tool_name"))
            return _called(step, name, arguments if isinstance(arguments, dict) else {}, style)
        case "code":
            return _called(step, "code", {"code": step.action.get("code")}, style)
        case "submit":
            answer = step.action.get("answer")
            content = answer if isinstance(answer, str) else "" if answer is None else dumps(answer).decode()
            return [{"role": "assistant", "content": content}]
        case _:
            return []


def _called(step: RecordedStep, name: str, arguments: JsonObject, style: Style) -> list[JsonObject]:
    seen = step.wire.get("observation")
    answer: JsonObject = {"role": "tool", "name": name}
    answer["content"] = shown_text(seen) if isinstance(seen, dict) else ""
    if style == "trl":
        call: JsonObject = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return [{"role": "assistant", "content": "", "tool_calls": [call]}, answer]
    written = dumps(arguments).decode()
    known = f"call_{step.number}"
    call = {"id": known, "type": "function", "function": {"name": name, "arguments": written}}
    answer = {"role": "tool", "tool_call_id": known, "content": answer["content"]}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}, answer]


def _tools(episode: RecordedEpisode) -> list[JsonValue]:
    listed = episode.steps[0].wire.get("tools")
    tools = [_function(tool) for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
    coded = any(step.action.get("type") == "code" for step in episode.steps)
    return [*tools, *([_CODE] if coded else [])]


def _function(tool: JsonObject) -> JsonObject:
    shown: JsonObject = {"name": tool.get("name"), "description": tool.get("description") or ""}
    return {"type": "function", "function": {**shown, "parameters": tool.get("input_schema") or {}}}


def _metadata(wire: JsonObject) -> JsonObject:
    metadata = wire.get("metadata")
    return metadata if isinstance(metadata, dict) else {}
