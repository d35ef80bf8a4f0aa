"""How a served gateway ends: in order on SIGTERM, and without a trace on SIGKILL."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import anyio
import httpx2
import pytest

from gateway.runtime.audit import verify
from tests.support.gateways import copy_pack, discreet_pack
from tests.support.mcp_http import LEGACY, RawMcp, texts
from tests.support.process_table import descendants, gone_within
from tests.support.processes import Served, serving


def host_mounts() -> list[str]:
    """Return what is mounted on the host, but for a container engine's own, which come and go."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    engines = ("/docker", "/sandgate-engine", "nsfs")
    return [line for line in lines if not any(mark in line for mark in engines)]


async def open_sessions(gateway: Served, http: httpx2.AsyncClient, count: int) -> list[RawMcp]:
    clients = [RawMcp(http, f"{gateway.url}/mcp") for _ in range(count)]
    for client in clients:
        assert texts(await client.call(LEGACY, "echo", text="hello")) == "hello"
    return clients


async def decided(state: Path, tool: str) -> None:
    """Return once the ledger holds a decision on a call of `tool`: from then on it is in flight."""
    with anyio.fail_after(10):
        while f'"tool":"{tool}"' not in ledger_text(state):  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.02)


def ledger_text(state: Path) -> str:
    return "".join(file.read_text() for file in (state / "audit").glob("*.jsonl"))


async def turned_away(client: RawMcp) -> bool:
    """Return whether calls come to be refused, in words (503) or by a closed port."""
    for _ in range(100):
        try:
            answer = await client.call(LEGACY, "echo", text="late")
        except httpx2.TransportError:
            return True
        if answer.status_code == 503:
            return "retry-after" in answer.headers
        await anyio.sleep(0.01)
    return False


async def test_sigterm_finishes_calls_in_flight_exits_0_and_leaves_no_process(tmp_path: Path) -> None:
    pack, state = str(copy_pack("echo", tmp_path).folder), tmp_path / "state"
    with serving(pack, "--state", str(state)) as gateway:
        async with httpx2.AsyncClient(timeout=30) as http:
            client, other = await open_sessions(gateway, http, 2)
            processes = descendants(gateway.process.pid)
            assert len(processes) >= 4
            answers: list[httpx2.Response] = []

            async def slow() -> None:
                answers.append(await client.call(LEGACY, "sleep", seconds=1))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(slow)
                await decided(state, "sleep")
                gateway.process.send_signal(signal.SIGTERM)
                assert await turned_away(other)
            assert answers[0].status_code == 200, answers[0].text
            assert texts(answers[0]) == "slept"
        assert gateway.process.wait(10) == 0
        assert gone_within(processes, 2) == set()
    assert verify(state).ok


async def test_sigkill_of_the_gateway_leaves_no_process_after_two_seconds(tmp_path: Path) -> None:
    pack, state = str(copy_pack("echo", tmp_path).folder), tmp_path / "state"
    mounts = host_mounts()
    with serving(pack, "--state", str(state)) as gateway:
        async with httpx2.AsyncClient(timeout=30) as http:
            await open_sessions(gateway, http, 3)
            processes = descendants(gateway.process.pid)
            assert len(processes) >= 6
            os.kill(gateway.process.pid, signal.SIGKILL)
        assert gone_within(processes, 2) == set()
    assert host_mounts() == mounts
    with serving(pack, "--state", str(state)) as again:
        async with httpx2.AsyncClient(timeout=30) as http:
            await open_sessions(again, http, 1)
    assert verify(state).ok


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
async def test_servers_kept_warm_end_with_the_gateway(by: signal.Signals, tmp_path: Path) -> None:
    pack, state = str(discreet_pack(tmp_path).parents[1]), tmp_path / "state"
    env = {"SANDGATE_POOL_MINIMUM": "2", "SANDGATE_POOL_MAXIMUM": "3"}
    mounts = host_mounts()
    with serving(pack, "--state", str(state), env=env) as gateway:
        async with httpx2.AsyncClient(timeout=30) as http:
            await warm(gateway, http, 2)
            await open_sessions(gateway, http, 1)
        processes = descendants(gateway.process.pid)
        assert len(processes) >= 7  # the launcher, and for each server bwrap twice and itself
        gateway.process.send_signal(by)
        gateway.process.wait(10)
        assert gone_within(processes, 2) == set()
    assert host_mounts() == mounts
    assert verify(state).ok


async def warm(gateway: Served, http: httpx2.AsyncClient, count: int) -> None:
    """Return once the gateway keeps `count` sessions' servers ready."""
    with anyio.fail_after(10):
        while (await http.get(f"{gateway.url}/ready")).json()["warm"] != count:  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def kill_under_load(gateway: Served, acknowledged: set[str]) -> None:
    """Make calls from eight callers at once, keep the id of each that is answered, and kill the gateway."""
    enough, enough_seen = len(acknowledged) + 40, anyio.Event()

    async def caller(http: httpx2.AsyncClient, name: str) -> None:
        client = RawMcp(http, f"{gateway.url}/mcp")
        params = {"name": "echo", "arguments": {"text": name}}
        while True:
            answer = await client.modern("tools/call", params, headers={"sandgate-session": name})
            acknowledged.add(answer.json()["result"]["_meta"]["sandgate/decision"]["call_id"])
            if len(acknowledged) >= enough:
                enough_seen.set()

    async with httpx2.AsyncClient(timeout=30) as http, anyio.create_task_group() as callers:
        for number in range(8):
            callers.start_soon(caller, http, f"job-{number}")
        with anyio.fail_after(30):
            await enough_seen.wait()
        os.kill(gateway.process.pid, signal.SIGKILL)
        callers.cancel_scope.cancel()


async def test_every_acknowledged_call_survives_kills_of_the_gateway_under_load(tmp_path: Path) -> None:
    pack, state = str(copy_pack("echo", tmp_path).folder), tmp_path / "state"
    acknowledged = set[str]()
    for _ in range(3):
        with serving(pack, "--state", str(state)) as gateway:
            processes = descendants(gateway.process.pid)
            await kill_under_load(gateway, acknowledged)
            assert gone_within(processes, 2) == set()
        assert verify(state).ok
    with serving(pack, "--state", str(state)):
        report = verify(state)
    assert (report.ok, report.open_calls) == (True, 0)
    records = [json.loads(line) for line in ledger_text(state).split("\n") if line]
    outcomes = {r["call_id"]: r["outcome"]["kind"] for r in records if r["event"] == "outcome"}
    assert {outcomes.get(call_id) for call_id in acknowledged} == {"answered"}
