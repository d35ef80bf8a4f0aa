"""Fresh sandboxes: start, hand-over, reset, sessions a second, memory. Beside `import mcp` and `docker run`.

All is measured in turn, round after round, so that a noisy machine disturbs each alike; ratios are
what to read. A session here is whole: workspace, policy, ledger, sandbox, and a Python MCP server
(the `git` pack's) that has answered `initialize` and `tools/list`. `cold` starts the server anew,
`forked` forks it from its template; a pool only moves either to before the session. `small` is a forked
server of one tool, made with the SDK. CPU is that of all processes: it means something on a busy machine.

    .venv/bin/python -m benchmarks.sandbox [--rounds 8] [--seconds 8] [--alive 8] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from benchmarks.cpu_meter import CpuMeter, cpu_meter
from benchmarks.plot import Bars
from gateway.cli.wiring import make_plan, open_plan
from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.errors import SandgateError
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id
from gateway.sandbox.contract import SandboxDriver, SandboxSpec, WorkspaceSpec
from gateway.sandbox.drivers import make_driver
from gateway.sandbox.images import read_recipe

PACK, TOOL, ARGUMENTS = "git", "git_status", {"repo_path": "/workspace"}
SMALL = str(Path(__file__).parent / "packs" / "echo_mcp")
FILES = 10_000
MOST_COLD = 8
"""A cold server takes a second to start and shares nothing: more of them show nothing more."""
CALLERS = 4
DOCKER = ("docker", "run", "--rm", "--network", "none")
HOLD = 60.0


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
class OneDriver:
    """What is measured of a driver alone, whatever runs in it."""

    driver: SandboxDriver
    seed: Path

    def rows(self) -> list[Row]:
        """Return what to measure."""
        name = self.driver.name
        return [
            Row(f"{name}: start of a shell", self.start),
            Row(f"{name}: reset of {FILES:,} files", self.reset),
        ]

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


@dataclass(frozen=True)
class Sessions:
    """What is measured of whole sessions of a gateway, named by how its servers start."""

    name: str
    gateway: Gateway

    @property
    def pack(self) -> str:
        """The pack it serves, which has one server."""
        return next(iter(self.gateway.packs))

    async def opened(self) -> float:
        """Open a session and bring its server up, with nothing ready."""
        begin = time.perf_counter()
        session = await self._up()
        took = time.perf_counter() - begin
        await self.gateway.close_session(session)
        return took

    async def _up(self) -> Session:
        session = await self.gateway.open_session(self.pack, LOCAL)
        await session.lease.start_all()
        return session

    async def handed_over(self) -> float:
        """Open a session that finds a warm server."""
        await self._warmed()
        begin = time.perf_counter()
        session = await self.gateway.open_session(PACK, LOCAL)
        took = time.perf_counter() - begin
        assert session.lease.untouched
        await answered(self.gateway, session)
        await self.gateway.close_session(session)
        await self._warmed()  # the next start must disturb nobody's measurement
        return took

    async def _warmed(self) -> None:
        """Return once the pool is as deep as it is going to be."""
        with anyio.fail_after(HOLD):
            while self.gateway.readiness().detail["warm"] != 2:  # noqa: ASYNC110 - the pool tells nobody
                await anyio.sleep(0.01)

    async def sustained(self, seconds: float, meter: CpuMeter) -> tuple[float, float | None]:
        """Return fresh sessions a second with their servers up, over so many seconds, and CPU ms of each."""
        done = 0
        begin, used = anyio.current_time(), meter.seconds()

        async def caller() -> None:
            nonlocal done
            while anyio.current_time() - begin < seconds:
                await self.opened()
                done += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(CALLERS):
                tasks.start_soon(caller)
        rate, ended = done / (anyio.current_time() - begin), meter.seconds()
        return rate, None if used is None or ended is None else (ended - used) / done * 1000

    async def alive(self, number: int) -> tuple[float | None, float]:
        """Keep so many sessions up: return the MiB each is charged, and seconds until all are closed."""
        sessions = [await self._up() for _ in range(number)]
        servers = [server for session in sessions for server in session.lease.running()]
        charged = [server.sandbox.stats().memory for server in servers]
        begin = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(self.gateway.close_session, session)
        took = time.perf_counter() - begin
        known = [use for use in charged if use is not None]
        return (statistics.mean(known) / 2**20 if known else None), took


async def answered(gateway: Gateway, session: Session) -> None:
    """Make one call; it has to be answered."""
    outcome = await gateway.call(session, ToolCall(new_call_id(), TOOL, dict(ARGUMENTS), Front.CLI))
    assert isinstance(outcome, Answered), outcome


async def command(*words: str) -> float:
    """Run a command to its end."""
    begin = time.perf_counter()
    await anyio.to_thread.run_sync(lambda: subprocess.check_call(words, stdout=subprocess.DEVNULL))
    return time.perf_counter() - begin


def seeded(folder: Path) -> Path:
    """Make a folder of many files."""
    seed = folder / "seed"
    for number in range(FILES):
        place = seed / str(number % 100)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file{number}").write_text(f"{number}\n")
    return seed


async def drivers(stack: AsyncExitStack, folder: Path) -> list[SandboxDriver]:
    """Open every driver that this machine has, and say which it has not."""
    found: list[SandboxDriver] = []
    for name in ("bubblewrap", "docker", "gvisor", "process"):
        try:
            driver = make_driver(name, cache_dir=folder / name)
            found.append(await stack.enter_async_context(driver))
        except SandgateError as error:
            print(f"not measured: {name} ({str(error).splitlines()[0][:100]})", file=sys.stderr)
    return found


@asynccontextmanager
async def gateways(folder: Path) -> AsyncGenerator[dict[str, Sessions]]:
    """Start a gateway each that starts servers cold, forks them, keeps forks warm, and forks a small one."""
    # Depth that does not change while it is measured: the pool holds two, and may.
    limits = "limits: {max_sessions_per_principal: 500}\n"
    (folder / "gateway.yaml").write_text(f"{limits}pool: {{minimum: 2, maximum: 2}}\n")
    async with AsyncExitStack() as stack:
        opened: dict[str, Sessions] = {}
        for name in ("cold", "forked", "pool", "small"):
            plan = make_plan(
                [SMALL if name == "small" else PACK],
                {"state": folder / name},
                config_file=folder / "gateway.yaml",
                warm=name == "pool",
            )
            opened[name] = Sessions(name, await stack.enter_async_context(open_plan(plan, print)))
        start_cold(opened["cold"].gateway)
        yield opened


def start_cold(gateway: Gateway) -> None:
    """Let the gateway forget that its pack's servers may be forked."""
    served = gateway.packs[PACK]
    plans = {name: replace(one, spec=replace(one.spec, preload=None)) for name, one in served.plans.items()}
    gateway.packs = {**gateway.packs, PACK: replace(served, plans=plans)}


async def run(
    rounds: int, seconds: float, alive: int, meter: CpuMeter
) -> tuple[list[Row], dict[str, float | None]]:
    """Measure everything in turn, `rounds` times; then rates and memory, in turn as well."""
    # Synced ledgers are only honest on a disk: a temporary folder may be memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            found = await drivers(stack, folder)
            sessions = await stack.enter_async_context(gateways(folder))
            seed = seeded(folder)
            rows = [
                Row("python -c 'import mcp', no sandbox", lambda: command(sys.executable, "-c", "import mcp"))
            ]
            if "docker" in {driver.name for driver in found} and shutil.which("docker"):
                image = read_recipe("base").tag
                rows.append(Row("docker run /bin/true", lambda: command(*DOCKER, image, "/bin/true")))
            rows += [row for driver in found for row in OneDriver(driver, seed).rows()]
            rows += [Row(f"session, {kind}", sessions[kind].opened) for kind in ("cold", "forked")]
            rows.append(Row("session handed over from the pool", sessions["pool"].handed_over))
            for number in range(rounds):
                for row in rows:
                    row.seconds.append(await row.work())
                print(f"round {number + 1} of {rounds} done", file=sys.stderr)
            figures: dict[str, float | None] = {}
            for kind in ("cold", "forked", "small"):
                rate, used = await sessions[kind].sustained(seconds, meter)
                figures[f"{kind}: fresh sessions/s, sustained"] = rate
                figures[f"{kind}: CPU ms of each of them"] = used
            for kind, number in (("cold", min(alive, MOST_COLD)), ("forked", alive), ("small", alive)):
                each, closed = await sessions[kind].alive(number)
                figures[f"{kind}: MiB charged to each of {number} live sandboxes"] = each
                figures[f"{kind}: seconds to close them all"] = closed
            return rows, figures


def report(rows: list[Row], figures: Mapping[str, float | None]) -> None:
    """Print one table; ratios are against the import without a sandbox."""
    print(f"{'':48}{'p50 ms':>9}{'max ms':>9}{'x import':>10}")
    for row in rows:
        print(f"{row.name:48}{row.p50:>9.1f}{row.worst:>9.1f}{row.p50 / rows[0].p50:>10.3f}")
    for name, figure in figures.items():
        print(f"{name:48}{'unknown' if figure is None else f'{figure:.2f}':>9}")


def main() -> None:
    """Parse arguments, run, print; `--json` keeps the figures, `--plot` draws the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--alive", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    words = options.rounds, options.seconds, options.alive
    with cpu_meter() as meter:
        rows, figures = anyio.run(run, *words, meter, backend_options={"use_uvloop": True})
    report(rows, figures)
    if options.json:
        kept = {row.name: {"p50_ms": row.p50, "max_ms": row.worst} for row in rows}
        options.json.write_text(json.dumps({**kept, **figures}, indent=1) + "\n")
    if options.plot:
        bars = {row.name: {"p50": row.p50} for row in rows}
        Bars("Fresh sandboxes, p50 (one run, two cores)", "ms", bars, log=True).write(options.plot)


if __name__ == "__main__":
    main()
