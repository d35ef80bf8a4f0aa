"""Tasks and their rubrics: what is read, and where each fault is said to be."""

from __future__ import annotations

import pytest

from gateway.core.tasks import (
    AnswerMatches,
    Check,
    Command,
    FileExists,
    Gate,
    NoDenials,
    PythonCheck,
    Scored,
    Sequential,
    SqliteQuery,
    Task,
    ToolCalled,
    Weighted,
    parse_task,
)
from gateway.errors import ConfigError

HEAD = "id: t\nsplit: train\nprompt: Do it.\n"


def task(rubric: str) -> Task:
    return parse_task(f"{HEAD}rubric:\n{rubric}", "t.yaml")


def check(text: str) -> Check:
    (node,) = task(f"  - check: {text}\n").rubric
    assert isinstance(node, Scored)
    return node.check


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_task(text, "t.yaml")
    return str(error.value)


def test_a_rubric_keeps_gates_weights_and_order():
    read = task(
        """  - gate: {file_exists: README.md}
  - weight: 0.7
    check: {file_not_contains: {path: README.md, text: teh}}
  - weight: 1
    check: {command: [git, -C, /workspace, log, -1, --format=%s], stdout_matches: "(?i)typo"}
"""
    )
    gate, first, second = read.rubric
    assert gate == Gate(check=FileExists(path="README.md"))
    assert isinstance(first, Scored)
    assert first.weight == 0.7
    assert isinstance(second, Scored)
    assert isinstance(second.check, Command)
    assert second.check.argv == ("git", "-C", "/workspace", "log", "-1", "--format=%s")
    assert (read.seed, read.workspace) == (0, None)


def test_rubrics_compose():
    (steps,) = task(
        """  - weight: 2
    sequential:
      - check: {tool_called: read}
      - weighted:
          - gate: no_denials
          - check: {python: checks/score.py, timeout: 5s}
"""
    ).rubric
    assert isinstance(steps, Sequential)
    called, rest = steps.parts
    assert called == Scored(check=ToolCalled(tool="read"))
    assert isinstance(rest, Weighted)
    assert rest.parts == (
        Gate(check=NoDenials()),
        Scored(check=PythonCheck(script="checks/score.py", timeout=5.0)),
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{file_exists: a}", "file_exists"),
        ("{file_equals: {path: a, text: ''}}", "file_equals"),
        ("{file_contains: {path: a, text: b}}", "file_contains"),
        ("{file_not_contains: {path: a, text: b}}", "file_not_contains"),
        ("{json_path: {path: a.json, query: a.b, equals: null}}", "json_path"),
        ("{answer_equals: '42'}", "answer_equals"),
        ("{answer_matches: 'x+'}", "answer_matches"),
        ("{python: checks/a.py}", "python"),
        ("{command: [true_]}", "command"),
        ("{tool_called: {tool: read, min: 2}}", "tool_called"),
        ("{no_denials: true}", "no_denials"),
        ("no_denials", "no_denials"),
        ("{max_steps: 3}", "max_steps"),
    ],
)
def test_every_check_is_told_by_its_one_key(text: str, kind: str):
    assert check(text).kind == kind


def test_a_query_compares_with_any_value():
    read = check("{sqlite_query: {path: a.db, sql: 'select 1', equals: [[1, a, null]]}}")
    assert isinstance(read, SqliteQuery)
    assert read.equals == [[1, "a", None]]


def test_patterns_are_kept_as_written():
    assert check('{answer_matches: "(?i)done.*"}') == AnswerMatches(pattern="(?i)done.*")


@pytest.mark.parametrize(
    ("rubric", "expected"),
    [
        ("  - check: {file_exist: a}\n", "5:5: rubric.0.scored.check: unknown check 'file_exist': there is"),
        (
            "  - check: {file_exists: a, max_steps: 1}\n",
            "5:5: rubric.0.scored.check: a check has exactly one of",
        ),
        ("  - check: {}\n", "5:5: rubric.0.scored.check: a check has exactly one of"),
        ("  - check: 3\n", "5:5: rubric.0.scored.check: a check is a mapping"),
        (
            "  - check: {file_exists: ../a}\n",
            "5:13: rubric.0.scored.check.file_exists.path: '../a' has",
        ),
        (
            "  - check: {file_exists: /etc/passwd}\n",
            "5:13: rubric.0.scored.check.file_exists.path: '/etc/passwd'",
        ),
        ("  - check: {python: ../../x.py}\n", "5:13: rubric.0.scored.check.python.script"),
        ("  - check: {file_equals: a}\n", "5:5: rubric.0.scored.check: 'file_equals' takes a mapping"),
        (
            "  - check: {file_equals: {path: a}}\n",
            "5:13: missing key 'rubric.0.scored.check.file_equals.text'",
        ),
        (
            "  - check: {file_equals: {path: a, text: b, kind: c}}\n",
            "5:5: rubric.0.scored.check: file_equals: unknown key",
        ),
        ("  - check: {command: [a], exit: 1}\n", "5:13: unknown key 'rubric.0.scored.check.command.exit'"),
        (
            '  - check: {command: [a], stdout_matches: "("}\n',
            "5:13: rubric.0.scored.check.command.stdout_matches: not an RE2",
        ),
        ("  - check: {no_denials: false}\n", "5:5: rubric.0.scored.check: 'no_denials' is true, or left out"),
        ("  - gate: {file_exists: a}\n    weight: 1\n", "5:5: rubric.0: a gate has no weight"),
        (
            "  - weight: 0\n    check: no_denials\n",
            "5:5: rubric.0.scored.weight: Input should be greater than 0",
        ),
        (
            "  - weight: 1\n",
            "5:5: rubric.0: a rubric entry has exactly one of gate, check, weighted, sequential",
        ),
        ("  - check: no_denials\n    why: x\n", "5:5: rubric.0: unknown key 'why'"),
        ("  - sequential: []\n", "5:5: rubric.0.sequential.parts"),
        ("  []\n", "4:1: rubric"),
    ],
)
def test_a_fault_is_named_with_its_place(rubric: str, expected: str):
    assert fault(f"{HEAD}rubric:\n{rubric}").startswith(f"t.yaml:{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id: t\nsplit: dev\nprompt: x\nrubric: [{check: no_denials}]\n", "2:1: split"),
        ("id: a/b\nsplit: test\nprompt: x\nrubric: [{check: no_denials}]\n", "1:1: id"),
        ("id: t\nsplit: test\nrubric: [{check: no_denials}]\n", "1:1: missing key 'prompt'"),
        (
            "id: t\nsplit: test\nprompt: x\nrubric: [{check: no_denials}]\nevents: []\n",
            "5:1: unknown key 'events'",
        ),
        ("id: t\nsplit: test\nprompt: x\nseed: -1\nrubric: [{check: no_denials}]\n", "4:1: seed"),
    ],
)
def test_a_fault_outside_the_rubric_is_named_too(text: str, expected: str):
    assert fault(text).startswith(f"t.yaml:{expected}")
