"""Checks run for real: fresh sandboxes over a final workspace that may be hostile."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.episode import EpisodeLimits, EpisodeState
from gateway.core.json_types import JsonObject
from gateway.core.rubric import CheckScore
from gateway.core.tasks import (
    AnswerEquals,
    Check,
    Command,
    FileContains,
    FileEquals,
    FileExists,
    PythonCheck,
)
from gateway.errors import SandboxError
from gateway.runtime.checks import CheckFault, Checks
from gateway.sandbox.contract import Limits, Sandbox, SandboxSpec, Workspace, WorkspaceSpec
from tests.support.sandboxes import bubblewrap

ABOUT: JsonObject = {"task": "t", "answer": "42", "seed": 7}


class Bench:
    """A pack folder with scripts, a seed for the workspace, and what runs checks over it."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.pack = tmp_path / "pack"
        self.seed = tmp_path / "seed"
        self.pack.mkdir()
        self.seed.mkdir()
        self.watched: list[str] = []

    def watch(self, label: str, sandbox: Sandbox) -> None:
        self.watched.append(label)

    def script(self, source: str) -> PythonCheck:
        (self.pack / "score.py").write_text(source, encoding="utf-8")
        return PythonCheck(script="score.py", timeout=10)

    @asynccontextmanager
    async def ready(self) -> AsyncGenerator[tuple[Checks, Workspace]]:
        async with bubblewrap(self.tmp_path) as driver:
            workspace = await driver.open_workspace(WorkspaceSpec(seed=self.seed))
            yield Checks(driver, self.pack, Limits(), self.watch), workspace
            await workspace.aclose()

    async def run(self, *checks: Check, episode: EpisodeState | None = None) -> list[CheckScore]:
        async with self.ready() as (runner, workspace):
            return await runner.run(checks, workspace, episode or EpisodeState(EpisodeLimits()), ABOUT)

    async def scores(self, *checks: Check, episode: EpisodeState | None = None) -> list[float]:
        return [score.score for score in await self.run(*checks, episode=episode)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_checks_of_every_sort_are_scored_in_the_order_they_are_written(bench: Bench) -> None:
    (bench.seed / "a.txt").write_text("hello\n", encoding="utf-8")
    episode = EpisodeState(EpisodeLimits(), answer="42")
    checks: Sequence[Check] = (
        Command(argv=("cat", "a.txt"), stdout_equals="hello"),
        FileExists(path="b.txt"),
        AnswerEquals(text="42"),
        bench.script("print(0.5)"),
        FileEquals(path="a.txt", text="hello\n"),
        Command(argv=("cat", "b.txt")),
    )
    assert await bench.scores(*checks, episode=episode) == [1.0, 0.0, 1.0, 0.5, 1.0, 0.0]
    assert bench.watched == ["file checks", "command cat a.txt", "python score.py", "command cat b.txt"]


async def test_no_check_can_write_to_the_workspace(bench: Bench) -> None:
    found = await bench.run(Command(argv=("touch", "/workspace/new")), FileExists(path="new"))
    assert [score.score for score in found] == [0.0, 0.0]
    assert "Read-only" in found[0].detail


async def test_a_check_sees_nothing_another_check_left(bench: Bench) -> None:
    leave = Command(argv=("sh", "-c", "echo x > /tmp/left"))
    look = Command(argv=("test", "-e", "/tmp/left"), exit_code=1)
    assert await bench.scores(leave, look) == [1.0, 1.0]


async def test_a_script_is_told_of_the_episode_and_may_import_its_neighbours(bench: Bench) -> None:
    (bench.pack / "helper.py").write_text("WANTED = '42'\n", encoding="utf-8")
    script = bench.script(
        "import json, helper\n"
        "told = json.loads(input())\n"
        "assert told['seed'] == 7, told\n"
        "print(json.dumps({'score': float(told['answer'] == helper.WANTED), 'detail': told['task']}))\n"
    )
    assert await bench.run(script) == [CheckScore(1.0, "t")]


RUBRIC = """
from sandgate_check import Check, {kind}

class Written(Check):
    gate = {gate}
    def score(self):
        return (self.workspace / "a.txt").exists()

class Long(Check):
    weight = 3.0
    def score(self):
        return min(1.0, len((self.workspace / "a.txt").read_text()) / 10), "too short"

class Asked(Check):
    def score(self):
        return self.episode["answer"] == "42"

class Report({kind}):
    parts = (Written, Long, Asked)

Report.run()
"""


@pytest.mark.parametrize(
    ("kind", "gate", "score"),
    [("Weighted", True, 0.625), ("Weighted", False, 0.7), ("Sequential", True, 0.375)],
)
async def test_a_script_may_compose_checks_of_its_own(
    bench: Bench, kind: str, gate: bool, score: float
) -> None:
    (bench.seed / "a.txt").write_text("12345", encoding="utf-8")
    script = bench.script(RUBRIC.format(kind=kind, gate=gate))
    assert await bench.run(script) == [CheckScore(score, "Long: too short")]


async def test_a_gate_in_a_script_makes_it_worth_nothing(bench: Bench) -> None:
    script = RUBRIC.format(kind="Weighted", gate=True).replace(".read_text()", ".name")
    assert await bench.run(bench.script(script)) == [CheckScore(0.0, "Written: 0.0; Long: too short")]


async def test_the_workspace_cannot_shadow_what_a_script_imports(bench: Bench) -> None:
    (bench.seed / "json.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    script = bench.script("import json\nprint(json.dumps(0.25))")
    assert await bench.scores(script) == [0.25]


async def test_an_assertion_in_a_script_is_a_zero_that_says_why(bench: Bench) -> None:
    (found,) = await bench.run(bench.script("assert False, 'the file is empty'"))
    assert found == CheckScore(0.0, "exit code 1: AssertionError: the file is empty")


async def test_a_link_out_of_the_workspace_does_not_satisfy_a_file_check(bench: Bench) -> None:
    (bench.seed / "passwd").symlink_to("/etc/passwd")
    assert await bench.scores(FileContains(path="passwd", text="root")) == [0.0]


async def test_what_the_agent_left_speaks_for_no_check_but_the_one_that_runs_it(bench: Bench) -> None:
    evil = bench.seed / "evil.sh"
    evil.write_text(
        "#!/bin/sh\n"
        'echo \'{"results": [{"holds": true, "detail": ""}]}\'\n'
        "touch /workspace/missing /opt/checks/runner.py\n"
        "kill -9 -1\n"
        "exit 0\n",
        encoding="utf-8",
    )
    evil.chmod(0o755)
    checks: Sequence[Check] = (
        FileExists(path="missing"),
        Command(argv=("./evil.sh",)),
        FileExists(path="missing"),
        bench.script("import os\nprint(float(os.path.exists('missing')))"),
    )
    assert await bench.scores(*checks) == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (Command(argv=("no-such-program",)), "cannot be started"),
        (Command(argv=("sleep", "60"), timeout=0.3), "not done after 0.3 s"),
        (Command(argv=("sh", "-c", "kill -KILL $$")), "killed"),
    ],
)
async def test_a_check_that_cannot_be_run_is_a_fault_not_a_zero(bench: Bench, check: Check, why: str) -> None:
    with pytest.raises(CheckFault, match=why):
        await bench.run(check)


async def test_a_script_that_says_no_score_is_a_fault(bench: Bench) -> None:
    with pytest.raises(CheckFault, match=r"python score\.py: its last line is not a score"):
        await bench.run(bench.script("print('looks good')"))


def make_repository(folder: Path) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "Fix typo"]):
        subprocess.run([*git, *command], check=True)


async def test_git_reads_a_repository_that_another_user_owns(bench: Bench) -> None:
    make_repository(bench.seed)
    log = Command(argv=("git", "-C", "/workspace", "log", "-1", "--format=%s"), stdout_matches="(?i)typo")
    clean = Command(argv=("git", "status", "--porcelain"), stdout_equals="")
    assert await bench.run(log, clean) == [CheckScore(1.0), CheckScore(1.0)]


async def test_endless_output_is_cut_and_the_check_still_judged(bench: Bench) -> None:
    many = Command(argv=("sh", "-c", "yes | head -c 3000000; exit 4"), exit_code=4)
    assert await bench.scores(many) == [1.0]


class NoSandboxes:
    """A driver on a machine that is out of sandboxes."""

    name = "none"
    limited_by = "nothing"

    async def __aenter__(self) -> NoSandboxes:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def open_workspace(self, spec: WorkspaceSpec) -> Workspace:
        raise SandboxError("no room")

    async def acquire(self, spec: SandboxSpec, workspace: Workspace) -> Sandbox:
        raise SandboxError("no room")


async def test_a_machine_without_a_sandbox_is_a_fault(bench: Bench) -> None:
    async with bench.ready() as (_, workspace):
        runner = Checks(NoSandboxes(), bench.pack, Limits(), bench.watch)
        with pytest.raises(CheckFault, match="no sandbox: no room"):
            await runner.run([FileExists(path="a")], workspace, EpisodeState(EpisodeLimits()), ABOUT)
