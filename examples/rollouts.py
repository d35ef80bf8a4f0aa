"""Many episodes in parallel against a served pack, and what came of them.

    sandgate serve git --mode training &
    python examples/rollouts.py http://127.0.0.1:8000 --episodes 1000 --parallel 16 --plot rollouts.svg

The agent here is chance: it calls tools that the policy shows, with arguments of the right names. Put a
model in place of `choose`. Progress goes to stderr, a table of rewards and denials to stdout; `--plot FILE`
draws them as SVG.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from gateway.core.json_types import JsonObject
from gateway.training import AsyncEnv, CapacityReached, EnvError, ResetResult, StepResult, Tool
from gateway.training.plot import Lines


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


async def play(url: str, pack: str | None, task: str | None, seed: int, max_calls: int) -> Played:
    """Play one episode to its end."""
    dice = random.Random(seed)  # noqa: S311 - an agent, not a secret
    async with AsyncEnv(url, pack) as env:
        start = await reset(env, task, seed)
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


async def reset(env: AsyncEnv, task: str | None, seed: int) -> ResetResult:
    """Start an episode; where the server is full, wait for a place."""
    while True:
        try:
            return await env.reset(task=task, seed=seed)
        except CapacityReached as full:
            await anyio.sleep(full.retry_after)


async def rollouts(options: argparse.Namespace) -> list[Played]:
    """Play all episodes, `parallel` at a time, the tasks in turn."""
    episodes, tasks_in_turn = options.episodes, options.task or [None]
    places = anyio.CapacityLimiter(options.parallel)
    played: list[Played] = []

    async def one(seed: int) -> None:
        async with places:
            task = tasks_in_turn[seed % len(tasks_in_turn)]
            played.append(await play(options.url, options.pack, task, seed, options.max_calls))
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


def plot(played: Sequence[Played], file: Path) -> None:
    """Draw reward and denials over the episodes, in the order they ended, as means of the last few."""
    few = max(1, len(played) // 20)
    series: dict[str, list[tuple[float, float]]] = {"reward": [], "denials": []}
    for count in range(few, len(played) + 1):
        window = played[count - few : count]
        rewards = [episode.reward for episode in window if episode.reward is not None]
        if rewards:
            series["reward"].append((count, sum(rewards) / len(rewards)))
        series["denials"].append((count, sum(episode.denials for episode in window) / few))
    title = f"{len(played)} episodes, means of {few}"
    Lines(title, "episodes", "of an episode", {name: line for name, line in series.items() if line}).write(
        file
    )


def count(text: str) -> int:
    """Read a number of the command line that is at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main() -> None:
    """Read the command line, play, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="what `sandgate serve --mode training` prints")
    parser.add_argument("--pack", help="which pack, where several are served")
    parser.add_argument("--task", action="append", help="a task, or several in turn [the pack's first]")
    parser.add_argument("--episodes", type=count, default=100)
    parser.add_argument("--parallel", type=count, default=8)
    parser.add_argument("--max-calls", type=int, default=5, help="calls of an episode before it submits")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw rewards and denials as SVG")
    options = parser.parse_args()
    played, faults = [], list[str]()
    try:
        played = anyio.run(rollouts, options)
    except* EnvError as told:
        faults = sorted({str(fault) for fault in told.exceptions})
    if faults:
        parser.exit(1, f"\n{parser.prog}: {faults[0]}\n")
    report(played)
    if options.plot:
        plot(played, options.plot)


if __name__ == "__main__":
    main()
