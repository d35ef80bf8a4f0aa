"""Five hundred live sessions on one gateway: what each costs, and that one's trouble stays its own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from benchmarks.http_caller import LEGACY, MODERN, Caller
from gateway.runtime.audit import verify
from gateway.sandbox.launcher.workers import MOST_IDLE
from tests.support.gateways import copy_pack
from tests.support.process_table import descendants
from tests.support.processes import Served, serving

SESSIONS = 500  # what `limits.max_sessions` is by default
AT_ONCE = 8  # openings and endings

# Megabytes of the gateway's process, and descriptors of each session with its client's connection.
MEMORY_BASE, MEMORY_EACH, DESCRIPTORS_EACH = 60, 0.3, 6


def memory(gateway: Served) -> float:
    """Return the resident megabytes of the gateway's process."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def held(gateway: Served) -> tuple[int, int]:
    """Return how many descriptors the gateway has, and how many processes are below it."""
    pid = gateway.process.pid
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()), len(descendants(pid))


def patient_pack(tmp_path: Path) -> str:
    """Copy the echo pack with a server that is cheap to start by the hundred, and calls that may hang."""
    folder = copy_pack("echo", tmp_path).folder
    manifest = folder / "toolpack.yaml"
    text = manifest.read_text()
    assert "call_timeout: 5s" in text
    manifest.write_text(text.replace("call_timeout: 5s", "call_timeout: 300s\n    fork_server: true"))
    return str(folder)


async def call(caller: Caller, tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": f"{tool} {caller.session}", "method": "tools/call", "params": params}
    answer = json.loads(await caller.post(body))
    assert answer["id"] == body["id"]
    return answer["result"]


async def echoes(caller: Caller) -> None:
    """Call, and expect this very session's own words back."""
    result = await call(caller, "echo", text=f"I am {caller.session}")
    assert result["content"] == [{"type": "text", "text": f"I am {caller.session}"}]


async def end(caller: Caller) -> None:
    """End a session from another connection: its own may wait for an answer."""
    other = Caller(caller.port, caller.path, MODERN)  # the era without a handshake: just a connection
    await other.open()
    other.session = caller.session
    await other.end()
    other.close()


async def for_each(
    callers: Iterable[Caller], action: Callable[[Caller], Awaitable[None]], at_once: int
) -> None:
    limiter = anyio.CapacityLimiter(at_once)

    async def one(caller: Caller) -> None:
        async with limiter:
            await action(caller)

    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(one, caller)


def new_caller(gateway: Served) -> Caller:
    port = urlsplit(gateway.url).port
    assert port is not None
    return Caller(port, "/mcp", LEGACY)


async def opened(gateway: Served, count: int) -> list[Caller]:
    """Open sessions, each on a connection of its own and with its server started."""
    callers = [new_caller(gateway) for _ in range(count)]

    async def begin(caller: Caller) -> None:
        await caller.open()
        await echoes(caller)

    await for_each(callers, begin, AT_ONCE)
    return callers


async def settled(gateway: Served, idle: tuple[int, int]) -> None:
    """Return once nothing of any session is left: no descriptor and no process.

    The launcher keeps some workers of its own for the next sessions.
    """
    descriptors, processes = idle
    with anyio.fail_after(20):
        while True:
            now = held(gateway)
            if now[0] == descriptors and now[1] <= processes + MOST_IDLE:
                return
            await anyio.sleep(0.05)


async def one_more_is_refused(gateway: Served) -> None:
    caller = new_caller(gateway)
    with pytest.raises(RuntimeError, match=f"503.*already has {SESSIONS} sessions: close one or retry in"):
        await caller.open()
    caller.close()


async def trouble_stays_its_own(callers: list[Caller]) -> None:
    """Have some servers hang and some die, and all others answer meanwhile; ends the hanging ones."""
    hanging, dying, others = callers[:10], callers[10:20], callers[20:]
    told: list[str] = []

    async def fails(caller: Caller, tool: str, **arguments: Any) -> None:
        result = await call(caller, tool, **arguments)
        assert result["isError"]
        told.append(result["content"][0]["text"])

    async with anyio.create_task_group() as tasks:
        for caller in hanging:
            tasks.start_soon(partial(fails, caller, "sleep", seconds=250))
        async with anyio.create_task_group() as dead:
            for caller in dying:
                dead.start_soon(fails, caller, "crash")
            await for_each(others, echoes, len(others))
        assert len(told) == len(dying)  # the hanging ones hung all the while
        assert all("[crashed]" in words for words in told), told
        for caller in hanging:
            await end(caller)
    assert all("[cancelled]" in words for words in told[len(dying) :]), told


async def test_five_hundred_sessions_cost_what_is_promised_and_never_meet(tmp_path: Path) -> None:
    state, config = tmp_path / "state", tmp_path / "gateway.yaml"
    limits = f"{{max_sessions: {SESSIONS}, max_sessions_per_principal: {SESSIONS}}}"
    config.write_text(f"limits: {limits}\npool: {{minimum: 0, maximum: 0}}\n")
    with serving(patient_pack(tmp_path), "--state", str(state), "--config", str(config)) as gateway:
        idle, small = held(gateway), memory(gateway)
        callers = await opened(gateway, SESSIONS)
        each = (held(gateway)[0] - idle[0]) / SESSIONS
        full = memory(gateway)
        assert full <= MEMORY_BASE + MEMORY_EACH * SESSIONS
        assert each <= DESCRIPTORS_EACH
        print(f"{SESSIONS} sessions: {small:.0f} MB before, {full:.0f} MB with, {each:.2f} descriptors each")

        await one_more_is_refused(gateway)
        await trouble_stays_its_own(callers)
        await for_each(callers[10:], end, AT_ONCE)
        for caller in callers:
            caller.close()
        await settled(gateway, idle)

        # What they took serves those that come next: Python keeps memory, and must not lose it.
        peak = memory(gateway)
        callers = await opened(gateway, SESSIONS // 10)
        assert memory(gateway) - peak <= (full - small) / 10 / 2
        await for_each(callers, end, AT_ONCE)
        for caller in callers:
            caller.close()
        await settled(gateway, idle)
    assert verify(state).ok
