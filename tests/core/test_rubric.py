"""A rubric turns what checks found into one reward, and hides nothing of how."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.episode import EpisodeLimits, EpisodeState
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.rubric import (
    CheckScore,
    RecordCheck,
    Verdict,
    checks_of,
    judge_record,
    reward_of,
    score_command,
    score_script,
)
from gateway.core.tasks import (
    AnswerEquals,
    AnswerMatches,
    Command,
    MaxSteps,
    NoDenials,
    RubricNode,
    ToolCalled,
    parse_task,
)

UNIT = (0.0, 1.0)


def rubric(text: str) -> tuple[RubricNode, ...]:
    return parse_task(f"id: t\nsplit: train\nprompt: p\nrubric:\n{text}", "t.yaml").rubric


def reward(nodes: tuple[RubricNode, ...], *scores: float, reward_range: tuple[float, float] = UNIT) -> float:
    return reward_of(nodes, [CheckScore(score) for score in scores], reward_range).reward


WEIGHTED = rubric("""
  - gate: {file_exists: README.md}
  - {weight: 0.7, check: {file_not_contains: {path: README.md, text: teh}}}
  - {weight: 0.3, check: {command: [git, log], stdout_matches: typo}}
""")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((1, 1, 1), 1.0),
        ((1, 1, 0), 0.7),
        ((1, 0, 1), 0.3),
        ((1, 0, 0), 0.0),
        ((0, 1, 1), 0.0),
        ((0.5, 1, 1), 0.0),
    ],
)
def test_weights_add_up_unless_a_gate_fails(scores: tuple[float, ...], expected: float) -> None:
    assert reward(WEIGHTED, *scores) == pytest.approx(expected)


def test_weights_are_relative() -> None:
    nodes = rubric("  - {weight: 3, check: no_denials}\n  - {weight: 1, check: {max_steps: 5}}")
    assert reward(nodes, 1, 0) == 0.75


def test_a_rubric_of_gates_alone_is_all_or_nothing() -> None:
    nodes = rubric("  - gate: no_denials\n  - gate: {max_steps: 5}")
    assert (reward(nodes, 1, 1), reward(nodes, 1, 0)) == (1.0, 0.0)


def test_in_a_sequence_nothing_counts_after_the_first_part_that_is_not_full() -> None:
    nodes = rubric("""
  - sequential:
      - check: {file_exists: a}
      - check: {file_exists: b}
      - check: {file_exists: c}
""")
    assert reward(nodes, 1, 1, 1) == 1.0
    assert reward(nodes, 1, 0, 1) == pytest.approx(1 / 3)
    assert reward(nodes, 0, 1, 1) == 0.0


def test_rubrics_nest_and_a_failed_gate_inside_costs_only_its_own_part() -> None:
    nodes = rubric("""
  - {weight: 1, check: {file_exists: a}}
  - weight: 1
    weighted:
      - gate: {file_exists: b}
      - check: {file_exists: c}
""")
    assert [check.kind for check in checks_of(nodes)] == ["file_exists"] * 3
    assert reward(nodes, 1, 0, 1) == 0.5


def test_the_reward_lies_in_the_packs_range() -> None:
    assert reward(WEIGHTED, 1, 1, 1, reward_range=(-1.0, 3.0)) == 3.0
    assert reward(WEIGHTED, 0, 1, 1, reward_range=(-1.0, 3.0)) == -1.0


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_no_scores_lead_out_of_the_range(scores: list[float]) -> None:
    assert 0.0 <= reward(WEIGHTED, *scores) <= 1.0


def test_each_check_is_a_component_in_the_order_it_is_written() -> None:
    scores = [CheckScore(1.0), CheckScore(0.0, "the text is in it"), CheckScore(1.0)]
    components = cast("list[JsonObject]", reward_of(WEIGHTED, scores, UNIT).components)
    assert [(c["check"], c["gate"], c["weight"], c["score"], c["detail"]) for c in components] == [
        ("file_exists README.md", True, None, 1.0, ""),
        ("file_not_contains README.md", False, 0.7, 0.0, "the text is in it"),
        ("command git log", False, 0.3, 1.0, ""),
    ]


def test_too_few_scores_are_never_taken_for_an_answer() -> None:
    with pytest.raises(ValueError, match="2 scores for 3 checks"):
        reward(WEIGHTED, 1, 1)


# -- checks on the episode's own record


def played(answer: JsonValue = None, **counts: object) -> EpisodeState:
    state = EpisodeState(EpisodeLimits())
    state.answer = answer
    for name, value in counts.items():
        setattr(state, name, value)
    return state


@pytest.mark.parametrize(
    ("check", "episode", "holds"),
    [
        (AnswerEquals(text="42"), played(" 42\n"), True),
        (AnswerEquals(text="42"), played(42), True),
        (AnswerEquals(text="42"), played("43"), False),
        (AnswerEquals(text=""), played(None), True),
        (AnswerEquals(text='{"a":1}'), played({"a": 1}), True),
        (AnswerMatches(pattern="(?i)typo"), played("fixed the Typo"), True),
        (AnswerMatches(pattern="^typo"), played("a typo"), False),
        (AnswerMatches(pattern="."), played(None), False),
        (ToolCalled(tool="commit"), played(answered={"commit": 1}), True),
        (ToolCalled(tool="commit", min=2), played(answered={"commit": 1}), False),
        (ToolCalled(tool="commit"), played(), False),
        (NoDenials(), played(), True),
        (NoDenials(), played(denials=1), False),
        (MaxSteps(steps=3), played(steps=3), True),
        (MaxSteps(steps=3), played(steps=4), False),
    ],
)
def test_checks_on_the_record(check: RecordCheck, episode: EpisodeState, holds: bool) -> None:
    assert judge_record(check, episode).score == (1.0 if holds else 0.0)


# -- checks that ran a program


@pytest.mark.parametrize(
    ("check", "verdict", "score"),
    [
        (Command(argv=("x",)), Verdict(0, "whatever"), 1.0),
        (Command(argv=("x",)), Verdict(1, ""), 0.0),
        (Command(argv=("x",), exit_code=1), Verdict(1, ""), 1.0),
        (Command(argv=("x",), stdout_equals="a"), Verdict(0, "a\n"), 1.0),
        (Command(argv=("x",), stdout_equals="a"), Verdict(0, "ab\n"), 0.0),
        (Command(argv=("x",), stdout_matches="(?i)typo"), Verdict(0, "Fix Typo\n"), 1.0),
        (Command(argv=("x",), stdout_matches="^typo$"), Verdict(0, "no"), 0.0),
        (Command(argv=("x",), stdout_matches="x"), Verdict(2, "x"), 0.0),
    ],
)
def test_a_command_is_judged_by_exit_code_and_output(check: Command, verdict: Verdict, score: float) -> None:
    assert score_command(check, verdict).score == score


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict(0, ""), CheckScore(1.0)),
        (Verdict(0, "noise\n0.25\n\n"), CheckScore(0.25)),
        (Verdict(0, "1"), CheckScore(1.0)),
        (Verdict(0, '{"score": 0.5, "detail": "half"}\n'), CheckScore(0.5, "half")),
        (
            Verdict(1, "1.0", "Traceback\nAssertionError: no"),
            CheckScore(0.0, "exit code 1: AssertionError: no"),
        ),
    ],
)
def test_a_script_says_its_score_last(verdict: Verdict, expected: CheckScore) -> None:
    assert score_script(verdict) == expected


@pytest.mark.parametrize("last", ["done", "1.5", "-1", "true", "NaN", '{"score": "1"}', "{}", "[1]"])
def test_a_script_that_says_something_else_is_broken_not_a_zero(last: str) -> None:
    with pytest.raises(ValueError, match="its last line"):
        score_script(Verdict(0, last))
