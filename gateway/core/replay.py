"""A recorded episode held against its re-execution, step by step. Pure; runs nothing.

A trajectory is JSON Lines, one step a line, as training mode writes it. Two steps are the same if
observation, reward, end and decision are; ids that every run mints anew do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import DECISION_META_KEY
from gateway.core.strict_json import StrictJsonError, loads
from gateway.errors import UsageError

__all__ = [
    "DecidedCall",
    "Difference",
    "RecordedEpisode",
    "RecordedOrigin",
    "RecordedStep",
    "all_differences",
    "decided_calls",
    "differences",
    "read_trajectory",
]

_TOLD: dict[str, tuple[type, ...]] = {
    "pack": (str,),
    "task": (str, type(None)),
    "seed": (int,),
    "step": (int,),
    "observation": (dict,),
    "metadata": (dict,),
    "done": (bool,),
    "reward": (int, float, type(None)),
}
"""What every line tells, and of which type."""
_OF_THE_EPISODE = ("session_id", "episode_id", "pack", "task", "seed", "policy_sha256")
_ENDS = ("done_reason", "truncated", "truncated_reason", "rubric", "events", "step_rewards")
_APART = frozenset({"reward", "done", "metadata"})
_DECIDED = ("effect", "code", "rule")


@dataclass(frozen=True, slots=True)
class DecidedCall:
    """A call of a step, by the name the pack shows, and how it was decided."""

    tool: str
    arguments: JsonObject
    effect: str


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One line of a trajectory. `wire` has `observation`, `reward`, `done` and `metadata`."""

    number: int
    action: JsonObject
    wire: JsonObject

    @property
    def calls(self) -> tuple[DecidedCall, ...]:
        """What it called and was decided: one for a tool call, as many as it made for code."""
        return decided_calls(self.action, self.wire)

    @property
    def at(self) -> float:
        """When it was taken, in unix seconds."""
        at = self.wire.get("ts")
        return at if isinstance(at, int | float) else 0.0


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """A whole trajectory: what was played, under which policy, and every step."""

    pack: str
    task: str | None
    seed: int
    policy_sha256: str | None
    steps: tuple[RecordedStep, ...]
    origin: RecordedOrigin | None = None
    lock_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedOrigin:
    """The snapshot that an episode started from: taken in this trajectory, at this step of it."""

    trajectory: str
    step: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one step that came out otherwise."""

    step: int
    field: str
    recorded: JsonValue
    now: JsonValue

    def wire(self) -> JsonObject:
        """Return `{step, field, recorded, now}`."""
        return {"step": self.step, "field": self.field, "recorded": self.recorded, "now": self.now}


def read_trajectory(text: str, file: str) -> RecordedEpisode:
    """Read a trajectory; raises `UsageError` that names file and line."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{file}: no steps: give a trajectory that training mode wrote")
    parsed = [_line(line, f"{file}:{number}") for number, line in lines]
    _check_one_episode(parsed, file)
    first = parsed[0]
    task, policy, seed = first["task"], first.get("policy_sha256"), first["seed"]
    assert isinstance(seed, int)
    return RecordedEpisode(
        pack=str(first["pack"]),
        task=task if isinstance(task, str) else None,
        seed=seed,
        policy_sha256=policy if isinstance(policy, str) else None,
        steps=tuple(_step(line) for line in parsed),
        origin=_origin(first.get("origin")),
        lock_sha256=lock if isinstance(lock := first.get("lock_sha256"), str) else None,
    )


def _origin(written: JsonValue) -> RecordedOrigin | None:
    trajectory = written.get("trajectory") if isinstance(written, dict) else None
    step = written.get("step") if isinstance(written, dict) else None
    return RecordedOrigin(trajectory, step) if isinstance(trajectory, str) and type(step) is int else None


def _line(line: str, where: str) -> JsonObject:
    try:
        value = loads(line)
    except StrictJsonError as error:
        raise UsageError(f"{where}: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("action"), dict):
        raise UsageError(f"{where}: not a step of a trajectory: each line is an object with 'action'")
    for name, kinds in _TOLD.items():
        if type(value.get(name)) not in kinds:  # a bool is no number
            known = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise UsageError(f"{where}: not a step of a trajectory: {name!r} has to be {known}")
    return value


def _check_one_episode(lines: Sequence[JsonObject], file: str) -> None:
    if len({tuple(str(line.get(name)) for name in _OF_THE_EPISODE) for line in lines}) > 1:
        raise UsageError(f"{file}: steps of several episodes: give one episode a file")
    if [line.get("step") for line in lines] != list(range(1, len(lines) + 1)):
        raise UsageError(f"{file}: steps are missing or out of order: the first is 1, each next one more")


def _step(line: JsonObject) -> RecordedStep:
    action, number = line["action"], line["step"]
    assert isinstance(action, dict)
    assert isinstance(number, int)
    return RecordedStep(number, action, line)


def all_differences(recorded: RecordedEpisode, now: Sequence[JsonObject]) -> list[Difference]:
    """Return what differs in the answers of a re-execution; a step it did not come to has none at all."""
    found = [
        difference
        for step, wire in zip(recorded.steps, now, strict=False)
        for difference in differences(step, wire)
    ]
    missing = recorded.steps[len(now) :]
    return found + [
        Difference(step.number, "observation", step.wire["observation"], None) for step in missing
    ]


def differences(step: RecordedStep, now: JsonObject) -> Iterator[Difference]:
    """Yield the fields in which a step's answer differs from the recorded one."""
    recorded, current = _fields(step.wire), _fields(now)
    for name, value in recorded.items():
        if not _same(value, current[name]):
            yield Difference(step.number, name, value, current[name])


def _same(one: JsonValue, other: JsonValue) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


def _fields(wire: JsonObject) -> JsonObject:
    """Return what counts of an answer: fields that a re-execution has to bring about again."""
    metadata = wire.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    policy = told.get("policy")
    decision = policy if isinstance(policy, dict) else {}
    fields: JsonObject = {
        "observation": _observation(wire.get("observation")),
        "reward": wire.get("reward"),
        "done": wire.get("done"),
        "decision": {name: decision.get(name) for name in _DECIDED} if decision else None,
    }
    return {**fields, **{name: told.get(name) for name in _ENDS}}


def _observation(value: JsonValue) -> JsonValue:
    """Return an observation without what stands beside it too, and without the decision in its result."""
    if not isinstance(value, dict):
        return value
    seen: JsonObject = {name: part for name, part in value.items() if name not in _APART}
    result = seen.get("result")
    meta = result.get("meta") if isinstance(result, dict) else None
    if isinstance(result, dict) and isinstance(meta, dict):
        kept: JsonObject = {name: part for name, part in meta.items() if name != DECISION_META_KEY}
        seen["result"] = {**result, "meta": kept}
    if "snapshot_id" in seen:
        seen["snapshot_id"] = seen["snapshot_id"] is not None
    calls = seen.get("calls")
    if isinstance(calls, list):
        seen["calls"] = [_without_ids(call) for call in calls]
    return seen


def _without_ids(call: JsonValue) -> JsonValue:
    """Return a call of code with what counts of its decision."""
    decision = call.get("decision") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(decision, dict):
        return call
    return {**call, "decision": {name: decision.get(name) for name in _DECIDED}}


def decided_calls(action: JsonObject, wire: JsonObject) -> tuple[DecidedCall, ...]:
    """Return the calls of a step that were decided, in their order; `wire` is what the step came to."""
    metadata, seen = wire.get("metadata"), wire.get("observation")
    made = seen.get("calls") if isinstance(seen, dict) else None
    if not isinstance(made, list):
        policy = metadata.get("policy") if isinstance(metadata, dict) else None
        made = [{"tool": action.get("tool_name"), "arguments": action.get("arguments"), "decision": policy}]
    return tuple(call for entry in made if (call := _decided(entry)) is not None)


def _decided(entry: JsonValue) -> DecidedCall | None:
    decision = entry.get("decision") if isinstance(entry, dict) else None
    effect = decision.get("effect") if isinstance(decision, dict) else None
    if not isinstance(entry, dict) or not isinstance(effect, str):
        return None
    arguments = entry.get("arguments")
    return DecidedCall(str(entry.get("tool")), arguments if isinstance(arguments, dict) else {}, effect)
