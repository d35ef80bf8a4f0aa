"""Episodes over the OpenEnv wire: the gateway beside a stock OpenEnv server with the same tool.

Session open (connect and first reset), reset on an open session, a `call_tool` step, and steps per
second with many sessions at once. The gateway runs with sandbox, policy, ledger and trajectories;
every session has a tool server of its own. The stock server isolates and records nothing, and calls
its tool in its own process. `raw`: a server of the standard library; `mcp`: one written with the SDK.

    .venv/bin/python -m benchmarks.env [--quick] [--sessions 1,16,64,256] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.mcp_peers import HERE, Process, free_port, running, usage
from benchmarks.plot import Lines
from tests.support.venvs import client_venv

OPENENV = "openenv==0.10.0"
STEP = {"type": "step", "data": {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "x" * 100}}}
RESET = json.dumps({"type": "reset", "data": {}})


@dataclass(frozen=True)
class Server:
    """One environment server under measurement."""

    name: str
    url: str
    process: Process


@dataclass
class Cell:
    """What was measured of one server with so many sessions; times in seconds."""

    server: Server
    sessions: int
    opened: list[float] = field(default_factory=list[float])
    resets: list[float] = field(default_factory=list[float])
    steps: list[float] = field(default_factory=list[float])
    per_second: list[float] = field(default_factory=list[float])
    cpu: float = 0.0
    memory: int = 0
    before: int = 0

    def row(self) -> dict[str, Any]:
        """Return the figures: medians in milliseconds, microseconds of CPU a step, kilobytes a session."""
        return {
            "server": self.server.name,
            "sessions": self.sessions,
            "open_ms": _median(self.opened),
            "reset_ms": _median(self.resets),
            "step_p50_ms": _median(self.steps),
            "step_p99_ms": round(statistics.quantiles(self.steps, n=100)[98] * 1000, 2),
            "steps_per_s": round(statistics.median(self.per_second)),
            "cpu_us": round(self.cpu / len(self.steps) * 1e6),
            "kb_per_session": round(max(0, self.memory - self.before) / self.sessions / 1000),
        }


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1000, 2)


async def _exchange(socket: ClientConnection, frame: str) -> float:
    begin = time.perf_counter()
    await socket.send(frame)
    answer = await socket.recv()
    took = time.perf_counter() - begin
    if '"observation"' not in str(answer)[:40] or '"error_type"' in str(answer):
        raise RuntimeError(f"unexpected answer {str(answer)[:300]}")
    return took


async def measure(cell: Cell, seconds: float) -> None:
    """Add one round to a cell: sessions are opened a few at a time, reset once, then step for so long."""
    cell.before = cell.before or usage(cell.server.process.pid).memory
    at_once = asyncio.Semaphore(4)
    step = json.dumps(STEP)

    async def opened() -> ClientConnection:
        async with at_once:
            begin = time.perf_counter()
            socket = await connect(cell.server.url, compression=None, open_timeout=120)
            await _exchange(socket, RESET)
            cell.opened.append(time.perf_counter() - begin)
            cell.resets.append(await _exchange(socket, RESET))
            await _exchange(socket, step)  # starts what starts at the first call
            return socket

    sockets = await asyncio.gather(*(opened() for _ in range(cell.sessions)))
    before, known, begin = usage(cell.server.process.pid), len(cell.steps), time.perf_counter()

    async def play(socket: ClientConnection) -> None:
        while time.perf_counter() - begin < seconds:
            cell.steps.append(await _exchange(socket, step))

    await asyncio.gather(*(play(socket) for socket in sockets))
    after = usage(cell.server.process.pid)
    cell.per_second.append((len(cell.steps) - known) / (time.perf_counter() - begin))
    cell.cpu += after.cpu - before.cpu
    cell.memory = max(cell.memory, after.memory)
    await asyncio.gather(*(socket.close() for socket in sockets))


async def run(found: list[Server], sessions: list[int], rounds: int, seconds: float) -> list[Cell]:
    """Measure every server with each number of sessions, in turn, `rounds` times."""
    cells = [Cell(server, number) for number in sessions for server in found]
    for number in range(rounds):
        for cell in cells:
            await measure(cell, seconds)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return cells


@contextmanager
def servers(state: str, most: int, *, raw_only: bool) -> Generator[list[Server]]:
    """Start what is compared."""
    python = client_venv("openenv", [OPENENV])
    config = Path(state) / "gateway.yaml"
    config.write_text(f"limits: {{max_sessions: {most + 8}, max_sessions_per_principal: {most + 8}}}\n")
    serve = [sys.executable, "-m", "gateway.cli", "serve", "--mode", "training", "--config", str(config)]
    kinds = {"sandgate raw": "echo"} if raw_only else {"sandgate raw": "echo", "sandgate mcp": "echo_mcp"}
    with ExitStack() as stack:
        found: list[Server] = []

        def start(name: str, argv: list[str], port: int) -> None:
            process = stack.enter_context(running(argv, port))
            found.append(Server(name, f"ws://127.0.0.1:{port}/ws", process))

        port = free_port()
        start("stock OpenEnv", [str(python), str(HERE / "peers" / "openenv_stock.py"), str(port)], port)
        for name, pack in kinds.items():
            port = free_port()
            folder = str(HERE / "packs" / pack)
            start(name, [*serve, folder, "--port", str(port), "--state", f"{state}/{pack}"], port)
        yield found


def report(cells: list[Cell]) -> None:
    """Print one table; the ratio is of steps per second, against the stock server with as many sessions."""
    print(
        f"{'server':16}{'sessions':>9}{'open ms':>9}{'reset ms':>9}{'step ms':>9}{'p99 ms':>9}{'steps/s':>9}"
        f"{'cpu us':>8}{'KB each':>9}{'x stock':>9}"
    )
    rows = [cell.row() for cell in cells]
    for row in rows:
        stock = next(r for r in rows if r["server"] == "stock OpenEnv" and r["sessions"] == row["sessions"])
        print(
            f"{row['server']:16}{row['sessions']:>9}{row['open_ms']:>9}{row['reset_ms']:>9}"
            f"{row['step_p50_ms']:>9}{row['step_p99_ms']:>9}{row['steps_per_s']:>9}{row['cpu_us']:>8}"
            f"{row['kb_per_session']:>9}{row['steps_per_s'] / stock['steps_per_s']:>9.2f}"
        )


def plot(cells: list[Cell], path: Path) -> None:
    """Draw steps per second by sessions."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in (cell.row() for cell in cells):
        series.setdefault(row["server"], []).append((row["sessions"], row["steps_per_s"]))
    Lines("Steps per second", "sessions", "steps/s", series, log_x=True).write(path)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 and 16 sessions, the raw server, one round")
    parser.add_argument("--sessions", help="numbers, separated by commas [1,16,64,256; quick: 1,16]")
    parser.add_argument("--rounds", type=int, help="[3; quick: 1]")
    parser.add_argument("--seconds", type=float, default=2.0, help="of stepping, in one cell and round [2]")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw an SVG here")
    options = parser.parse_args()
    given = options.sessions or ("1,16" if options.quick else "1,16,64,256")
    sessions = [int(number) for number in given.split(",")]
    rounds = options.rounds or (1 if options.quick else 3)
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd()) as state,
        servers(state, max(sessions), raw_only=options.quick) as found,
    ):
        cells = uvloop.run(run(found, sessions, rounds, options.seconds))
    report(cells)
    if options.json:
        options.json.write_text(json.dumps([cell.row() for cell in cells], indent=1) + "\n")
    if options.plot:
        plot(cells, options.plot)


if __name__ == "__main__":
    main()
