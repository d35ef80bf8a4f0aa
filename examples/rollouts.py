"""Many episodes in parallel against a served pack, and what came of them.

    sandgate serve git --mode training &
    python examples/rollouts.py http://127.0.0.1:8000 --episodes 1000 --parallel 16

The agent here is chance: it calls tools that the policy shows, with arguments of the right names. Put a
model in place of `choose`. Progress goes to stderr, a table of rewards and denials to stdout; with
matplotlib installed, `--plot FILE` draws them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import anyio

from gateway.core.json_types import JsonObject
from gateway.training import AsyncEnv, CapacityReached, ResetResult, StepResult, Tool


@dataclass(frozen=True, slots=True)
class Played:
    """One episode: its reward (`None`: lost to the infrastructure), refusals, and why it ended."""

    task: str | None
    reward: float | None
    steps: int
    denials: int
    ended: str


def choose(tools: Sequence[Tool], start: ResetResult, dice: random.Random) -> tuple[str, JsonObject]:
    """Return a tool and its arguments; an agent would read `start.prompt` and the results so far."""
    tool = dice.choice(tools)
    required = tool.input_schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    words = ["/workspace", "README.md", "main", "HEAD", "fix the typo"]
    return tool.name, {name: dice.choice(words) for name in names}


async def play(url: str, pack: str | None, seed: int, max_calls: int) -> Played:
    """Play one episode to its end."""
    dice = random.Random(seed)  # noqa: S311 - an agent, not a secret
    async with AsyncEnv(url, pack) as env:
        start = await reset(env, seed)
        results: list[StepResult] = []
        tools = [tool for tool in await env.tools() if tool.name != "submit"]
        while len(results) < max_calls and not (results and results[-1].done):
            name, arguments = choose(tools, start, dice)
            results.append(await env.call(name, arguments))
        if not results or not results[-1].done:
            results.append(await env.submit())
    end = results[-1]
    return Played(
        task=start.task,
        reward=None if end.truncated else sum(result.reward or 0.0 for result in results),
        steps=len(results),
        denials=sum(result.denied for result in results),
        ended=end.done_reason.value if end.done_reason else "unfinished",
    )


async def reset(env: AsyncEnv, seed: int) -> ResetResult:
    """Start an episode; where the server is full, wait for a place."""
    while True:
        try:
            return await env.reset(seed=seed)
        except CapacityReached as full:
            await anyio.sleep(full.retry_after)


async def rollouts(url: str, pack: str | None, episodes: int, parallel: int, max_calls: int) -> list[Played]:
    """Play all episodes, `parallel` at a time."""
    places = anyio.CapacityLimiter(parallel)
    played: list[Played] = []

    async def one(seed: int) -> None:
        async with places:
            played.append(await play(url, pack, seed, max_calls))
        progress(len(played), episodes)

    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for seed in range(episodes):
            tasks.start_soon(one, seed)
    seconds = anyio.current_time() - started
    steps = sum(episode.steps for episode in played)
    print(
        f"\n{episodes} episodes, {steps} steps in {seconds:.1f} s: {steps / seconds:.0f}/s", file=sys.stderr
    )
    return played


def progress(done: int, total: int) -> None:
    """Show how far it is: a bar on a terminal, ten lines in a log."""
    if sys.stderr.isatty():
        bar = "#" * (40 * done // total)
        print(f"\r[{bar:<40}] {done}/{total}", end="", file=sys.stderr, flush=True)
    elif done % max(1, total // 10) == 0:
        print(f"{done}/{total} episodes", file=sys.stderr, flush=True)


def report(played: Sequence[Played]) -> None:
    """Print rewards and denials, task by task."""
    print(f"{'task':<20} {'episodes':>8} {'reward':>8} {'denials':>8}  ended")
    for task in sorted({episode.task or "-" for episode in played}):
        of_task = [episode for episode in played if (episode.task or "-") == task]
        rewards = [episode.reward for episode in of_task if episode.reward is not None]
        mean_reward = sum(rewards) / max(1, len(rewards))
        mean_denials = sum(episode.denials for episode in of_task) / len(of_task)
        ends = ", ".join(f"{why} {n}" for why, n in Counter(e.ended for e in of_task).most_common())
        print(f"{task:<20} {len(of_task):>8} {mean_reward:>8.2f} {mean_denials:>8.2f}  {ends}")


def plot(played: Sequence[Played], file: str) -> None:
    """Draw how rewards and denials are spread over the episodes."""
    if find_spec("matplotlib") is None:
        sys.exit("--plot needs matplotlib: pip install matplotlib")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, (rewards, denials) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    rewards.hist([episode.reward for episode in played if episode.reward is not None], bins=20)
    rewards.set(title="reward", xlabel="reward of an episode", ylabel="episodes")
    denials.hist([episode.denials for episode in played], bins=range(12), align="left")
    denials.set(title="denials", xlabel="denied calls in an episode")
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """Read the command line, play, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="what `sandgate serve --mode training` prints")
    parser.add_argument("--pack", help="which pack, where several are served")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--max-calls", type=int, default=5, help="calls of an episode before it submits")
    parser.add_argument("--plot", metavar="FILE", help="draw rewards and denials (needs matplotlib)")
    options = parser.parse_args()
    played = anyio.run(
        rollouts, options.url, options.pack, options.episodes, options.parallel, options.max_calls
    )
    report(played)
    if options.plot:
        plot(played, options.plot)


if __name__ == "__main__":
    main()
