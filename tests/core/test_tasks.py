"""Tasks and their rubrics: what is read, and where each fault is said to be."""

from __future__ import annotations

import pytest

from gateway.core.seeding import seeded
from gateway.core.task_events import Schedule
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
            "id: t\nsplit: test\nprompt: x\nrubric: [{check: no_denials}]\nextras: []\n",
            "5:1: unknown key 'extras'",
        ),
        ("id: t\nsplit: test\nprompt: x\nseed: -1\nrubric: [{check: no_denials}]\n", "4:1: seed"),
    ],
)
def test_a_fault_outside_the_rubric_is_named_too(text: str, expected: str):
    assert fault(text).startswith(f"t.yaml:{expected}")


EVENTS = """  - check: no_denials
events:
"""


def test_events_say_when_and_what() -> None:
    read = task(
        EVENTS
        + """  - {at_step: 2, write: {path: a/b.txt, text: x}}
  - {after_tool: send, append: {path: log, text: y}}
  - {at_step: 3, delete: old}
  - {at_step: 3, copy: {from: fixtures/new, to: inbox}}
"""
    )
    assert [(event.kind, event.path) for event in read.events] == [
        ("write", "a/b.txt"),
        ("append", "log"),
        ("delete", "old"),
        ("copy", "inbox"),
    ]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            "{write: {path: a, text: x}}",
            "7:5: events.0: an event has exactly one of at_step, after_tool: found none",
        ),
        (
            "{at_step: 1, after_tool: t, delete: a}",
            "7:5: events.0: an event has exactly one of at_step, after_tool",
        ),
        (
            "{at_step: 1}",
            "7:5: events.0: an event has exactly one of write, append, delete, copy: found none",
        ),
        ("{at_step: 0, delete: a}", "7:6: events.0.at_step: Input should be greater than or equal to 1"),
        ("{at_step: 1, delete: ../a}", "events.0.delete: '../a' has to be a relative path"),
        ("{at_step: 1, copy: {from: /etc, to: a}}", "events.0.copy.from: '/etc' has to be a relative path"),
        ("{at_step: 1, move: a}", "unknown key 'events.0.move'"),
    ],
)
def test_a_fault_in_an_event_is_told_with_its_place(event: str, said: str) -> None:
    assert said in fault(f"{HEAD}rubric:\n{EVENTS}  - {event}\n")


def test_a_schedule_has_each_event_happen_once() -> None:
    read = task(EVENTS + "  - {after_tool: send, delete: a}\n  - {at_step: 2, delete: b}\n")
    schedule = Schedule(read.events)
    assert schedule.due(1, []) == []
    assert [number for number, _ in schedule.due(2, ["send"])] == [1, 2]
    assert schedule.due(3, ["send"]) == []


def test_the_seed_stands_in_for_its_name_everywhere_in_a_task() -> None:
    text = """  - sequential: [{check: {answer_equals: "${seed}"}}]
  - check: {command: [grep, "${seed}", f]}
  - check: {json_path: {path: f, query: a, equals: {x: ["${seed}"]}}}
events: [{at_step: 1, write: {path: f, text: "n=${seed}"}}]
"""
    read = seeded(parse_task(f"id: t\nsplit: train\nprompt: Find ${{seed}}.\nrubric:\n{text}", "t.yaml"), 12)
    written = read.model_dump_json()
    assert "${seed}" not in written
    assert read.prompt == "Find 12."
    assert "n=12" in written
    assert seeded(read, 13) == read
