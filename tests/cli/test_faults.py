"""What a command raised becomes an exit code and a message, never a traceback for a user's fault."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli.faults import run
from gateway.errors import ConfigError, Problem, SandboxError, UsageError


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(0), 0),
        (SystemExit(1), 1),
        (SystemExit("words"), 2),
        (KeyboardInterrupt(), 130),
        (UsageError("do that"), 2),
        (SandboxError("it broke"), 2),
        (ExceptionGroup("tasks", [UsageError("do that")]), 2),
        (BaseExceptionGroup("tasks", [KeyboardInterrupt()]), 130),
    ],
)
def test_each_kind_of_end_has_its_exit_code(error: BaseException, code: int) -> None:
    assert run(raising(error)) == code


def test_problems_stand_alone_on_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(ConfigError([Problem("a.yaml", 1, 2, "x", "one"), Problem("a.yaml", 3, 4, "y", "two")])))
    assert capsys.readouterr().err == "a.yaml:1:2: one\na.yaml:3:4: two\n"


def test_a_message_inside_task_groups_is_the_same_as_outside(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(ExceptionGroup("a", [ExceptionGroup("b", [UsageError("do that")])])))
    assert capsys.readouterr().err == "sandgate: do that\n"


def test_our_own_fault_is_short_and_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run(raising(ZeroDivisionError("oh"))) == 70
    said = capsys.readouterr().err
    report = tmp_path / "sandgate" / "crash.log"
    assert said.startswith("sandgate: a fault of sandgate itself, not yours: ZeroDivisionError: oh; ")
    assert said.endswith(f"please report it with {report}\n")
    assert "Traceback" in report.read_text()
    assert report.stat().st_mode & 0o777 == 0o600


def test_our_own_fault_is_shown_where_no_report_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sandgate").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run(raising(ZeroDivisionError("oh"))) == 70
    assert "Traceback" in capsys.readouterr().err


def test_what_a_server_wrote_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(UsageError("pack \x1b[31mred\x07")))
    assert capsys.readouterr().err == "sandgate: pack \\u{1b}[31mred\\u{7}\n"


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    script = "from gateway.cli.faults import run; run(lambda: [print(i) for i in range(99999)])"
    pipeline = f"{sys.executable} -c '{script}' | head -1"
    done = subprocess.run(["bash", "-c", pipeline], capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout, done.stderr) == ("0\n", "")
