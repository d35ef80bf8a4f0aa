"""`sandgate env play`, as a person plays: lines from a pipe, and once at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.support.gateways import copy_pack
from tests.support.processes import sandgate_argv


def played(tmp_path: Path, *lines: str, form: str = "text") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tmp_path, "--format", form),
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def command(tmp_path: Path, *more: str) -> list[str]:
    pack = str(copy_pack("echo", tmp_path).folder)
    return sandgate_argv(
        "env", "play", pack, "--task", "fix-readme", "--seed", "4", "--state", str(tmp_path / "state"), *more
    )


def test_a_person_fills_in_forms_sees_every_decision_and_is_scored(tmp_path: Path) -> None:
    done = played(
        tmp_path,
        *("write", "", "README.md", "The echo pack's workspace."),
        'write {"path": "/workspace/.env", "content": "x"}',
        *("write", "!"),
        "code",
        "print(6 * 7)",
        'echo(text="forbidden")',
        ".",
        "state",
        "submit done",
        "echo",
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "task fix-readme, seed 4\nFix the typo in README.md and say done." in told
    assert re.search(r"path \(text\): \n  it is needed", told)
    assert re.search(r"allow by rule files: .* \(policy\.yaml:\d+\) \[rule_allow\]", told)
    assert "deny by rule no-secret-files: secret files are never in scope (policy.yaml:10)" in told
    assert told.count("secret files are never in scope") == 1
    assert "reward -0.25" in told
    assert "given up: nothing was called" in told
    assert "\n| 42\n" in told
    assert re.search(r"  echo: deny by rule .*\[rule_deny\]", told)
    assert '"step_count":3' in told
    assert "done: submitted" in told
    assert "reward 1" in told
    assert told.rstrip().endswith("answer_matches")  # the last check's line: nothing was asked after the end


def test_one_document_tells_all_that_was_played_and_the_conversation_stands_beside_it(tmp_path: Path) -> None:
    done = played(tmp_path, '{"type": "list_tools"}', "echo", "hi", "no-such", "{}", form="json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["pack"], told["task"], told["seed"], told["reward"]) == ("echo", "fix-readme", 4, None)
    assert told["done"] is False
    assert [step["action"]["type"] for step in told["steps"]] == ["list_tools", "call_tool"]
    assert told["steps"][1]["observation"]["result"]["data"] == "hi"
    assert len(Path(told["trajectory"]).read_text().splitlines()) == 2
    assert "no tool and no word 'no-such'" in done.stderr
    assert "left without submitting" in done.stderr


def test_what_a_tool_writes_cannot_play_with_the_terminal(tmp_path: Path) -> None:
    done = played(tmp_path, 'echo {"text": "\\u001b[2Jgone\\u202e\\n  deny by rule fake"}')
    assert "| \\u{1b}[2Jgone\\u{202e}\n|   deny by rule fake\n" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_task_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    argv = [*command(tmp_path), "--task", "nope"]
    done = subprocess.run(argv, capture_output=True, text=True, input="", timeout=60, check=False)
    assert done.returncode == 2
    assert "no task 'nope'; there are: be-good, fix-readme" in done.stderr


def test_at_a_terminal_lines_are_answered_and_an_interrupt_leaves_cleanly(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        until(ours, "1> ")
        os.write(ours, b"echo\n")
        until(ours, "text (text): ")
        os.write(ours, "h\u00e9\n".encode())
        answer = until(ours, "2> ")
        assert "allow by rule talk" in answer
        assert "h\u00e9" in answer
        interrupt(process, ours, "left without submitting")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def interrupt(process: subprocess.Popen[bytes], terminal: int, wanted: str) -> None:
    """Press Ctrl-C until it is answered with `wanted`.

    One that comes after the prompt but before the line editor waits is only noticed at the next key.
    """
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        if select.select([terminal], [], [], 3)[0]:
            break
    until(terminal, wanted)


def until(terminal: int, wanted: str) -> str:
    """Return what comes out of a terminal up to `wanted`."""
    seen = b""
    while wanted.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, f"waited for {wanted!r}, saw {seen.decode(errors='replace')}"
        seen += os.read(terminal, 65536)
    return seen.decode(errors="replace")
