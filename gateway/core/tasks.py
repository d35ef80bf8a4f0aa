"""Tasks: what an episode asks for and the rubric that scores it, as written in `tasks/*.yaml`.

Schema only: `gateway.core.rubric` combines scores, `gateway.runtime.checks` runs checks.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, cast

from pydantic import BeforeValidator, Field

from gateway.core.documents import Document, read_document
from gateway.core.fields import FrozenModel, Many, PackPath, Regex, Seconds, Word, WorkspacePath, only_key
from gateway.core.task_events import TaskEvent

__all__ = [
    "AnswerEquals",
    "AnswerMatches",
    "Check",
    "Command",
    "FileContains",
    "FileEquals",
    "FileExists",
    "FileNotContains",
    "Gate",
    "JsonPath",
    "MaxSteps",
    "NoDenials",
    "PythonCheck",
    "RubricNode",
    "Scored",
    "Sequential",
    "SqliteQuery",
    "StepReward",
    "Task",
    "ToolCalled",
    "Weighted",
    "parse_task",
    "read_task",
]


class FileExists(FrozenModel):
    """A file or folder stands at `path`."""

    kind: Literal["file_exists"] = "file_exists"
    path: WorkspacePath


class FileEquals(FrozenModel):
    """A file's whole text is `text`."""

    kind: Literal["file_equals"] = "file_equals"
    path: WorkspacePath
    text: str


class FileContains(FrozenModel):
    """A file has `text` in it."""

    kind: Literal["file_contains"] = "file_contains"
    path: WorkspacePath
    text: Annotated[str, Field(min_length=1)]


class FileNotContains(FrozenModel):
    """A file exists and does not have `text` in it."""

    kind: Literal["file_not_contains"] = "file_not_contains"
    path: WorkspacePath
    text: Annotated[str, Field(min_length=1)]


class JsonPath(FrozenModel):
    """In a JSON file, the value at `query` (`a.b[0].c`, `$` for all) equals `equals`."""

    kind: Literal["json_path"] = "json_path"
    path: WorkspacePath
    query: Annotated[str, Field(min_length=1)]
    equals: object


class SqliteQuery(FrozenModel):
    """In a SQLite file opened read-only, the rows of `sql` equal `equals` (a list of lists)."""

    kind: Literal["sqlite_query"] = "sqlite_query"
    path: WorkspacePath
    sql: Annotated[str, Field(min_length=1)]
    equals: object


class AnswerEquals(FrozenModel):
    """The submitted answer is `text`, apart from white space around it."""

    kind: Literal["answer_equals"] = "answer_equals"
    text: str


class AnswerMatches(FrozenModel):
    """`pattern` (RE2, searched for) is found in the submitted answer."""

    kind: Literal["answer_matches"] = "answer_matches"
    pattern: Regex


class PythonCheck(FrozenModel):
    """A script of the pack, run over the final workspace; it says the score."""

    kind: Literal["python"] = "python"
    script: PackPath
    timeout: Seconds = 30.0


class Command(FrozenModel):
    """A program run over the final workspace: its exit code, and its output where that is asked for."""

    kind: Literal["command"] = "command"
    argv: Annotated[Many[Word], Field(min_length=1)]
    exit_code: int = 0
    stdout_matches: Regex | None = None
    stdout_equals: str | None = None
    timeout: Seconds = 30.0


class ToolCalled(FrozenModel):
    """The tool, named as the pack shows it, was called and answered at least `min` times."""

    kind: Literal["tool_called"] = "tool_called"
    tool: Annotated[str, Field(min_length=1)]
    min: Annotated[int, Field(ge=1)] = 1


class NoDenials(FrozenModel):
    """No call of the episode was denied."""

    kind: Literal["no_denials"] = "no_denials"


class MaxSteps(FrozenModel):
    """The episode took at most `steps` steps."""

    kind: Literal["max_steps"] = "max_steps"
    steps: Annotated[int, Field(ge=1)]


_SHORT_FORM = {
    "file_exists": "path",
    "answer_equals": "text",
    "answer_matches": "pattern",
    "python": "script",
    "command": "argv",
    "tool_called": "tool",
    "max_steps": "steps",
}
"""The field that a check's plain value fills: `file_exists: README.md`."""

_CHECKS = (
    "file_exists",
    "file_equals",
    "file_contains",
    "file_not_contains",
    "json_path",
    "sqlite_query",
    "no_denials",
    *(kind for kind in _SHORT_FORM if kind != "file_exists"),
)


def _read_check(value: object) -> object:
    """Turn `{KIND: VALUE, more…}` into `{kind: KIND, …}`, the form the models have."""
    if isinstance(value, FrozenModel):
        return value
    if value == "no_denials":
        return {"kind": "no_denials"}
    if not isinstance(value, dict):
        raise ValueError(f"a check is a mapping with one of {', '.join(sorted(_CHECKS))}")
    written = cast("dict[str, object]", value)
    if len(written) == 1 and (unknown := next(iter(written))) not in _CHECKS:
        raise ValueError(f"unknown check {unknown!r}: there is {', '.join(sorted(_CHECKS))}")
    kind = only_key(written, _CHECKS, "a check")
    rest = {key: inner for key, inner in written.items() if key != kind}
    if "kind" in rest:
        raise ValueError("unknown key 'kind'")
    return {"kind": kind, **_payload(kind, written[kind]), **rest}


def _payload(kind: str, value: object) -> dict[str, object]:
    if isinstance(value, dict):
        payload = cast("dict[str, object]", value)
        if "kind" in payload:
            raise ValueError(f"{kind}: unknown key 'kind'")
        return payload
    if kind == "no_denials":
        if value is not True:
            raise ValueError("'no_denials' is true, or left out")
        return {}
    if kind not in _SHORT_FORM:
        raise ValueError(f"{kind!r} takes a mapping, such as {{path: …}}")
    return {_SHORT_FORM[kind]: value}


Check: TypeAlias = Annotated[
    FileExists
    | FileEquals
    | FileContains
    | FileNotContains
    | JsonPath
    | SqliteQuery
    | AnswerEquals
    | AnswerMatches
    | PythonCheck
    | Command
    | ToolCalled
    | NoDenials
    | MaxSteps,
    Field(discriminator="kind"),
    BeforeValidator(_read_check),
]
"""One question with a score in [0, 1]. Everything but a Python check scores 0 or 1."""

_Weight: TypeAlias = Annotated[float, Field(gt=0, le=1_000_000, strict=False)]


class Gate(FrozenModel):
    """If the check does not score 1, the rubric it stands in scores 0."""

    node: Literal["gate"] = "gate"
    check: Check


class Scored(FrozenModel):
    """One weighted check."""

    node: Literal["scored"] = "scored"
    weight: _Weight = 1.0
    check: Check


class Weighted(FrozenModel):
    """A rubric inside a rubric: its score is its parts' weighted mean, 0 if one of its gates fails."""

    node: Literal["weighted"] = "weighted"
    weight: _Weight = 1.0
    parts: Annotated[Many[RubricNode], Field(min_length=1)]


class Sequential(FrozenModel):
    """Parts that count only while every part before them scored 1; else like `Weighted`."""

    node: Literal["sequential"] = "sequential"
    weight: _Weight = 1.0
    parts: Annotated[Many[RubricNode], Field(min_length=1)]


_NODES = ("gate", "check", "weighted", "sequential")


def _read_node(value: object) -> object:
    if isinstance(value, FrozenModel):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"a rubric entry is a mapping with one of {', '.join(_NODES)}")
    written = cast("dict[str, object]", value)
    node = only_key(written, _NODES, "a rubric entry")
    if unknown := sorted(written.keys() - {node, "weight"}):
        raise ValueError(f"unknown key {unknown[0]!r}")
    if node == "gate" and "weight" in written:
        raise ValueError("a gate has no weight")
    field = "check" if node in ("gate", "check") else "parts"
    # The tag of a scored check is no key of the file, so that a fault's place is not mistaken.
    read = {"node": "scored" if node == "check" else node, field: written[node]}
    return {**read, "weight": written["weight"]} if "weight" in written else read


RubricNode: TypeAlias = Annotated[
    Gate | Scored | Weighted | Sequential,
    Field(discriminator="node"),
    BeforeValidator(_read_node),
]
"""One entry of a rubric."""


class StepReward(FrozenModel):
    """What a step earns after which `check` scores 1 for the first time; it is paid once."""

    reward: Annotated[float, Field(strict=False)]
    check: Check


class Task(FrozenModel):
    """One thing to do. `workspace` overrides the pack's seed; `rubric` reads like a `Weighted` node.

    `${seed}` in the prompt, the rubric and the events is the episode's seed (`gateway.core.seeding`).
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    split: Literal["train", "test"]
    prompt: Annotated[str, Field(min_length=1)]
    workspace: PackPath | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    rubric: Annotated[Many[RubricNode], Field(min_length=1)]
    step_rewards: Many[StepReward] = ()
    events: Many[TaskEvent] = ()


for _model in (Weighted, Sequential, StepReward, Task):
    _model.model_rebuild()


def parse_task(text: str, file: str) -> Task:
    """Read a task; raises `ConfigError` with `file:line:col` for each fault."""
    return read_task(text, file)[0]


def read_task(text: str, file: str) -> tuple[Task, Document]:
    """Read a task and keep its positions, for problems that are found later."""
    document = read_document(text, file)
    return document.parse(Task), document
