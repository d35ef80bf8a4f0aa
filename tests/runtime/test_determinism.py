"""Same seed, same actions, same episode: over and over, side by side, and after whatever came before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

from gateway.core.calls import LOCAL
from gateway.core.episode import Action, CallTool, Code, ListTools, StepResult, Submit
from gateway.core.replay import RecordedStep, differences
from gateway.core.task_choice import ResetRequest
from gateway.runtime.episodes import Episodes
from gateway.runtime.gateway import GatewaySettings
from tests.support.gateways import served

SCRIPT: list[Action] = [
    ListTools(),
    CallTool("echo", {"text": "hi"}),
    CallTool("echo", {"text": "forbidden"}),
    CallTool("env", {"name": "SANDGATE_SEED"}),
    CallTool("write", {"path": "a/b.txt", "content": "x"}),
    CallTool("no_such_tool", {}),
    Submit("done"),
]
CODE = Code(
    "import random, os\nprint(hash('x'), random.random())\n[echo(text=w) for w in ('a', 'b')], set('xyz')"
)


@asynccontextmanager
async def episodes(tmp_path: Path) -> AsyncGenerator[Episodes]:
    settings = GatewaySettings(mode="training")
    async with served(tmp_path, settings=settings) as gateway:
        yield Episodes(gateway, cache_dir=tmp_path / "cache")


async def played(held: Episodes, wanted: ResetRequest, script: list[Action]) -> list[StepResult]:
    async with held.held("echo", LOCAL, None) as session:
        return [await session.reset(wanted), *[await session.step(action) for action in script]]


def fingerprint(results: list[StepResult]) -> str:
    """Return a hash over observations, rewards, ends and decisions, without ids that each run mints anew."""
    start, *steps = results
    seen: list[Any] = [start.observation, start.metadata["workspace_digest"], start.metadata["seed"]]
    nothing = RecordedStep(0, {}, {})
    for step in steps:
        seen += [difference.now for difference in differences(nothing, step.wire())]
    assert len(seen) > 3 * len(steps)
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


async def side_by_side(held: Episodes, many: int, wanted: ResetRequest, script: list[Action]) -> set[str]:
    found: set[str] = set()
    room = anyio.CapacityLimiter(8)

    async def one() -> None:
        async with room:
            found.add(fingerprint(await played(held, wanted, script)))

    async with anyio.create_task_group() as tasks:
        for _ in range(many):
            tasks.start_soon(one)
    return found


async def test_a_hundred_episodes_of_one_seed_and_script_are_the_same(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held:
        wanted = ResetRequest(task="be-good", seed=7)
        (same,) = await side_by_side(held, 100, wanted, SCRIPT)
        assert {same} != await side_by_side(held, 1, ResetRequest(task="be-good", seed=8), SCRIPT)


async def test_code_and_checks_come_out_the_same_too(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held:
        wanted = ResetRequest(task="fix-readme", seed=7)
        assert len(await side_by_side(held, 6, wanted, [CODE, *SCRIPT])) == 1


async def test_sixty_four_episodes_side_by_side_never_mix(tmp_path: Path) -> None:
    seen: dict[int, Any] = {}

    async def one(held: Episodes, number: int) -> None:
        mine: list[Action] = [
            CallTool("write", {"path": "mine.txt", "content": f"of {number}"}),
            CallTool("echo", {"text": f"said {number}"}),
            CallTool("env", {"name": "SANDGATE_SEED"}),
            CallTool("read", {"path": "mine.txt"}),
        ]
        steps = (await played(held, ResetRequest(seed=number), mine))[1:]
        results: list[Any] = [step.observation["result"] for step in steps]
        seen[number] = [result["data"] for result in results]

    async with episodes(tmp_path) as held, anyio.create_task_group() as tasks:
        for number in range(64):
            tasks.start_soon(one, held, number)
    assert seen == {n: ["wrote /workspace/mine.txt", f"said {n}", str(n), f"of {n}"] for n in range(64)}


MARK = f"86461.{os.getpid()}"
MISCHIEF = f"""
import os, subprocess, sys
subprocess.Popen(["sleep", "{MARK}"], start_new_session=True)
subprocess.Popen(["sh", "-c", "while :; do date >> noise.txt; sleep 0.01; done"], start_new_session=True)
for number in range(3000):
    open(f"junk-{{number}}", "w").write("x" * 10)
os.chmod("README.md", 0)
os.chmod("docs", 0)
os.symlink("/", "root")
os.mkfifo("fifo")
os.rename("docs", "moved")
open("/tmp/left", "w").write("x")
"""


def slept_on() -> int:
    """Return how many processes of the mischief live on this machine."""
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                found += (folder / "cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", MARK.encode()]
    return found


async def test_a_reset_is_pristine_after_any_mischief(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held, held.held("echo", LOCAL, None) as session:
        first = await session.reset(ResetRequest(seed=1))
        spoilt = await session.step(Code(MISCHIEF))
        assert spoilt.observation["error"] is None
        assert slept_on() == 1
        again = await session.reset(ResetRequest(seed=1))
        assert again.metadata["workspace_digest"] == first.metadata["workspace_digest"]
        with anyio.fail_after(20):  # the answer does not wait until the last of them is gone
            while slept_on():  # noqa: ASYNC110 - the kernel tells nobody
                await anyio.sleep(0.01)
        left = await session.step(Code("import os; os.path.exists('/tmp/left'), sorted(os.listdir('.'))"))
        assert left.observation["result"] == [False, ["README.md", "docs"]]
        state: Any = await session.state()
        assert state["metadata"]["workspace_digest"] == first.metadata["workspace_digest"]
