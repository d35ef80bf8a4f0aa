"""Fresh sandboxes: start, hand-over from the pool, reset, sessions a second, memory. Beside `import mcp`.

All is measured in turn, round after round, so that a noisy machine disturbs each alike; ratios are
what to read. A session here is whole: workspace, policy, ledger, sandbox, and a Python MCP server
(the `git` pack's) that answers a call. A pool only moves work to before the session: its sustained
rate is that of a cold start, so both are given.

    .venv/bin/python -m benchmarks.sandbox [--rounds 8] [--seconds 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from gateway.cli.wiring import make_plan, open_plan
from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id
from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import SandboxSpec, WorkspaceSpec

PACK, TOOL, ARGUMENTS = "git", "git_status", {"repo_path": "/workspace"}
FILES = 10_000
BASE = "python -c 'import mcp', no sandbox"
CALLERS = 2
ALIVE = 8


@dataclass
class Row:
    """What one thing took, in seconds for each time it was done."""

    name: str
    work: Callable[[], Awaitable[float]]
    seconds: list[float] = field(default_factory=list[float])

    @property
    def p50(self) -> float:
        """Median, in milliseconds."""
        return statistics.median(self.seconds) * 1000

    @property
    def worst(self) -> float:
        """Largest, in milliseconds."""
        return max(self.seconds) * 1000


@dataclass(frozen=True)
class Bench:
    """What is measured: a driver alone, a gateway that starts cold, one that keeps servers warm."""

    driver: BubblewrapDriver
    cold: Gateway
    warm: Gateway
    seed: Path

    async def import_mcp(self) -> float:
        """Import what every Python MCP server imports, in a process of its own."""
        begin = time.perf_counter()
        await anyio.to_thread.run_sync(subprocess.check_call, [sys.executable, "-c", "import mcp"])
        return time.perf_counter() - begin

    async def start(self) -> float:
        """From `acquire` to the first byte of a shell."""
        workspace = await self.driver.open_workspace(WorkspaceSpec())
        begin = time.perf_counter()
        sandbox = await self.driver.acquire(SandboxSpec("echo", ("/bin/echo", "up")), workspace)
        await sandbox.receive()
        took = time.perf_counter() - begin
        await workspace.aclose()
        return took

    async def reset(self) -> float:
        """Drop a workspace of many files that were changed, and open the next."""
        workspace = await self.driver.open_workspace(WorkspaceSpec(seed=self.seed))
        touch = SandboxSpec("touch", ("/bin/sh", "-c", "for n in 1 2 3 4 5; do echo x > 0/$n; done"))
        await (await self.driver.acquire(touch, workspace)).wait()
        begin = time.perf_counter()
        await workspace.aclose()
        workspace = await self.driver.open_workspace(WorkspaceSpec(seed=self.seed))
        took = time.perf_counter() - begin
        await workspace.aclose()
        return took

    async def hand_over(self) -> float:
        """Open a session that finds a warm server."""
        return (await self._opened())[0]

    async def hand_over_and_call(self) -> float:
        """Open a session that finds a warm server, and have its first call answered."""
        return sum(await self._opened())

    async def _opened(self) -> tuple[float, float]:
        await warmed(self.warm)
        begin = time.perf_counter()
        session = await self.warm.open_session(PACK, LOCAL)
        opened = time.perf_counter()
        assert session.lease.untouched
        await answered(self.warm, session)
        called = time.perf_counter()
        await self.warm.close_session(session)
        await warmed(self.warm)  # the next start must disturb nobody's measurement
        return opened - begin, called - opened

    async def cold_session(self) -> float:
        """Open a session and have its first call answered, with nothing ready."""
        begin = time.perf_counter()
        session = await self.cold.open_session(PACK, LOCAL)
        await answered(self.cold, session)
        took = time.perf_counter() - begin
        await self.cold.close_session(session)
        return took


async def answered(gateway: Gateway, session: Session) -> None:
    """Make one call; it has to be answered."""
    outcome = await gateway.call(session, ToolCall(new_call_id(), TOOL, dict(ARGUMENTS), Front.CLI))
    assert isinstance(outcome, Answered), outcome


async def warmed(gateway: Gateway) -> None:
    """Return once the pool is as deep as it is going to be."""
    with anyio.fail_after(60):
        while gateway.readiness().detail["warm"] != 2:  # noqa: ASYNC110 - the pool tells nobody
            await anyio.sleep(0.01)


async def sustained(gateway: Gateway, seconds: float) -> float:
    """Return fresh sessions a second, each with an answered call, over so many seconds and two callers."""
    done = 0
    begin = anyio.current_time()

    async def caller() -> None:
        nonlocal done
        while anyio.current_time() - begin < seconds:
            session = await gateway.open_session(PACK, LOCAL)
            await answered(gateway, session)
            await gateway.close_session(session)
            done += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(caller)
    return done / (anyio.current_time() - begin)


async def memory(gateway: Gateway) -> float | None:
    """Return the MiB that each of several idle sandboxes is charged for; `None` without control groups."""
    sessions = [await gateway.open_session(PACK, LOCAL) for _ in range(ALIVE)]
    for session in sessions:
        await answered(gateway, session)
    servers = [await session.lease.server(PACK) for session in sessions]
    charged = [server.sandbox.stats().memory for server in servers]
    for session in sessions:
        await gateway.close_session(session)
    known = [use for use in charged if use is not None]
    return statistics.mean(known) / 2**20 if known else None


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[Bench]:
    """Start what is measured."""
    seed = folder / "seed"
    for number in range(FILES):
        place = seed / str(number % 100)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file{number}").write_text(f"{number}\n")
    # Depth that does not change while it is measured: the pool holds two, and may.
    (folder / "gateway.yaml").write_text("pool: {minimum: 2, maximum: 2}\n")
    cold, warm = (
        make_plan([PACK], {"state": folder / name}, config_file=folder / "gateway.yaml", warm=name == "warm")
        for name in ("cold", "warm")
    )
    say = print
    async with (
        BubblewrapDriver(folder / "cache") as driver,
        open_plan(cold, say) as without,
        open_plan(warm, say) as kept,
    ):
        yield Bench(driver, without, kept, seed)


async def run(rounds: int, seconds: float) -> tuple[list[Row], dict[str, float | None]]:
    """Measure everything in turn, `rounds` times; then rates and memory."""
    # Synced ledgers are only honest on a disk: a temporary folder may be memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        async with opened(Path(folder)) as bench:
            rows = [
                Row(BASE, bench.import_mcp),
                Row("sandbox start, acquire to first byte", bench.start),
                Row(f"reset of a {FILES:,}-file workspace", bench.reset),
                Row("session handed over from the pool", bench.hand_over),
                Row("... and its first call answered", bench.hand_over_and_call),
                Row("cold session, first call answered", bench.cold_session),
            ]
            for number in range(rounds):
                for row in rows:
                    row.seconds.append(await row.work())
                print(f"round {number + 1} of {rounds} done", file=sys.stderr)
            return rows, {
                "cold: fresh sessions/s, sustained": await sustained(bench.cold, seconds),
                "pool: fresh sessions/s, sustained": await sustained(bench.warm, seconds),
                "MiB charged to a live sandbox": await memory(bench.cold),
            }


def report(rows: list[Row], figures: dict[str, float | None]) -> None:
    """Print one table; ratios are against the import without a sandbox."""
    print(f"{'':44}{'p50 ms':>9}{'max ms':>9}{'x import':>10}")
    for row in rows:
        print(f"{row.name:44}{row.p50:>9.1f}{row.worst:>9.1f}{row.p50 / rows[0].p50:>10.3f}")
    for name, figure in figures.items():
        print(f"{name:44}{'unknown' if figure is None else f'{figure:.1f}':>9}")


def main() -> None:
    """Parse arguments, run, print; `--json FILE` keeps the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows, figures = anyio.run(run, options.rounds, options.seconds, backend_options={"use_uvloop": True})
    report(rows, figures)
    if options.json:
        kept = {row.name: {"p50_ms": row.p50, "max_ms": row.worst} for row in rows}
        options.json.write_text(json.dumps(kept | figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
