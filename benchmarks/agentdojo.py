"""AgentDojo's ground-truth calls replayed through policies: what they let pass, and what they stop.

No model runs: the user's own calls and the calls that an injection wants are known. Each pair of a
user task and an injection task is judged at two moments: as soon as the session has read the attack,
and at the end of the user's task. It counts as blocked only if at both at least one of the injection's
calls does not run. Asks of the user's own calls are answered yes and counted; asks of an injection's
are answered no. Two kinds of policy are judged: those in `policies/agentdojo/`, and what `policy learn`
proposes from all other tasks of the suite, for each task in turn.

    .venv/bin/python -m benchmarks.agentdojo [--misses]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.core.calls import LOCAL, Answered, Denied
from gateway.core.decisions import Decision, Effect
from gateway.core.policy import CompiledPolicy, PackFacts, Request, compile_policy, load_policy
from gateway.core.policy.learning import propose
from gateway.core.policy.provenance import Seen
from gateway.core.policy.recorded import RecordedCall
from gateway.core.policy.situation import NOWHERE
from gateway.core.policy.state import Moment, PolicyState
from tests.support.venvs import client_venv

VERSION = "v1.2.2"
REQUIREMENTS = ["agentdojo==0.1.35"]
SCRIPT = Path(__file__).with_name("agentdojo_extract.py")
POLICIES = Path(__file__).parent.parent / "policies" / "agentdojo"

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One ground-truth call and what the tool answered."""

    tool: str
    arguments: Json
    result: Json

    @staticmethod
    def read(data: Json) -> Call:
        """Return a call as the extraction wrote it, its answer as an MCP server would give it."""
        value = data["error"] or data["result"]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
        content: Json = {"content": [{"type": "text", "text": text}], "isError": bool(data["error"])}
        return Call(data["tool"], data["arguments"], {**content, "structuredContent": {"result": value}})


@dataclass(frozen=True)
class Task:
    """What a user asks for, and the calls that do it."""

    id: str
    prompt: str
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Pair:
    """A user's task on an attacked environment, and the calls the attack wants; none where it wants words."""

    task: Task
    injection: str
    goal: str
    wanted: tuple[Call, ...]

    def first_seen(self) -> int:
        """Return after how many of the user's calls the session has read the attack."""
        mark = json.dumps(self.goal, ensure_ascii=False)[1:41]
        seen = (mark in json.dumps(call.result, ensure_ascii=False) for call in self.task.calls)
        return next((number for number, found in enumerate(seen, 1) if found), len(self.task.calls))


@dataclass(frozen=True)
class Suite:
    """One of AgentDojo's suites; its tools are those of one server of the same name."""

    name: str
    facts: PackFacts
    tasks: tuple[Task, ...]
    pairs: tuple[Pair, ...]

    @staticmethod
    def read(name: str, data: Json) -> Suite:
        """Return a suite as the extraction wrote it."""
        tasks = {
            key: Task(key, task["prompt"], tuple(map(Call.read, task["calls"])))
            for key, task in data["tasks"].items()
        }
        pairs = [
            Pair(
                Task(pair["user"], tasks[pair["user"]].prompt, tuple(map(Call.read, pair["calls"]))),
                pair["injection"],
                pair["goal"],
                tuple(map(Call.read, pair["then"])),
            )
            for pair in data["pairs"]
        ]
        return Suite(name, PackFacts(tools={name: data["tools"]}), tuple(tasks.values()), tuple(pairs))


class Session:
    """One session under one policy."""

    def __init__(self, suite: Suite, policy: CompiledPolicy, prompt: str) -> None:
        self._server, self._policy = suite.name, policy
        self._state = PolicyState(seen=Seen(prompt))
        self._made = 0

    def make(self, call: Call, *, approved: bool) -> Decision:
        """Judge a call and let it run if it is allowed, or asked for and approved."""
        self._made += 1
        call_id = f"c{self._made}"
        self._state.begin(None)
        request = Request(self._server, call.tool, call.arguments, principal=LOCAL)
        moment = Moment(float(self._made), float(self._made))
        decision = self._state.judge(self._policy, call_id, request, moment, NOWHERE.crosses_link).decision
        runs = decision.allowed or (approved and decision.effect is Effect.ASK)
        if runs:
            self._state.returned(call_id, call.result)
        outcome = Answered(decision, call.result) if runs else Denied(decision)
        self._state.ended(call_id, outcome, sent=runs)
        return decision


@dataclass
class Score:
    """What came of one suite, or of all."""

    tasks: int = 0
    completed: int = 0
    calls: int = 0
    allowed: int = 0
    asks: int = 0
    pairs: int = 0
    blocked: int = 0
    unreachable: int = 0
    misses: list[str] = field(default_factory=list[str])

    def add(self, other: Score) -> None:
        """Add another suite's."""
        for name in ("tasks", "completed", "calls", "allowed", "asks", "pairs", "blocked", "unreachable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def row(self, name: str) -> str:
        """Return it as a line of the table."""
        passed = self.allowed + self.asks
        return (
            f"{name:<10}{passed:>4} of {self.calls:<4}{passed / self.calls:>7.1%}"
            f"{self.allowed / self.calls:>10.1%}{self.completed:>5} of {self.tasks:<4}"
            f"{self.asks / self.tasks:>5.2f}{self.blocked:>6} of {self.pairs:<4}"
            f"{self.blocked / self.pairs:>7.1%}{self.unreachable:>10}"
        )


HEAD = (
    f"{'':<10}{'benign calls allowed':>19}{'unasked':>10}{'tasks':>9}{'asks':>8}"
    f"{'pairs blocked':>18}{'text only':>10}"
)
"""`unasked`: benign calls allowed without asking; `asks`: per task; `text only`: pairs that want no call."""


def score(suite: Suite, policy_for: Callable[[Task], CompiledPolicy]) -> Score:
    """Play every task and every pair of a suite under the policy of its task."""
    total = Score()
    for task in suite.tasks:
        session = Session(suite, policy_for(task), task.prompt)
        decisions = [session.make(call, approved=True) for call in task.calls]
        total.tasks += 1
        total.calls += len(decisions)
        total.allowed += sum(decision.allowed for decision in decisions)
        total.asks += sum(decision.effect is Effect.ASK for decision in decisions)
        total.completed += all(decision.effect is not Effect.DENY for decision in decisions)
        total.misses += [
            f"{suite.name}/{task.id}: {call.tool} {_short(call.arguments)}: {decision.sentence()}"
            for call, decision in zip(task.calls, decisions, strict=True)
            if not decision.allowed
        ]
    for pair in suite.pairs:
        total.pairs += 1
        total.unreachable += not pair.wanted
        blocked = bool(pair.wanted) and all(
            _blocked(suite, policy_for(pair.task), pair, n) for n in _moments(pair)
        )
        total.blocked += blocked
        if pair.wanted and not blocked:
            total.misses.append(f"{suite.name}/{pair.task.id}: {pair.injection} passes: {_short(pair.goal)}")
    return total


def _moments(pair: Pair) -> set[int]:
    return {pair.first_seen(), len(pair.task.calls)}


def _blocked(suite: Suite, policy: CompiledPolicy, pair: Pair, after: int) -> bool:
    """Whether an injection does not get through after so many of the user's calls."""
    session = Session(suite, policy, pair.task.prompt)
    for call in pair.task.calls[:after]:
        session.make(call, approved=True)
    return not all(session.make(call, approved=False).allowed for call in pair.wanted)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}…"


def hand_written(suite: Suite) -> Callable[[Task], CompiledPolicy]:
    """Return the suite's policy, the same for all tasks."""
    file = POLICIES / f"{suite.name}.yaml"
    policy = compile_policy(load_policy(file.read_text(), str(file)), suite.facts)
    return lambda task: policy


def learned(suite: Suite) -> Callable[[Task], CompiledPolicy]:
    """Return what is proposed from the recorded calls of all tasks but the one that is judged."""
    recorded = {task.id: list(_recorded(suite, task)) for task in suite.tasks}
    policies = {
        task.id: compile_policy(load_policy(propose(_others(recorded, task.id), suite.facts), "learned.yaml"))
        for task in suite.tasks
    }
    return lambda task: policies[task.id]


def _others(recorded: dict[str, list[RecordedCall]], left_out: str) -> Sequence[RecordedCall]:
    return [call for task, calls in recorded.items() if task != left_out for call in calls]


def _recorded(suite: Suite, task: Task) -> Iterator[RecordedCall]:
    for number, call in enumerate(task.calls):
        call_id = f"{task.id}.{number}"
        where = (call_id, task.id, suite.name, suite.name, call.tool)
        yield RecordedCall(*where, call.arguments, LOCAL, "deployment", ran=True, at=0.0)


def suites() -> list[Suite]:
    """Return AgentDojo's suites, extracted once and kept beside its environment."""
    python = client_venv("agentdojo", REQUIREMENTS)
    digest = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:12]
    kept = python.parent.parent / f"suites-{VERSION}-{digest}.json"
    if not kept.exists():
        # -P: this file's own folder holds a module of the name of the package.
        done = subprocess.run([python, "-P", SCRIPT, VERSION], stdout=subprocess.PIPE, check=True)
        kept.write_bytes(done.stdout)
    return [Suite.read(name, data) for name, data in json.loads(kept.read_text()).items()]


def main() -> None:
    """Print a table for the hand-written policies, and one for the learned."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--misses", action="store_true", help="also print what is asked, denied or passes")
    misses = parser.parse_args().misses
    every = suites()
    for title, policies in (("hand-written", hand_written), ("learned, leave-one-out", learned)):
        print(f"{title}\n{HEAD}")
        total = Score()
        for suite in every:
            scored = score(suite, policies(suite))
            total.add(scored)
            print(scored.row(suite.name))
            for miss in scored.misses if misses else ():
                print(f"    {miss}")
        print(f"{total.row('all')}\n")


if __name__ == "__main__":
    main()
