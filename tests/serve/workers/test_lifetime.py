"""How workers end and come back: each alone, all by a signal, and with their supervisor."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest

from gateway.runtime.audit import query, verify
from gateway.runtime.shared_memory import SharedMemory
from gateway.serve.server import bind
from gateway.serve.workers.supervisor import Supervisor, WorkersFailed
from tests.serve.workers.test_sessions import code, connections, said
from tests.support.gateways import copy_pack
from tests.support.mcp_http import RawMcp, texts
from tests.support.process_table import descendants, gone_within
from tests.support.processes import Served, run_sandgate, serving


def options(tmp_path: Path, workers: int = 2) -> list[str]:
    pack = str(copy_pack("echo", tmp_path).folder)
    return [pack, "--state", str(tmp_path / "state"), "--workers", str(workers)]


def pid_of(served: Served, worker: int) -> int | None:
    """Return the process of a worker that runs now."""
    for pid, _ in descendants(served.process.pid):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if f"--worker-seat={worker}:".encode() in line:
            return pid
    return None


@contextmanager
def listened_to(served: Served) -> Generator[list[str]]:
    """Give the lines that a gateway says from now on; a pipe that nobody reads would fill."""
    said: list[str] = []
    assert served.process.stderr is not None
    reading = threading.Thread(target=lambda: said.extend(served.process.stderr or ()), daemon=True)
    reading.start()
    yield said


async def until_ready(served: Served, http: httpx2.AsyncClient) -> None:
    with anyio.fail_after(60):
        while (await http.get(f"{served.url}/ready")).status_code != 200:  # noqa: ASYNC110 - it is another's
            await anyio.sleep(0.1)


async def opened(served: Served, https: list[httpx2.AsyncClient]) -> list[RawMcp]:
    clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
    await asyncio.gather(*(client.initialize() for client in clients))
    await asyncio.gather(*(client.legacy("tools/call", said("hello")) for client in clients))
    return clients


async def test_a_killed_worker_takes_its_sessions_along_and_is_replaced(tmp_path: Path) -> None:
    with serving(*options(tmp_path)) as served, listened_to(served) as lines:
        async with connections(8) as https:
            clients = await opened(served, https[:4])
            victim = pid_of(served, 1)
            assert victim is not None
            acknowledged, broken, refused = Counter[str](), 0, Counter[int]()

            async def load(client: RawMcp) -> None:
                nonlocal broken
                with anyio.move_on_after(2):
                    while True:
                        try:
                            answer = await client.legacy("tools/call", said("load"))
                        except httpx2.TransportError:
                            broken += 1
                            continue
                        if answer.status_code == 200:
                            acknowledged[str(client.session_id)] += 1
                        else:
                            refused[answer.status_code] += 1
                            await anyio.sleep(0.01)

            async with anyio.create_task_group() as tasks:
                for client in clients:
                    tasks.start_soon(load, client)
                await anyio.sleep(0.3)
                os.kill(victim, signal.SIGKILL)
            # Each call that was under way broke; each later one is told that there is no such session.
            assert broken <= 4
            assert set(refused) == {404}
            await until_ready(served, https[7])
            for http in https[4:]:
                fresh = RawMcp(http, f"{served.url}/mcp")
                assert texts(await fresh.call("2025-11-25", "echo", text="fresh")) == "fresh"
            answered = [(await client.legacy("tools/call", said("after"))).status_code for client in clients]
            assert sorted(answered) == [200, 200, 404, 404]
            assert pid_of(served, 1) not in (None, victim)
        report = verify(tmp_path / "state")
        assert report.ok, report.problems
        assert report.open_calls == 0
        recorded = Counter(
            str(record["session"]) for record in query(tmp_path / "state") if record["event"] == "outcome"
        )
        assert all(recorded[session] >= count for session, count in acknowledged.items())
    assert any(re.search(r"worker 1 ended \(signal 9\)", line) for line in lines)


async def test_a_name_whose_worker_died_is_taken_by_another(tmp_path: Path) -> None:
    with serving(*options(tmp_path)) as served, listened_to(served):
        async with connections(4) as https:
            clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
            named = {"sandgate-session": "job"}
            assert texts(await clients[0].modern("tools/call", said("one"), named)) == "one"
            seats = [pid_of(served, 1), pid_of(served, 2)]
            sessions = (await https[1].get(f"{served.url}/ready")).json()["workers"]
            owner = int(next(entry["worker"] for entry in sessions if entry["sessions"]))
            victim = seats[owner - 1]
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            await anyio.sleep(0.1)
            for client in clients[1:]:
                answer = await client.modern("tools/call", said("two"), named)
                assert (answer.status_code, code(answer)) == (200, "rule_allow")


async def test_sigkill_of_the_supervisor_leaves_no_process_after_two_seconds(tmp_path: Path) -> None:
    with serving(*options(tmp_path)) as served:
        async with connections(4) as https:
            await opened(served, https)
            processes = descendants(served.process.pid)
            assert len(processes) >= 10
            os.kill(served.process.pid, signal.SIGKILL)
            assert gone_within(processes, 2) == set()
    with serving(*options(tmp_path)) as again:
        async with connections(2) as https:
            await opened(again, https)
    report = verify(tmp_path / "state")
    assert (report.ok, report.open_calls, len(report.chains)) == (True, 0, 2)


async def test_sigterm_finishes_calls_in_flight_on_every_worker(tmp_path: Path) -> None:
    with serving(*options(tmp_path)) as served:
        async with connections(5) as https:
            clients = await opened(served, https[:4])
            processes = descendants(served.process.pid)
            slow = {"name": "sleep", "arguments": {"seconds": 2}}
            calls = [
                asyncio.create_task(client.legacy("tools/call", slow))  # noqa: TID251 - in flight meanwhile
                for client in clients
            ]
            with anyio.fail_after(20):
                while len(list(query(tmp_path / "state", tool="sleep"))) < 4:  # noqa: ASYNC110 - others write it
                    await anyio.sleep(0.05)
            served.process.send_signal(signal.SIGTERM)
            await anyio.sleep(0.2)
            late = await RawMcp(https[4], f"{served.url}/mcp").initialize()
            assert (late.status_code, late.headers.get("retry-after")) == (503, "5")
            assert [texts(await call) for call in calls] == ["slept"] * 4
        assert served.process.wait(10) == 0
        assert gone_within(processes, 2) == set()
    assert verify(tmp_path / "state").ok


async def test_sighup_reaches_every_worker(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nrules: [{id: before, allow: echo.echo}]\n")
    with serving(*options(tmp_path), "--policy", str(policy)) as served, listened_to(served):
        async with connections(4) as https:
            clients = await opened(served, https)
            policy.write_text("version: 1\nrules: [{id: after, deny: echo.echo}]\n")
            served.process.send_signal(signal.SIGHUP)
            for client in clients:
                with anyio.fail_after(20):
                    while code(await client.legacy("tools/call", said("x"))) != "rule_deny":  # noqa: ASYNC110
                        await anyio.sleep(0.05)
            page = (await https[0].get(f"{served.url}/metrics")).text
            assert 'sandgate_policy_reloads_total{pack="echo",result="in_force"} 2.0' in page


async def test_a_state_folder_outlives_changes_of_the_number_of_workers(tmp_path: Path) -> None:
    counts: list[int] = []
    for workers in (2, 1, 3):
        with serving(*options(tmp_path, workers)) as served:
            async with connections(3) as https:
                await opened(served, https)
                busy = run_sandgate("serve", *options(tmp_path, workers), "--port", "0")
                assert (busy.returncode, "in use by another sandgate" in busy.stderr) == (2, True)
                if workers == 2:  # its workers die with calls open, and nobody starts them again
                    slow = {"name": "sleep", "arguments": {"seconds": 4}}
                    client = RawMcp(https[0], f"{served.url}/mcp")
                    await client.initialize()
                    with anyio.move_on_after(1):
                        await client.legacy("tools/call", slow)
                    os.kill(served.process.pid, signal.SIGKILL)
                    served.process.wait(10)
        report = verify(tmp_path / "state")
        assert report.ok, report.problems
        counts.append(report.decisions)
        if workers != 2:
            assert report.open_calls == 0
    assert counts == [4, 7, 10]
    assert [Path(chain.folder).parent.name for chain in report.chains] == ["state", "1", "2", "3"]
    shown = run_sandgate("audit", "verify", str(tmp_path / "state"))
    assert (shown.returncode, shown.stdout.count(" holds: ")) == (0, 4)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--workers", "0"), "--workers: Input should be greater than or equal to 1"),
        (("--workers", "-1"), "--workers: Input should be greater than or equal to 1"),
        (("--workers", "1000"), "--workers: Input should be less than or equal to 64"),
        (("--workers", "two"), "Invalid value for '--workers'"),
        (("--worker-seat", "1:99:98"), "for the supervisor of `serve --workers` only"),
    ],
)
def test_nonsense_is_told_and_nothing_is_started(tmp_path: Path, args: tuple[str, ...], told: str) -> None:
    pack = str(copy_pack("echo", tmp_path).folder)
    ran = run_sandgate("serve", pack, "--state", str(tmp_path / "state"), *args)
    assert (ran.returncode, told in ran.stderr) == (2, True), ran.stderr
    assert not (tmp_path / "state").exists()


def test_stdio_has_no_workers() -> None:
    ran = run_sandgate("stdio", "echo", "--workers", "2")
    assert (ran.returncode, "No such option: --workers" in ran.stderr) == (2, True)


READY_THEN_GONE = """
import json, socket, struct, sys
said = json.dumps({"do": "ready"}).encode()
socket.socket(fileno=int(sys.argv[1])).sendall(struct.pack(">IIB", len(said), 0, 0) + said)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        ("import sys; sys.exit(2)", 2, ""),
        (READY_THEN_GONE, 1, "keeps ending (exit code 7): giving up"),
    ],
)
async def test_a_worker_that_cannot_live_ends_the_gateway(program: str, code: int, told: str) -> None:
    lines: list[str] = []
    memory = SharedMemory.make(4)
    with await bind("127.0.0.1", 0) as listener:
        supervisor = Supervisor(
            listener,
            2,
            lambda number, channel, _: [sys.executable, "-c", program, str(channel)],
            memory,
            say=lines.append,
            drain=1.0,
        )
        with pytest.raises(WorkersFailed) as failed:
            await supervisor.run()
    assert failed.value.code == code
    assert told in "\n".join(lines)
    os.close(memory.fd)
