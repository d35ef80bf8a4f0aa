"""Rubrics: from a task's checks and what they found to one reward.

Pure: it combines scores and judges what the episode itself tells (answer, calls, steps); checks
over files and programs are run by `gateway.runtime.checks`, which hands their raw results back here.

Scores lie in [0, 1]. A list of entries scores the weighted mean of its entries, 0 if one of its
gates does not score 1; in a `sequential` list an entry counts only while all before it scored 1.
The reward maps the score onto the pack's reward range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import re2

from gateway.core.episode import EpisodeState
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import StrictJsonError, dumps, loads
from gateway.core.tasks import (
    AnswerEquals,
    AnswerMatches,
    Check,
    Command,
    FileContains,
    FileEquals,
    FileExists,
    FileNotContains,
    Gate,
    JsonPath,
    MaxSteps,
    NoDenials,
    PythonCheck,
    RubricNode,
    Scored,
    Sequential,
    SqliteQuery,
    ToolCalled,
)

__all__ = [
    "CheckScore",
    "FileCheck",
    "ProgramCheck",
    "RecordCheck",
    "Reward",
    "Verdict",
    "checks_of",
    "judge_record",
    "label_of",
    "reward_of",
    "score_command",
    "score_script",
]

FileCheck: TypeAlias = FileExists | FileEquals | FileContains | FileNotContains | JsonPath | SqliteQuery
"""Checks that our own runner answers by reading the workspace."""
ProgramCheck: TypeAlias = Command | PythonCheck
"""Checks that run a program over the workspace."""
RecordCheck: TypeAlias = AnswerEquals | AnswerMatches | ToolCalled | NoDenials | MaxSteps
"""Checks that the episode's own record answers."""

_DETAIL = 300


@dataclass(frozen=True, slots=True)
class CheckScore:
    """What one check found: a score in [0, 1] and one line that says why."""

    score: float
    detail: str = ""

    @classmethod
    def of(cls, holds: bool, detail: str = "") -> CheckScore:
        """Return full score or none."""
        return cls(1.0 if holds else 0.0, "" if holds else detail[:_DETAIL])


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a check's program ended; `stdout` is capped by whoever ran it."""

    exit_code: int
    stdout: str
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Reward:
    """A scored episode. `components` has one entry per check, in the order they are written."""

    reward: float
    score: float
    components: list[JsonValue]


# -- which checks there are -----------------------------------------------------------------------


def checks_of(rubric: Iterable[RubricNode]) -> Iterator[Check]:
    """Yield the rubric's checks in the order they are written: the order `reward_of` wants scores in."""
    for node in rubric:
        match node:
            case Gate() | Scored():
                yield node.check
            case _:
                yield from checks_of(node.parts)


def label_of(check: Check) -> str:
    """Return a short name for people: `file_exists README.md`."""
    match check:
        case FileExists() | FileEquals() | FileContains() | FileNotContains() | JsonPath() | SqliteQuery():
            return f"{check.kind} {check.path}"
        case PythonCheck():
            return f"python {check.script}"
        case Command():
            return f"command {' '.join(check.argv)}"[:80]
        case ToolCalled():
            return f"tool_called {check.tool}"
        case _:
            return check.kind


# -- judging one check ----------------------------------------------------------------------------


def judge_record(check: RecordCheck, episode: EpisodeState) -> CheckScore:
    """Judge a check on the submitted answer, the calls or the steps of an episode."""
    match check:
        case AnswerEquals(text=text):
            return CheckScore.of(_answer_text(episode).strip() == text.strip(), "another answer")
        case AnswerMatches(pattern=pattern):
            return CheckScore.of(_found(pattern, _answer_text(episode)), "the answer does not match")
        case ToolCalled(tool=tool, min=least):
            times = episode.answered.get(tool, 0)
            return CheckScore.of(times >= least, f"answered {times} of {least} times")
        case NoDenials():
            return CheckScore.of(episode.denials == 0, f"{episode.denials} calls were denied")
        case MaxSteps(steps=most):
            return CheckScore.of(episode.steps <= most, f"{episode.steps} steps of at most {most}")


def _answer_text(episode: EpisodeState) -> str:
    answer = episode.answer
    if answer is None:
        return ""
    return answer if isinstance(answer, str) else dumps(answer).decode()


def score_command(check: Command, verdict: Verdict) -> CheckScore:
    """Judge a program by its exit code and, where the check asks for it, its output."""
    if verdict.exit_code != check.exit_code:
        return CheckScore(0.0, _tail(f"exit code {verdict.exit_code}", verdict.stderr))
    if check.stdout_equals is not None and verdict.stdout.strip() != check.stdout_equals.strip():
        return CheckScore(0.0, "other output")
    if check.stdout_matches is not None and not _found(check.stdout_matches, verdict.stdout):
        return CheckScore(0.0, "the output does not match")
    return CheckScore(1.0)


def score_script(verdict: Verdict) -> CheckScore:
    """Judge a pack's script: exit 0 and, as its last line, a number in [0, 1] or `{"score", "detail"}`.

    Another exit code scores 0; exit 0 without a line scores 1. Raises `ValueError` for a last line
    that is neither: the script is broken, which says nothing about the agent.
    """
    if verdict.exit_code != 0:
        return CheckScore(0.0, _tail(f"exit code {verdict.exit_code}", verdict.stderr))
    lines = verdict.stdout.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), None)
    return CheckScore(1.0) if last is None else _said_score(last)


def _said_score(line: str) -> CheckScore:
    try:
        value = loads(line)
    except StrictJsonError as error:
        raise ValueError(f"its last line is not a score: {error}") from None
    said = value if isinstance(value, dict) else cast("JsonObject", {"score": value})
    score, detail = said.get("score"), said.get("detail", "")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError("its last line has to hold a score between 0 and 1")
    return CheckScore(float(score), str(detail)[:_DETAIL])


def _found(pattern: str, text: str) -> bool:
    return re2.search(pattern, text) is not None  # pyright: ignore[reportUnknownMemberType] - the wheel ships no types


def _tail(what: str, stderr: str) -> str:
    said = stderr.strip().rsplit("\n", 1)[-1]
    return f"{what}: {said}"[:_DETAIL] if said else what


# -- combining ------------------------------------------------------------------------------------


def reward_of(
    rubric: Sequence[RubricNode], scores: Sequence[CheckScore], reward_range: tuple[float, ...]
) -> Reward:
    """Combine the checks' scores (in `checks_of` order) into the reward.

    A number of scores other than the rubric's number of checks is a bug and raises `ValueError`.
    """
    wanted = len(list(checks_of(rubric)))
    if wanted != len(scores):
        raise ValueError(f"{len(scores)} scores for {wanted} checks")
    components: list[JsonValue] = []
    score = _weighted(rubric, iter(scores), components)
    low, high = reward_range
    return Reward(low + (high - low) * score, score, components)


def _weighted(nodes: Sequence[RubricNode], scores: Iterator[CheckScore], seen: list[JsonValue]) -> float:
    return _combine([(node, _node_score(node, scores, seen)) for node in nodes])


def _sequential(nodes: Sequence[RubricNode], scores: Iterator[CheckScore], seen: list[JsonValue]) -> float:
    counted: list[tuple[RubricNode, float]] = []
    so_far = 1.0
    for node in nodes:
        score = _node_score(node, scores, seen)
        counted.append((node, score if so_far == 1.0 else 0.0))
        so_far = min(so_far, score)
    return _combine(counted)


def _combine(scored: Sequence[tuple[RubricNode, float]]) -> float:
    if any(isinstance(node, Gate) and score < 1.0 for node, score in scored):
        return 0.0
    weighted = [(node.weight, score) for node, score in scored if not isinstance(node, Gate)]
    total = sum(weight for weight, _ in weighted)
    return sum(weight * score for weight, score in weighted) / total if weighted else 1.0


def _node_score(node: RubricNode, scores: Iterator[CheckScore], seen: list[JsonValue]) -> float:
    match node:
        case Gate() | Scored():
            found = next(scores)
            seen.append(_component(node, found))
            return found.score
        case Sequential():
            return _sequential(node.parts, scores, seen)
        case _:
            return _weighted(node.parts, scores, seen)


def _component(node: Gate | Scored, found: CheckScore) -> JsonObject:
    return {
        "check": label_of(node.check),
        "kind": node.check.kind,
        "gate": isinstance(node, Gate),
        "weight": None if isinstance(node, Gate) else node.weight,
        "score": found.score,
        "detail": found.detail,
    }
