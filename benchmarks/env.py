"""Episodes over the OpenEnv wire: the gateway beside a stock OpenEnv server with the same tool.

Session open (connect and first reset), reset on an open session with a fresh seed, a `call_tool` step,
and steps per second with many sessions at once. What stands side by side, interleaved in one run:

- `stock OpenEnv`: `MCPEnvironment` of openenv 0.10. Its tool is a function in the server's own process,
  called through FastMCP's client in memory: an MCP conversation, but no process, no pipe, no sandbox,
  no policy and no record.
- `sandgate raw`, `sandgate mcp`: the gateway with sandbox, policy, ledger and trajectories, and a tool
  server of its own for every session, which is a process: one of the standard library, or one written
  with the SDK. `--strict` adds both with a ledger that is synced, twice a step; training's is not.
- `raw alone`, `mcp alone`: one such server a session over its bare pipes, with nothing in front. No
  gateway, however fast, can do better with that server: it is the ceiling of the rows above.

CPU is by step: of the front with all its helpers, and of the tool servers. With as many sessions as keep
all cores busy the two add up, and the client's, to what a step costs.

    .venv/bin/python -m benchmarks.env [--quick] [--sessions 1,16,64,256] [--workers 1,2] [--strict]
                                       [--rounds N] [--seconds S] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.env_sessions import BareServer, Episode, Session, Share, bare_share, shares
from benchmarks.mcp_peers import HERE, free_port, running
from benchmarks.plot import Lines
from tests.support.venvs import client_venv

OPENENV = "openenv==0.10.0"
PACKS = {"raw": "echo", "mcp": "echo_mcp"}
REST, MOST_RESTS = 0.3, 20
MOST_ALONE = 64
"""Servers that are run by themselves at most: they share no memory."""


@dataclass(frozen=True)
class Peer:
    """One environment server under measurement; `pid` is `None` where the sessions are the servers."""

    name: str
    open: Callable[[], Awaitable[Session]]
    pid: int | None = None

    def used(self, sessions: Sequence[Session] = ()) -> Share:
        """Return what it has used so far, with these sessions open."""
        return bare_share(sessions) if self.pid is None else shares(self.pid)


@dataclass
class Cell:
    """What was measured of one server with so many sessions; times in seconds."""

    peer: Peer
    sessions: int
    opened: list[float] = field(default_factory=list[float])
    resets: list[float] = field(default_factory=list[float])
    steps: list[float] = field(default_factory=list[float])
    per_second: list[float] = field(default_factory=list[float])
    front: float = 0.0
    servers: float = 0.0
    memory: int = 0
    before: int = 0

    def row(self) -> dict[str, Any]:
        """Return the figures: medians in milliseconds, microseconds of CPU a step, kilobytes a session."""
        return {
            "server": self.peer.name,
            "sessions": self.sessions,
            "open_ms": _median(self.opened),
            "reset_ms": _median(self.resets),
            "step_p50_ms": _median(self.steps),
            "step_p99_ms": round(statistics.quantiles(self.steps, n=100)[98] * 1000, 2),
            "steps_per_s": round(statistics.median(self.per_second)),
            "front_us": round(self.front / len(self.steps) * 1e6),
            "servers_us": round(self.servers / len(self.steps) * 1e6),
            "kb_per_session": round(max(0, self.memory - self.before) / self.sessions / 1000),
        }


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1000, 2)


async def _timed(work: Awaitable[object]) -> float:
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def _rest(peer: Peer, sessions: Sequence[Session]) -> None:
    """Wait until a server does nothing of its own accord, such as starting what the next session gets."""
    for _ in range(MOST_RESTS):
        before = peer.used(sessions)
        await asyncio.sleep(REST)
        after = peer.used(sessions)
        if after.front + after.servers - before.front - before.servers < REST / 20:
            return


async def measure(cell: Cell, seconds: float) -> None:
    """Add one round to a cell: sessions are opened a few at a time, reset once, then step for so long."""
    peer = cell.peer
    cell.before = cell.before or peer.used().memory
    at_once = asyncio.Semaphore(4)

    async def opened() -> Session:
        async with at_once:
            begin = time.perf_counter()
            session = await peer.open()
            await session.reset()
            cell.opened.append(time.perf_counter() - begin)
            cell.resets.append(await _timed(session.reset()))
            await session.step()  # starts what starts at the first call
            return session

    sessions = await asyncio.gather(*(opened() for _ in range(cell.sessions)))
    await _rest(peer, sessions)
    before, known, begin = peer.used(sessions), len(cell.steps), time.perf_counter()

    async def play(session: Session) -> None:
        while time.perf_counter() - begin < seconds:
            cell.steps.append(await _timed(session.step()))

    await asyncio.gather(*(play(session) for session in sessions))
    cell.per_second.append((len(cell.steps) - known) / (time.perf_counter() - begin))
    after = peer.used(sessions)
    cell.front += after.front - before.front
    cell.servers += after.servers - before.servers
    cell.memory = max(cell.memory, after.memory)
    await asyncio.gather(*(session.close() for session in sessions))


async def run(found: list[Peer], sessions: list[int], rounds: int, seconds: float) -> list[Cell]:
    """Measure every server with each number of sessions, in turn, `rounds` times."""
    cells = [Cell(peer, number) for number in sessions for peer in found if peer.pid or number <= MOST_ALONE]
    for number in range(rounds):
        for cell in cells:
            await measure(cell, seconds)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return cells


@contextmanager
def peers(
    state: str, most: int, kinds: list[str], workers: list[int], *, strict: bool
) -> Generator[list[Peer]]:
    """Start what is compared."""
    python = client_venv("openenv", [OPENENV])
    with ExitStack() as stack:
        found: list[Peer] = []

        def start(name: str, argv: list[str], port: int) -> None:
            url = f"ws://127.0.0.1:{port}/ws"
            process = stack.enter_context(running(argv, port))
            found.append(Peer(name, lambda: Episode.open(url), process.pid))

        def serve(name: str, kind: str, settings: str, *flags: str) -> None:
            folder, port = Path(state) / name.replace(" ", "-"), free_port()
            config = folder.with_suffix(".yaml")
            limits = f"limits: {{max_sessions: {most + 8}, max_sessions_per_principal: {most + 8}}}\n"
            config.write_text(limits + settings)
            argv = [
                sys.executable,
                "-m",
                "gateway.cli",
                "serve",
                "--mode",
                "training",
                "--config",
                str(config),
            ]
            pack = str(HERE / "packs" / PACKS[kind])
            start(name, [*argv, pack, "--port", str(port), "--state", str(folder), *flags], port)

        port = free_port()
        start("stock OpenEnv", [str(python), str(HERE / "peers" / "openenv_stock.py"), str(port)], port)
        for kind in kinds:
            found.append(Peer(f"{kind} alone", _alone(kind)))
            for number in workers:
                name, flags = (
                    (f"sandgate {kind}", ())
                    if number == 1
                    else (f"sandgate {kind} x{number}", ("--workers", str(number)))
                )
                serve(name, kind, "", *flags)
            if strict:
                serve(f"sandgate {kind} strict", kind, "audit: {durability: strict}\n")
        yield found


def _alone(kind: str) -> Callable[[], Awaitable[Session]]:
    server = HERE / "packs" / PACKS[kind] / "servers" / "echo.py"
    return lambda: BareServer.open([sys.executable, str(server)])


def report(cells: list[Cell]) -> None:
    """Print one table; the ratios are against the stock server with as many sessions."""
    print(
        f"{'server':22}{'sessions':>9}{'open ms':>9}{'reset ms':>9}{'step ms':>9}{'p99 ms':>9}{'steps/s':>9}"
        f"{'front us':>9}{'servers us':>11}{'KB each':>9}{'x stock':>9}{'of its p50':>11}"
    )
    rows = [cell.row() for cell in cells]
    for row in rows:
        stock = next(r for r in rows if r["server"] == "stock OpenEnv" and r["sessions"] == row["sessions"])
        rate, p50 = (row[name] / stock[name] for name in ("steps_per_s", "step_p50_ms"))
        print(
            f"{row['server']:22}{row['sessions']:>9}{row['open_ms']:>9}{row['reset_ms']:>9}"
            f"{row['step_p50_ms']:>9}{row['step_p99_ms']:>9}{row['steps_per_s']:>9}{row['front_us']:>9}"
            f"{row['servers_us']:>11}{row['kb_per_session']:>9}{rate:>9.2f}{p50:>11.2f}"
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
    parser.add_argument("--workers", default="1", help="numbers of the gateway's processes, likewise [1]")
    parser.add_argument("--strict", action="store_true", help="the gateway with a synced ledger besides")
    parser.add_argument("--rounds", type=int, help="[3; quick: 1]")
    parser.add_argument("--seconds", type=float, default=2.0, help="of stepping, in one cell and round [2]")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw an SVG here")
    options = parser.parse_args()
    given = options.sessions or ("1,16" if options.quick else "1,16,64,256")
    sessions = [int(number) for number in given.split(",")]
    workers = [int(number) for number in options.workers.split(",")]
    kinds = ["raw"] if options.quick else ["raw", "mcp"]
    rounds = options.rounds or (1 if options.quick else 3)
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd()) as state,
        peers(state, max(sessions), kinds, workers, strict=options.strict) as found,
    ):
        cells = uvloop.run(run(found, sessions, rounds, options.seconds))
    report(cells)
    if options.json:
        options.json.write_text(json.dumps([cell.row() for cell in cells], indent=1) + "\n")
    if options.plot:
        plot(cells, options.plot)


if __name__ == "__main__":
    main()
