"""CPU per call of the path that all fronts share: `Gateway.call` in process, before the raw echo server.

Sandbox, policy and ledger are on, HTTP is left out. What is printed is CPU time of this process for
one call; the quietest of many short rounds is what a busy machine disturbs least.

    .venv/bin/python -m benchmarks.core [--calls N] [--durability strict] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from pathlib import Path

import anyio
import uvloop

from gateway.cli.wiring import make_plan, open_plan
from gateway.core import strict_json
from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.core.results import tool_result
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id

PACK = Path(__file__).parent / "packs" / "echo"
ROUNDS = 40
LOADS = [(1, 100), (16, 100), (1, 65_536)]


async def _calls(gateway: Gateway, session: Session, body: bytes, calls: int, seconds: list[float]) -> None:
    for _ in range(calls):
        begin = time.perf_counter()
        message = strict_json.loads(body)
        assert isinstance(message, dict)
        arguments = message["arguments"]
        assert isinstance(arguments, dict)
        outcome = await gateway.call(session, ToolCall(new_call_id(), "echo", arguments, Front.MCP))
        assert isinstance(outcome, Answered)
        strict_json.dumps({"jsonrpc": "2.0", "id": 1, "result": tool_result(outcome)})
        seconds.append(time.perf_counter() - begin)


async def measure(gateway: Gateway, callers: int, size: int, calls: int) -> tuple[float, float, float]:
    """Return a call's CPU, in the quietest round and in the median one, and its p50; in microseconds."""
    session = await gateway.open_session("echo", LOCAL)
    body = strict_json.dumps({"name": "echo", "arguments": {"text": "x" * size}})
    await _calls(gateway, session, body, 20, [])
    seconds: list[float] = []
    rounds: list[float] = []
    for _ in range(ROUNDS):
        before, known = time.process_time(), len(seconds)
        async with anyio.create_task_group() as tasks:
            for _ in range(callers):
                tasks.start_soon(_calls, gateway, session, body, calls // ROUNDS // callers, seconds)
        rounds.append((time.process_time() - before) / (len(seconds) - known))
    await gateway.close_session(session)
    return min(rounds) * 1e6, statistics.median(rounds) * 1e6, statistics.median(seconds) * 1e6


async def run(calls: int, durability: str, profile: bool) -> None:
    """Measure each load and print a line."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        config = Path(folder) / "gateway.yaml"
        config.write_text(f"audit: {{durability: {durability}}}\n")
        plan = make_plan([str(PACK)], {"state": Path(folder) / "state"}, config_file=config)
        async with open_plan(plan, lambda said: None) as gateway:
            for callers, size in LOADS:
                profiler = cProfile.Profile()
                if profile:
                    profiler.enable()
                least, usual, p50 = await measure(gateway, callers, size, calls)
                profiler.disable()
                print(
                    f"{callers:3} callers {size:6} B {durability:8} "
                    f"cpu {least:7.1f} (median {usual:7.1f}) us  p50 {p50:8.1f} us",
                    flush=True,
                )
                if profile:
                    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def main() -> None:
    """Parse arguments, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--durability", default="written", choices=["written", "strict"])
    parser.add_argument("--profile", action="store_true", help="where the time goes, by function")
    options = parser.parse_args()
    uvloop.run(run(options.calls, options.durability, options.profile))


if __name__ == "__main__":
    main()
