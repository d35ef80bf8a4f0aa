"""Tool servers are killed under load: each call is answered once, runs at most once, is recorded twice."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import anyio

from gateway.core.calls import LOCAL, Answered, Failed, FailureKind, Front, ToolCall
from gateway.runtime.audit import verify
from gateway.runtime.gateway import GatewaySettings
from gateway.runtime.sessions import Session, new_call_id
from tests.support.gateways import served
from tests.support.process_table import descendants

CALLS, CALLERS, SESSIONS = 1_000, 50, 5
SETTINGS = GatewaySettings(plain_arguments=True)


def server_pids() -> list[int]:
    """Return the processes below this one that run the test server's code, and nobody else's."""
    return [pid for pid, _ in descendants(os.getpid()) if is_server(pid)]


def is_server(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"/opt/pack/servers/echo.py" in words and b"python" in words[0]


async def kill_one_in_turn(killed: list[int]) -> None:
    while True:
        for pid in server_pids():
            await anyio.sleep(0.1)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(pid)
        await anyio.sleep(0.01)


async def ran(session: Session) -> Counter[str]:
    """Return how often the server itself says each text arrived."""
    try:
        log = (await session.workspace.read(".echo-log.jsonl", max_bytes=50_000_000)).decode()
    except FileNotFoundError:  # every server of this session died before its first message
        return Counter()
    messages = [json.loads(line) for line in log.splitlines() if line.endswith("}")]
    return Counter(m["params"]["arguments"]["text"] for m in messages if m["method"] == "tools/call")


async def test_every_call_is_answered_once_and_runs_at_most_once(tmp_path: Path) -> None:
    outcomes: dict[str, Any] = {}
    killed: list[int] = []
    texts = iter([f"call {number}" for number in range(CALLS)])

    async def caller(session: Session) -> None:
        for text in texts:
            call = ToolCall(new_call_id(), "echo", {"text": text}, Front.CLI)
            with anyio.fail_after(31):
                outcomes[text] = await gateway.call(session, call)

    async with served(tmp_path, settings=SETTINGS) as gateway:
        sessions = [await gateway.open_session("echo", LOCAL) for _ in range(SESSIONS)]
        async with anyio.create_task_group() as storm:
            storm.start_soon(kill_one_in_turn, killed)
            async with anyio.create_task_group() as callers:
                for number in range(CALLERS):
                    callers.start_soon(caller, sessions[number % SESSIONS])
            storm.cancel_scope.cancel()
        arrived = Counter[str]()
        for session in sessions:
            arrived += await ran(session)

    assert killed
    assert len(outcomes) == CALLS
    answered = {text for text, outcome in outcomes.items() if isinstance(outcome, Answered)}
    failed = {o.kind for o in outcomes.values() if isinstance(o, Failed)}
    assert failed <= {FailureKind.CRASHED, FailureKind.START_FAILED}
    assert set(arrived.values()) == {1}
    assert answered <= set(arrived)
    report = verify(tmp_path / "state")
    assert report.ok
    assert (report.decisions, report.outcomes, report.open_calls) == (CALLS, CALLS, 0)
