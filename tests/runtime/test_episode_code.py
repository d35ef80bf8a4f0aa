"""CodeAct for real: Python in a sandbox of its own, its calls judged and recorded like everybody's."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.calls import LOCAL
from gateway.core.episode import CallTool, Code, ListTools, StepResult
from gateway.core.task_choice import ResetRequest
from gateway.runtime.episodes import Episodes, EpisodeSession
from gateway.runtime.gateway import GatewaySettings
from gateway.runtime.trajectories import TrajectoryFolder
from tests.support.gateways import copy_pack, served

TRAINING = GatewaySettings(mode="training")


@asynccontextmanager
async def playing(
    tmp_path: Path, *, max_steps: int = 8, files: str = "workspace", **more: Any
) -> AsyncGenerator[EpisodeSession]:
    manifest = copy_pack("echo", tmp_path).folder / "toolpack.yaml"
    manifest.write_text(
        manifest.read_text().replace("max_steps: 8", f"max_steps: {max_steps}, code: {files}")
    )
    async with served(tmp_path, settings=TRAINING, **more) as gateway:
        writer = TrajectoryFolder(tmp_path / "trajectories")
        held = Episodes(gateway, cache_dir=tmp_path / "cache", trajectories=writer)
        async with held.held("echo", LOCAL, None) as session:
            yield session


async def ran(session: EpisodeSession, code: str, seconds: float | None = None) -> dict[str, Any]:
    with anyio.fail_after(20):
        return (await session.step(Code(code), seconds)).observation


def records(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "state" / "audit").glob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line.get("call_id")]


async def test_code_prints_computes_and_calls_tools_with_every_call_judged_and_recorded(
    tmp_path: Path,
) -> None:
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(episode_id="mine"))
        seen = await ran(session, "print('working'); said = echo(text='hi')\n{'said': said, 'n': [1, 2.5]}")
        assert seen["stdout"] == "working\n"
        assert seen["result"] == {"said": "hi", "n": [1, 2.5]}
        assert seen["error"] is None
        (called,) = seen["calls"]
        assert (called["tool"], called["outcome"], called["decision"]["rule"]) == ("echo", "answered", "talk")
    assert [(r["event"], r["front"], r["episode"], r["step"], r["tool"]) for r in records(tmp_path)] == [
        ("decision", "code", "mine", 1, "echo"),
        ("outcome", "code", "mine", 1, "echo"),
    ]


async def test_a_denied_call_raises_with_the_decision_and_never_reaches_the_server(tmp_path: Path) -> None:
    code = """
try:
    write(path=".env", content="x")
except ToolDenied as denied:
    told = denied.decision
told["effect"], told["rule"], str(denied) if "denied" in dir() else ""
"""
    async with playing(tmp_path) as session:
        step = await session.step(Code(code))
        assert step.observation["result"] == ["deny", "no-secret-files", ""]
        assert step.reward == -0.25
        calls: Any = step.observation["calls"]
        assert [(c["tool"], c["outcome"]) for c in calls] == [("write", "denied")]
        log = json.loads(json.dumps((await ran(session, "log()"))["result"]))
        called = [json.loads(line).get("params", {}).get("name") for line in log.splitlines()]
        assert "write" not in called


async def test_errors_of_tools_and_odd_arguments_are_exceptions_with_their_own_names(tmp_path: Path) -> None:
    code = """
def kind(call):
    try:
        call()
    except Exception as raised:
        return type(raised).__name__
[
    kind(lambda: fail(message="no")),
    kind(lambda: rpc_error()),
    kind(lambda: echo(text=1)),
    kind(lambda: echo(nonsense=1)),
    kind(lambda: echo(text=object())),
    kind(lambda: echo(text=float("nan"))),
    kind(lambda: echo(text={"a": 1, "A": 2})),
    kind(lambda: echo("positional")),
    echo("positional"),
]
"""
    async with playing(tmp_path) as session:
        assert (await ran(session, code))["result"] == [
            *("ToolError", "ToolFailed", "ToolDenied", "ToolDenied", "TypeError", "ValueError"),
            *("ToolFailed", None, "positional"),
        ]


async def test_tools_are_documented_functions_and_hidden_ones_are_not_there(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        listed = (await session.step(ListTools())).observation["tools"]
        assert isinstance(listed, list)
        seen = await ran(session, "[t['name'] for t in list_tools()], write.__doc__, 'hidden' in globals()")
        names, doc, hidden = seen["result"]
        assert names == [tool["name"] for tool in listed if isinstance(tool, dict)]
        assert doc.startswith("Write a file.")
        assert "content (string)" in doc
        assert hidden is False
        helped = await ran(session, "help(write)")
        assert "write(path, content)" in helped["stdout"]
        assert "Write a file." in helped["stdout"]


async def test_variables_live_until_the_reset(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset()
        await ran(session, "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\np = P(3)")
        assert (await ran(session, "p"))["result"] == "P(x=3)"
        await session.reset()
        error = (await ran(session, "p"))["error"]
        assert (error["error_type"], error["exception"]) == ("execution_error", "NameError")
        assert "<code 1>" in error["traceback"]


async def test_code_shares_the_workspace_with_the_servers_and_sees_no_secret(tmp_path: Path) -> None:
    async with playing(tmp_path, secrets={"TOKEN": "s3cret"}) as session:
        await session.reset(ResetRequest(seed=7))
        await ran(session, "open('made.txt', 'w').write('by code')")
        read = await session.step(CallTool("read", {"path": "made.txt"}))
        assert data(read) == "by code"
        seen = await ran(session, "import os; dict(os.environ)")
        assert "s3cret" not in json.dumps(seen["result"])
        assert seen["result"]["SANDGATE_SEED"] == "7"
        assert seen["result"]["SANDGATE_EPOCH"] == "946684800"
        network = "import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)"
        assert (await ran(session, network))["error"]["error_type"] == "execution_error"


def data(result: StepResult) -> Any:
    shown = result.observation["result"]
    assert isinstance(shown, dict)
    return shown["data"]


async def test_submitting_in_code_ends_the_episode_and_what_follows_is_not_called(tmp_path: Path) -> None:
    code = "submit(answer='done')\ntry:\n    echo(text='late')\nexcept ToolFailed as e:\n    print(e.kind)"
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="fix-readme"))
        end = await session.step(Code(code))
        assert (end.done, end.metadata["done_reason"], end.reward) == (True, "submitted", 0.25)
        assert end.observation["stdout"] == "episode_over\n"


async def test_too_many_denials_in_one_code_end_the_episode(tmp_path: Path) -> None:
    code = "for _ in range(50):\n    try: echo(text='forbidden')\n    except ToolError: pass"
    async with playing(tmp_path) as session:
        end = await session.step(Code(code))
        assert (end.done, end.metadata["done_reason"]) == (True, "max_denials")
        calls = end.observation["calls"]
        assert isinstance(calls, list)
        assert len(calls) == 3
        assert end.reward == 3 * -0.25 + 1.0 - 1.0


async def test_a_server_that_dies_under_code_truncates_the_episode(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        end = await session.step(Code("crash()"))
        assert (end.done, end.metadata["done_reason"], end.metadata["truncated"]) == (
            True,
            "server_failed",
            True,
        )


# -- code that does its worst: a typed observation each time, and the session goes on

LOOP = "while True: pass"


def on_every_descriptor(data: bytes, times: int = 1) -> str:
    """Return code that writes to whatever may be the interpreter's line to the gateway."""
    lines = ["import os", f"for _ in range({times}):", "    for fd in range(3, 20):"]
    return "\n".join([*lines, f"        try: os.write(fd, {data!r})", "        except OSError: pass"])


STUBBORN = """
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
while True:
    pass
"""


async def test_a_loop_is_stopped_and_the_variables_stay(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await ran(session, "kept = 1")
        late = await ran(session, f"print('before')\nsleep(seconds=0)\n{LOOP}", 0.3)
        assert late["error"]["error_type"] == "timeout"
        assert late["stdout"] == "before\n"
        assert [call["tool"] for call in late["calls"]] == ["sleep"]
        assert (await ran(session, "kept"))["result"] == 1


async def test_the_episodes_time_ends_code_and_the_episode(tmp_path: Path) -> None:
    manifest = copy_pack("echo", tmp_path).folder / "toolpack.yaml"
    manifest.write_text(manifest.read_text().replace("max_denials: 3", "max_denials: 3, time_limit: 1s"))
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="be-good"))
        late = await session.step(Code(LOOP))
        assert isinstance(late.observation["error"], dict)
        assert late.observation["error"]["error_type"] == "timeout"
        assert (late.done, late.metadata["done_reason"], late.reward) == (True, "time_limit", 0.5)


async def test_a_call_that_takes_too_long_is_given_up_in_the_codes_time(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        late = await ran(session, "kept = 1\nsleep(seconds=30)", 0.5)
        assert late["error"]["error_type"] == "timeout"
        assert [(c["tool"], c["outcome"], c["failure"], c["decision"]["code"]) for c in late["calls"]] == [
            ("sleep", "failed", "timeout", "rule_allow")
        ]
        assert (await ran(session, "kept"))["result"] == 1


BREAKING = [
    (STUBBORN, "timeout"),
    ("import os; os._exit(0)", "execution_error"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "execution_error"),
    ("import os; os.closerange(0, 100)", "execution_error"),
    (on_every_descriptor(b"garbage\n"), "execution_error"),
    (on_every_descriptor(b'{"turn": 99, "call": 1}\n'), "execution_error"),
    (on_every_descriptor(b"x" * 50_000, times=500), "execution_error"),
    (on_every_descriptor(b"\n" * 50_000, times=1_000_000), "timeout"),
    ("x = []\nwhile True: x.append(bytearray(10_000_000))", "execution_error"),
]


async def test_a_broken_interpreter_is_told_and_replaced_at_the_next_code(tmp_path: Path) -> None:
    async with playing(tmp_path, max_steps=100) as session:
        for code, kind in BREAKING:
            broken = await ran(session, code, 0.5 if kind == "timeout" else 15)
            assert (code, broken["error"]["error_type"]) == (code, kind)
            assert (await ran(session, "1 + 1"))["result"] == 2


ODD: list[tuple[str, Any]] = [
    ("import os\nif os.fork() == 0:\n    print('child')\n    raise SystemExit\nos.wait()[1]", 0),
    ("import os\npid = os.fork()\nif not pid:\n    while True: pass\n'parent'", "parent"),
    ("import sys; sys.stdout.close(); sys.stderr.close(); 1", 1),
    ("import os; os.close(1); os.close(2); os.close(0); 1", 1),
    ("import sys; sys.stdout = None; del sys.stderr; 1", 1),
    ("import threading\nt = threading.Thread(target=lambda: echo('x')); t.start(); t.join(); 1", 1),
    ("import threading\nthreading.Thread(target=lambda: [sleep(0.01) for _ in range(99)]).start(); 1", 1),
    ("import subprocess; subprocess.run(['echo', 'below'], check=True).returncode", 0),
    ("10**100", 10**100),
    ("{1: 2}", "{1: 2}"),
    ("'\\ud800'", "'\\ud800'"),
    ("{'a': 1, 'A': 2}", "{'a': 1, 'A': 2}"),
    ("[[]] * 3", [[], [], []]),
    ("l = []; l.append(l); l", "[[...]]"),
    ("float('nan')", "nan"),
    ("('a', None, True)", ["a", None, True]),
    ("x = 1", None),
    ("", None),
]


async def test_odd_code_is_answered_like_any_other(tmp_path: Path) -> None:
    async with playing(tmp_path, max_steps=100) as session:
        for code, result in ODD:
            assert (code, (await ran(session, code, 15))["result"]) == (code, result)
            assert (await ran(session, "print('on'); 2", 15))["stdout"].endswith("on\n")


RAISING = [
    ("1 +", "SyntaxError"),
    ("raise SystemExit(3)", "SystemExit"),
    ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E"),
    ("def f(): f()\nf()", "RecursionError"),
    ("class R:\n    def __repr__(self): raise KeyError('r')\nR()", "KeyError"),
    ("import os; os.fork() or exit()\nraise LookupError", "LookupError"),
    ("import os\nwhile True: os.fork()", "BlockingIOError"),
    ("x = '\\0'\nopen(x)", "ValueError"),
]


async def test_what_code_raises_is_its_own_and_told(tmp_path: Path) -> None:
    async with playing(tmp_path, max_steps=100) as session:
        for code, exception in RAISING:
            error = (await ran(session, code, 15))["error"]
            assert (code, error["error_type"], error["exception"]) == (code, "execution_error", exception)
            assert (await ran(session, "2"))["result"] == 2


async def test_output_results_and_calls_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.runtime.episode_code.MAX_CALLS", 5)
    async with playing(tmp_path) as session:
        loud = await ran(session, "for _ in range(300): print('x' * 1000)\n'y' * 5_000_000", 10)
        assert len(loud["stdout"]) < 101_000
        assert "more bytes were left out" in loud["stdout"]
        assert len(loud["result"]) <= 10_000
        below = await ran(session, "import os\nfor _ in range(300): os.write(1, b'x' * 1000)", 10)
        assert len(below["stdout"]) < 101_000
        calls = "for i in range(9):\n    try: echo('x')\n    except ToolFailed as e: last = e.kind\nlast"
        many = await ran(session, calls, 10)
        assert (len(many["calls"]), many["result"]) == (5, "limit")


async def test_code_that_calls_on_and_on_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.runtime.episode_code.MAX_CALLS", 1)
    code = "while True:\n    try: echo('x')\n    except ToolFailed: pass"
    async with playing(tmp_path) as session:
        ended = await ran(session, code, 30)
        assert "beyond what it may" in ended["error"]["message"]
        assert len(ended["calls"]) == 1


async def test_code_that_is_kept_apart_reaches_the_workspace_through_tools_alone(tmp_path: Path) -> None:
    code = "import os; open('own.txt', 'w').write('x'); os.listdir('.'), read('README.md')[:3]"
    async with playing(tmp_path, files="apart") as session:
        await session.reset()
        assert (await ran(session, code))["result"] == [["own.txt"], "Teh"]
        assert (await ran(session, "open('own.txt').read()"))["result"] == "x"
        missing = await session.step(CallTool("read", {"path": "own.txt"}))
        assert "own.txt" in json.dumps(missing.observation["result"])
        await session.reset()
        assert (await ran(session, "import os; os.listdir('.')"))["result"] == []


async def test_a_pack_may_take_no_code_at_all(tmp_path: Path) -> None:
    async with playing(tmp_path, files="none") as session:
        seen = await ran(session, "1")
        assert (seen["result"], seen["error"]["message"]) == (None, "this pack takes no code")


async def test_code_is_in_the_trajectory(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset()
        await ran(session, "echo('x')")
    (file,) = (tmp_path / "trajectories").glob("*.jsonl")
    line = json.loads(file.read_text())
    assert line["action"] == {"type": "code", "code": "echo('x')"}
    assert line["observation"]["calls"][0]["arguments"] == {"text": "x"}


async def test_code_may_not_write_where_the_policy_grants_no_server_to(tmp_path: Path) -> None:
    copy_pack("echo", tmp_path)
    server = tmp_path / "packs" / "echo" / "servers" / "echo.py"
    server.write_text(server.read_text().replace('Path(".echo-log.jsonl")', 'Path("/tmp/log")'))
    policy = "version: 1\nrules: [{id: all, allow: '*'}]\ngrants: {echo: {mounts: {ro: [/workspace]}}}\n"
    async with playing(tmp_path, policy=policy) as session:
        seen = await ran(session, "open('README.md').read()[:4], open('new.txt', 'w')")
        assert "Read-only file system" in seen["error"]["message"]
