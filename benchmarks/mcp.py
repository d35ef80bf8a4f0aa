"""`tools/call` over Streamable HTTP: the gateway beside the hand-written floor and the FastMCP proxy.

Every peer stands in front of the same raw echo server. All run at once and are measured in turn,
round after round, so that a noisy machine disturbs each alike; ratios are what to read. The gateway
runs with sandbox, policy and a ledger that is synced to disk twice a call; the floor has none of
these but an unsynced log.

    make bench            # or: .venv/bin/python -m benchmarks.mcp [--rounds 8] [--calls 100]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.http_caller import LEGACY, MODERN, Caller
from tests.support.venvs import client_venv

HERE = Path(__file__).parent
ECHO = HERE / "packs" / "echo" / "servers" / "echo.py"


@dataclass(frozen=True)
class Peer:
    """One endpoint under measurement."""

    name: str
    port: int
    path: str
    era: str


@dataclass
class Cell:
    """The seconds each call took, for one peer under one load."""

    peer: Peer
    callers: int
    size: int
    seconds: list[float] = field(default_factory=list[float])
    per_second: list[float] = field(default_factory=list[float])

    @property
    def p50(self) -> float:
        """Median, in milliseconds."""
        return statistics.median(self.seconds) * 1000

    @property
    def p99(self) -> float:
        """99th percentile, in milliseconds."""
        return statistics.quantiles(self.seconds, n=100)[98] * 1000


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], port: int) -> Generator[None]:
    """Run a peer until the block ends, once it listens."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _wait_until_listening(process, port)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    import time

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"a peer ended with {process.returncode} before it listened: {process.args}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"a peer did not listen within 120 s: {process.args}")


@contextlib.contextmanager
def peers(state: str) -> Generator[list[Peer]]:
    """Start everything that is compared."""
    fastmcp = client_venv("fastmcp", ["fastmcp==4.1.0"])
    floor, gate, proxy = free_port(), free_port(), free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            running(
                [
                    sys.executable,
                    str(HERE / "peers" / "floor.py"),
                    str(ECHO),
                    str(floor),
                    f"{state}/floor.log",
                ],
                floor,
            )
        )
        serve = [sys.executable, "-m", "gateway.cli", "serve", str(HERE / "packs" / "echo")]
        stack.enter_context(running([*serve, "--port", str(gate), "--state", f"{state}/state"], gate))
        stack.enter_context(
            running([str(fastmcp), str(HERE / "peers" / "fastmcp_proxy.py"), str(ECHO), str(proxy)], proxy)
        )
        yield [
            Peer("floor", floor, "/", MODERN),
            Peer("sandgate modern", gate, "/mcp", MODERN),
            Peer("sandgate legacy", gate, "/mcp", LEGACY),
            Peer("FastMCP proxy modern", proxy, "/mcp", MODERN),
            Peer("FastMCP proxy legacy", proxy, "/mcp", LEGACY),
        ]


async def measure(cell: Cell, calls: int) -> None:
    """Add one round to a cell: `calls` calls shared by its callers."""
    callers = [Caller(cell.peer.port, cell.peer.path, cell.peer.era) for _ in range(cell.callers)]
    for caller in callers:
        await caller.open()
    text = "x" * cell.size

    async def work(caller: Caller) -> None:
        request = caller.tool_call(text)
        await caller.timed(request, text.encode())  # the first call of a session starts its server
        gate.arrive()
        await gate.opened.wait()
        for _ in range(max(1, calls // cell.callers)):
            cell.seconds.append(await caller.timed(request, text.encode()))

    gate = _Gate(cell.callers)
    begin_of_counted = len(cell.seconds)
    async with asyncio.TaskGroup() as tasks:
        for caller in callers:
            tasks.create_task(work(caller))
        await gate.full.wait()
        begin = asyncio.get_running_loop().time()
        gate.opened.set()
    took = asyncio.get_running_loop().time() - begin
    cell.per_second.append((len(cell.seconds) - begin_of_counted) / took)
    for caller in callers:
        caller.close()


class _Gate:
    """Lets every caller begin at once, when the last has warmed up."""

    def __init__(self, size: int) -> None:
        self.missing = size
        self.full = asyncio.Event()
        self.opened = asyncio.Event()

    def arrive(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.full.set()


async def run(names: list[Peer], rounds: int, calls: int) -> list[Cell]:
    """Measure every peer under every load, in turn, `rounds` times."""
    loads = [(1, 100), (16, 100), (1, 65_536)]
    cells = [Cell(peer, callers, size) for callers, size in loads for peer in names]
    for number in range(rounds):
        for cell in cells:
            await measure(cell, calls)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return cells


def report(cells: list[Cell]) -> None:
    """Print one table; ratios are against the floor under the same load."""
    print(f"{'peer':24}{'callers':>8}{'bytes':>8}{'p50 ms':>9}{'p99 ms':>9}{'calls/s':>9}{'x floor':>9}")
    for cell in cells:
        floor = next(
            c for c in cells if c.peer.name == "floor" and (c.callers, c.size) == (cell.callers, cell.size)
        )
        print(
            f"{cell.peer.name:24}{cell.callers:>8}{cell.size:>8}{cell.p50:>9.2f}{cell.p99:>9.2f}"
            f"{statistics.median(cell.per_second):>9.0f}{cell.p50 / floor.p50:>9.2f}"
        )


def main() -> None:
    """Parse arguments, run, print; `--json FILE` keeps the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # Synced writes are only honest on a disk: a temporary folder may be memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as state, peers(state) as names:
        cells = asyncio.run(run(names, options.rounds, options.calls))
    report(cells)
    if options.json:
        rows = [
            {"peer": c.peer.name, "callers": c.callers, "bytes": c.size, "p50_ms": c.p50, "p99_ms": c.p99}
            for c in cells
        ]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
