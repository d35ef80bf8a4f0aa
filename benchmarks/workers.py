"""How calls and steps per second grow with `serve --workers N`, in one interleaved run.

Gateways with different numbers of workers stand in front of the same raw echo server, with sandbox, policy
and ledger (unsynced, so that the disk is not what is measured), and are loaded in turn: MCP calls of 100
bytes in both eras by callers with a session and a connection each, and steps of episodes over WebSockets.

The callers and the tool servers need cores too. Where there are few, the workers do not get theirs, and
calls per second say little; `busy` tells how much of a core each worker had, and `per cpu s` what one second
of it brings: where workers add cores, calls per second grow as that stays. `--share 0.1` (root, cgroups)
holds every process of the gateways to a tenth of a core, so that even two cores have room to compare.

    .venv/bin/python -m benchmarks.workers [--workers 1,2,4] [--callers 16] [--share S] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.env_sessions import Episode
from benchmarks.http_caller import LEGACY, MODERN, Caller
from benchmarks.mcp_peers import HERE, free_port, running, usage

ECHO = str(HERE / "packs" / "echo")
CGROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
PERIOD = 20_000
"""Microseconds in which a share is given out."""


@dataclass(frozen=True)
class Gateway:
    """One gateway under measurement: `answering` are the processes that answer, `first` what was started."""

    workers: int
    port: int
    first: int
    answering: tuple[int, ...]

    @property
    def processes(self) -> tuple[int, ...]:
        """All of it but the sandboxes."""
        return tuple({self.first, *self.answering})


@dataclass
class Cell:
    """What was measured of one gateway under one load."""

    load: str
    gateway: Gateway
    done: int = 0
    seconds: float = 0.0
    per_second: list[float] = field(default_factory=list[float])
    cpu: dict[int, float] = field(default_factory=dict[int, float])

    def row(self) -> dict[str, Any]:
        """Return the figures: microseconds of CPU a call, the part of a core that each worker had."""
        total = sum(self.cpu.values())
        besides = {self.gateway.first} - {*self.gateway.answering}
        return {
            "load": self.load,
            "workers": self.gateway.workers,
            "per_s": round(statistics.median(self.per_second)),
            "cpu_us": round(total / self.done * 1e6),
            "per_cpu_s": round(self.done / total),
            "busy": [round(self.cpu[pid] / self.seconds, 2) for pid in self.gateway.answering],
            "supervisor": round(sum(self.cpu[pid] for pid in besides) / self.seconds, 3),
        }


_Work = Callable[[float], Awaitable[int]]


async def _calling(gateway: Gateway, era: str, callers: int) -> list[_Work]:
    """Return what makes calls until a moment, and counts them: one for each caller."""

    async def one(number: int) -> _Work:
        caller = Caller(gateway.port, "/mcp", era, f"caller-{number}" if era == MODERN else None)
        await caller.open()
        await caller.timed(caller.tool_call("x" * 100, 1), b"xxx")  # starts the session's server
        request = caller.tool_call("x" * 100, 2)

        async def work(until: float) -> int:
            done = 0
            while time.perf_counter() < until:
                await caller.timed(request, b"xxx")
                done += 1
            caller.close()
            return done

        return work

    return [await one(number) for number in range(callers)]


async def _stepping(gateway: Gateway, sessions: int) -> list[_Work]:
    """Return what takes steps until a moment, and counts them: one for each session."""

    async def one() -> _Work:
        episode = await Episode.open(f"ws://127.0.0.1:{gateway.port}/ws")
        await episode.reset()
        await episode.step()

        async def work(until: float) -> int:
            done = 0
            while time.perf_counter() < until:
                await episode.step()
                done += 1
            await episode.close()
            return done

        return work

    return [await one() for _ in range(sessions)]


async def measure(cell: Cell, callers: int, seconds: float) -> None:
    """Add one round to a cell."""
    era = {"mcp legacy": LEGACY, "mcp modern": MODERN}.get(cell.load)
    gateway = cell.gateway
    works = await (_stepping(gateway, callers) if era is None else _calling(gateway, era, callers))
    before, begin = {pid: usage(pid).cpu for pid in gateway.processes}, time.perf_counter()
    counts = await asyncio.gather(*(work(begin + seconds) for work in works))
    took = time.perf_counter() - begin
    for pid in gateway.processes:
        cell.cpu[pid] = cell.cpu.get(pid, 0.0) + usage(pid).cpu - before[pid]
    cell.done += sum(counts)
    cell.seconds += took
    cell.per_second.append(sum(counts) / took)


async def run(cells: list[Cell], callers: int, rounds: int, seconds: float) -> None:
    """Measure every cell, in turn, `rounds` times."""
    for number in range(rounds):
        for cell in cells:
            await measure(cell, callers, seconds)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)


@contextmanager
def gateways(state: str, workers: list[int], callers: int) -> Generator[list[Cell]]:
    """Start what is compared: for each number of workers a gateway for agents, and one for training."""
    config = Path(state) / "gateway.yaml"
    most = 4 * callers
    config.write_text(
        f"audit: {{durability: written}}\n"
        f"limits: {{max_sessions: {most}, max_sessions_per_principal: {most}, session_idle: 60s}}\n"
    )
    serve = [sys.executable, "-m", "gateway.cli", "serve", ECHO, "--config", str(config)]
    with ExitStack() as stack:
        cells: list[Cell] = []
        for mode, loads in (("deployment", ("mcp legacy", "mcp modern")), ("training", ("env steps",))):
            for number in workers:
                port = free_port()
                own = ["--port", str(port), "--workers", str(number), "--state", f"{state}/{mode}-{number}"]
                process = stack.enter_context(running([*serve, "--mode", mode, *own], port))
                seats = _workers_of(process.pid)
                gateway = Gateway(number, port, process.pid, seats or (process.pid,))
                cells += [Cell(load, gateway) for load in loads]
        yield sorted(cells, key=lambda cell: cell.load)


def _workers_of(pid: int) -> tuple[int, ...]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [
        int(child) for child in children if b"--worker-seat" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return tuple(sorted(found))


@contextmanager
def held_to(share: float | None, pids: set[int]) -> Generator[None]:
    """Hold each process to a share of one core until the block ends."""
    if share is None:
        yield
        return
    root = next((place for place in CGROUPS if (place / "cgroup.procs").exists()), None)
    if root is None:
        raise SystemExit("--share needs cgroups with the cpu controller")
    made: list[Path] = []
    try:
        for pid in pids:
            group = root / f"sandgate-bench-{pid}"
            group.mkdir()
            made.append(group)
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text(f"{int(share * PERIOD)} {PERIOD}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD))
                (group / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD)))
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group in made:
            for pid in (group / "cgroup.procs").read_text().split():
                (root / "cgroup.procs").write_text(pid)
            group.rmdir()


def report(cells: list[Cell]) -> None:
    """Print one table; the ratios are against the gateway with fewest workers under the same load."""
    print(
        f"{'load':12}{'workers':>8}{'per s':>8}{'x':>7}{'cpu us':>8}{'per cpu s':>11}{'x':>7}"
        "  busy (supervisor)"
    )
    for cell in cells:
        row, first = cell.row(), next(other for other in cells if other.load == cell.load).row()
        busy = " ".join(f"{part:.2f}" for part in row["busy"])
        print(
            f"{row['load']:12}{row['workers']:>8}{row['per_s']:>8}{row['per_s'] / first['per_s']:>7.2f}"
            f"{row['cpu_us']:>8}{row['per_cpu_s']:>11}{row['per_cpu_s'] / first['per_cpu_s']:>7.2f}"
            f"  {busy} ({row['supervisor']:.3f})"
        )


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0))
    usual = ",".join(str(number) for number in (1, 2, 4, 8) if number <= max(2, cores // 2))
    parser.add_argument("--workers", default=usual, help=f"numbers, separated by commas [{usual}]")
    parser.add_argument("--callers", type=int, default=16, help="callers, or episodes, at once [16]")
    parser.add_argument("--share", type=float, help="of one core, for each process of the gateways")
    parser.add_argument("--rounds", type=int, default=4, help="[4]")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one cell in one round [2]")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    numbers = [int(number) for number in options.workers.split(",")]
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd()) as state,
        gateways(state, numbers, options.callers) as cells,
        held_to(options.share, {pid for cell in cells for pid in cell.gateway.processes}),
    ):
        uvloop.run(run(cells, options.callers, options.rounds, options.seconds))
    report(cells)
    if options.json:
        options.json.write_text(json.dumps([cell.row() for cell in cells], indent=1) + "\n")


if __name__ == "__main__":
    main()
