"""Reload of policies: nothing in flight is lost, and a file that is wrong changes nothing."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.cli.reloading import Reloader
from gateway.core.calls import LOCAL, Answered, Denied, Front, ToolCall
from gateway.core.policy import load_policy
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id
from tests.support.gateways import copy_pack, served
from tests.support.processes import Served, serving

TALKS = "version: 1\nrules:\n  - {id: talk, allow: [echo.echo, echo.sleep]}\n"
TALKS_AND_READS = TALKS + "  - {id: read, allow: echo.read}\n"
SILENT = 'version: 1\nrules:\n  - {id: silence, deny: "*"}\n'
FAILS = TALKS + "tests:\n  - {call: echo.echo, args: {text: x}, expect: deny}\n"


def sha256(text: str) -> str | None:
    return load_policy(text, "p.yaml").sha256


def call(tool: str, **arguments: Any) -> ToolCall:
    return ToolCall(new_call_id(), tool, arguments, Front.MCP)


def names(session: Session) -> list[Any]:
    return [tool["name"] for tool in session.tools()]


def reloader(gateway: Gateway, file: Path, said: list[str] | None = None) -> Reloader:
    return Reloader(gateway, file, ([] if said is None else said).append)


async def test_a_hundred_reloads_drop_no_call_and_each_is_judged_by_one_of_the_two(tmp_path: Path) -> None:
    file, seen, calls = tmp_path / "p.yaml", set[str | None](), 0
    async with served(tmp_path, policy=TALKS) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        over, answered = anyio.Event(), anyio.Event()

        async def talk() -> None:
            nonlocal calls
            while not over.is_set():
                outcome = await gateway.call(session, call("echo", text="x"))
                assert isinstance(outcome, Answered)
                seen.add(outcome.decision.policy_sha256)
                calls += 1
                answered.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(talk)
            for number in range(100):
                text = (TALKS_AND_READS, TALKS)[number % 2]
                file.write_text(text)
                await reloader(gateway, file).reload()
                assert gateway.packs["echo"].policy.sha256 == sha256(text)
                answered = anyio.Event()
                await answered.wait()
            over.set()
    assert seen == {sha256(TALKS), sha256(TALKS_AND_READS)}
    assert calls >= 100


async def test_live_sessions_are_judged_by_the_new_policy_and_calls_in_flight_by_the_old(
    tmp_path: Path,
) -> None:
    file, said = tmp_path / "p.yaml", list[str]()
    async with served(tmp_path, policy=TALKS) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        assert names(session) == ["echo", "sleep"]
        outcomes: list[Any] = []

        async def run(one: ToolCall) -> None:
            outcomes.append(await gateway.call(session, one))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, call("sleep", seconds=1.0))
            while not session.in_flight:
                await anyio.lowlevel.checkpoint()
            file.write_text(SILENT)
            await reloader(gateway, file, said).reload()
            await run(call("echo", text="x"))
        denied, answered = outcomes
        assert isinstance(answered, Answered)
        assert answered.decision.policy_sha256 == sha256(TALKS)
        assert isinstance(denied, Denied)
        assert (denied.decision.rule, denied.decision.policy_sha256) == ("silence", sha256(SILENT))
        assert names(session) == []
    assert said == [f"pack 'echo': policy p.yaml is in force, sha256 {sha256(SILENT)}"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("version: 1\nrules: [\n", "p.yaml:3:"),
        ("version: 1\nrules: []\nrulez: []\n", "p.yaml:3:1: "),
        (FAILS, "p.yaml:5:"),
        (TALKS + "grants: {echo: {memory: 64Mi}}\n", "'grants' changed"),
        (None, "cannot be read"),
    ],
)
async def test_a_file_that_is_wrong_keeps_the_old_policy_and_says_so(
    tmp_path: Path, broken: str | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "p.yaml"
    if broken is not None:
        file.write_text(broken)

    def told(gateway: Gateway) -> Any:
        detail: Any = gateway.readiness().detail
        return detail["packs"]["echo"]["policy"]

    async with served(tmp_path, policy=TALKS) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await reloader(gateway, file).reload()
        assert isinstance(await gateway.call(session, call("echo", text="x")), Answered)
        assert (told(gateway)["sha256"], said in told(gateway)["refused"]) == (sha256(TALKS), True)
        assert "the one before stays in force" in caplog.text
        assert said in caplog.text
        assert gateway.ready
        file.write_text(TALKS_AND_READS)
        await reloader(gateway, file).reload()
        assert told(gateway) == {"file": "p.yaml", "sha256": sha256(TALKS_AND_READS), "refused": None}


async def test_a_file_that_changed_before_the_watch_began_is_noticed(tmp_path: Path) -> None:
    file, noticed = tmp_path / "p.yaml", anyio.Event()
    file.write_text(TALKS_AND_READS)
    async with served(tmp_path, policy=TALKS) as gateway, anyio.create_task_group() as tasks:
        await tasks.start(Reloader(gateway, file, lambda _: noticed.set()).on_change)
        with anyio.fail_after(10):
            await noticed.wait()
        tasks.cancel_scope.cancel()
        assert gateway.packs["echo"].policy.sha256 == sha256(TALKS_AND_READS)


def ready(gateway: Served) -> Any:
    with urllib.request.urlopen(f"{gateway.url}/ready", timeout=10) as answer:
        return json.loads(answer.read())["packs"]["echo"]["policy"]


def check_says(gateway: Served, text: str) -> None:
    """Read on until the gateway says `text`."""
    assert gateway.process.stderr is not None
    said = iter(gateway.process.stderr.readline, "")
    assert any(text in line for line in said)


def test_a_running_gateway_reloads_at_sighup(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path).folder
    with serving(str(pack), "--state", str(tmp_path / "state")) as gateway:
        (pack / "policy.yaml").write_text(TALKS)
        assert ready(gateway)["sha256"] != sha256(TALKS)
        gateway.process.send_signal(signal.SIGHUP)
        check_says(gateway, f"policy.yaml is in force, sha256 {sha256(TALKS)}")
        assert ready(gateway)["sha256"] == sha256(TALKS)
        (pack / "policy.yaml").write_text("version: 1\n")
        gateway.process.send_signal(signal.SIGHUP)
        check_says(gateway, "WARNING gateway.cli.reloading: policy not reloaded")
        assert ready(gateway)["sha256"] == sha256(TALKS)
        assert "policy.yaml:1:1: " in ready(gateway)["refused"]
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(30) == 0


def test_with_watch_a_running_gateway_reloads_when_the_file_changes(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path).folder
    policy = tmp_path / "p.yaml"
    policy.write_text(TALKS)
    options = ("--policy", str(policy), "--watch", "--state", str(tmp_path / "state"))
    with serving(str(pack), *options) as gateway:
        policy.write_text(SILENT)
        check_says(gateway, f"p.yaml is in force, sha256 {sha256(SILENT)}")
        policy.unlink()
        check_says(gateway, "cannot be read")
        draft = tmp_path / "draft"
        draft.write_text(TALKS_AND_READS)
        draft.rename(policy)
        check_says(gateway, f"p.yaml is in force, sha256 {sha256(TALKS_AND_READS)}")
        assert ready(gateway)["refused"] is None
