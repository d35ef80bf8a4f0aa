"""`tools/call` over Streamable HTTP: the gateway beside a hand-written floor and the field's proxies.

Every peer stands in front of the same raw echo server. All run at once and are measured in turn,
round after round, so that a noisy machine disturbs each alike; ratios are what to read. The gateway
runs with sandbox, policy and ledger. The floor has none of these but a log; `floor synced` syncs it
to disk twice a call, as the gateway's ledger does unless `audit: {durability: written}` is set, so
strict is to be read against that one and written against the other.

    make bench            # or: .venv/bin/python -m benchmarks.mcp [--quick] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.http_caller import LEGACY, Caller
from benchmarks.mcp_peers import Peer, peers, usage
from benchmarks.plot import Bars

LOADS = [(callers, size) for size in (100, 65_536) for callers in (1, 16, 64)]
QUICK_LOADS = [(1, 100), (16, 100), (1, 65_536)]
QUICK_PEERS = ("floor", "floor synced", "sandgate", "sandgate written", "FastMCP proxy")


@dataclass
class Cell:
    """What was measured of one peer under one load; times in seconds."""

    peer: Peer
    callers: int
    size: int
    seconds: list[float] = field(default_factory=list[float])
    per_second: list[float] = field(default_factory=list[float])
    cpu: float = 0.0
    memory: int = 0

    @property
    def p50(self) -> float:
        """Median, in milliseconds."""
        return statistics.median(self.seconds) * 1000

    @property
    def p99(self) -> float:
        """99th percentile, in milliseconds."""
        return statistics.quantiles(self.seconds, n=100)[98] * 1000 if len(self.seconds) > 1 else self.p50

    def row(self) -> dict[str, Any]:
        """Return the figures: milliseconds, microseconds of CPU a call, megabytes."""
        return {
            "peer": self.peer.name,
            "era": "legacy" if self.peer.era == LEGACY else "modern",
            "callers": self.callers,
            "bytes": self.size,
            "p50_ms": round(self.p50, 3),
            "p99_ms": round(self.p99, 3),
            "calls_per_s": round(statistics.median(self.per_second)),
            "cpu_us": round(self.cpu / len(self.seconds) * 1e6),
            "memory_mb": round(self.memory / 1e6, 1),
            "ready_s": round(self.peer.process.ready, 2),
        }


async def measure(cell: Cell, seconds: float) -> None:
    """Add one round to a cell: its callers call one after the other, all at once, for so long."""
    callers = [Caller(cell.peer.port, cell.peer.path, cell.peer.era) for _ in range(cell.callers)]
    text = "x" * cell.size
    requests: list[bytes] = []
    for caller in callers:
        await caller.open()
        # The first call of a session starts its server; an id is not used twice.
        await caller.timed(caller.tool_call(text, 1), text.encode())
        requests.append(caller.tool_call(text, 2))
    before, known = usage(cell.peer.process.pid), len(cell.seconds)
    begin = time.perf_counter()

    async def work(caller: Caller, request: bytes) -> None:
        expect = text.encode()
        while time.perf_counter() - begin < seconds:
            cell.seconds.append(await caller.timed(request, expect))

    async with asyncio.TaskGroup() as tasks:
        for caller, request in zip(callers, requests, strict=True):
            tasks.create_task(work(caller, request))
    after = usage(cell.peer.process.pid)
    cell.per_second.append((len(cell.seconds) - known) / (time.perf_counter() - begin))
    cell.cpu += after.cpu - before.cpu
    cell.memory = max(cell.memory, after.memory)
    for caller in callers:
        await caller.end()
        caller.close()


async def run(
    found: list[Peer], loads: list[tuple[int, int]], rounds: int, seconds: float
) -> tuple[list[Cell], list[str]]:
    """Measure every peer under every load, in turn; return the cells, and what failed."""
    cells = [Cell(peer, callers, size) for callers, size in loads for peer in found]
    failures: list[str] = []
    for number in range(rounds):
        for cell in cells:
            try:
                await measure(cell, seconds)
            except (OSError, RuntimeError, ExceptionGroup) as error:
                first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
                failures.append(f"{cell.peer.name}, {cell.callers} callers, {cell.size} bytes: {first}")
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return [cell for cell in cells if cell.seconds], failures


def report(cells: list[Cell]) -> None:
    """Print one table; ratios are against the floor under the same load."""
    print(
        f"{'peer':22}{'era':>8}{'callers':>8}{'bytes':>8}{'p50 ms':>9}{'p99 ms':>9}{'calls/s':>9}"
        f"{'cpu us':>8}{'MB':>7}{'ready s':>9}{'x floor':>9}{'x synced':>9}"
    )
    for cell in cells:
        row = cell.row()
        ratios = [_ratio(cell, cells, name) for name in ("floor", "floor synced")]
        print(
            f"{row['peer']:22}{row['era']:>8}{row['callers']:>8}{row['bytes']:>8}{row['p50_ms']:>9.2f}"
            f"{row['p99_ms']:>9.2f}{row['calls_per_s']:>9}{row['cpu_us']:>8}{row['memory_mb']:>7.0f}"
            f"{row['ready_s']:>9.2f}" + "".join(f"{ratio:>9}" for ratio in ratios)
        )


def _ratio(cell: Cell, cells: list[Cell], name: str) -> str:
    load = (cell.callers, cell.size)
    floor = next((c for c in cells if c.peer.name == name and (c.callers, c.size) == load), None)
    return "" if floor is None else f"{cell.p50 / floor.p50:.2f}"


def plot(cells: list[Cell], path: Path) -> None:
    """Draw medians at 100 bytes, a group of bars for each number of callers."""
    groups: dict[str, dict[str, float]] = {}
    for cell in cells:
        if cell.size == min(c.size for c in cells):
            era = "legacy" if cell.peer.era == LEGACY else "modern"
            groups.setdefault(f"{cell.callers} callers", {})[f"{cell.peer.name}, {era}"] = cell.p50
    Bars("tools/call at 100 bytes", "p50 in ms", groups, log=True).write(path)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the main peers and loads, in half a minute")
    parser.add_argument("--rounds", type=int, help="[4; quick: 2]")
    parser.add_argument("--seconds", type=float, help="of one cell in one round [1; quick: 0.5]")
    parser.add_argument("--peers", help="names, separated by commas; all by default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw an SVG here")
    options = parser.parse_args()
    wanted = tuple(options.peers.split(",")) if options.peers else QUICK_PEERS if options.quick else ()
    rounds = options.rounds or (2 if options.quick else 4)
    seconds = options.seconds or (0.5 if options.quick else 1.0)
    # Synced writes are only honest on a disk: a temporary folder may be memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as state, peers(state, wanted) as found:
        loads = QUICK_LOADS if options.quick else LOADS
        cells, failures = uvloop.run(run(found, loads, rounds, seconds))
    report(cells)
    for failure in failures:
        print(f"failed: {failure}")
    if options.json:
        options.json.write_text(json.dumps([cell.row() for cell in cells], indent=1) + "\n")
    if options.plot:
        plot(cells, options.plot)


if __name__ == "__main__":
    main()
