"""Policy decisions at 1, 10, 100 and 1,000 rules: the engine, with and without `when`, beside two peers.

    .venv/bin/python -m benchmarks.policy [--rounds 7] [--alone]

*By hand* is what a programmer writes for this one policy: a dictionary of folders by tool and a few
string tests. *Cedar* is `cedarpy` with the same rules, in an environment of its own (`--alone` leaves
it out); it parses the policies at every call, and once for a whole batch (of 100), so both are shown. It has
no paths and no sizes of strings: it is given the path made canonical and the size counted, for free.
Neither peer says why, by which line of which file. The column with `when` needs the extra `cel`.

All take turns, round after round, in CPU time of their own process: a noisy machine disturbs each
alike, and ratios are what to read. The rules are spread over tools as in a real file; one deny rule
covers them all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import posixpath
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from gateway.core.json_types import JsonObject
from gateway.core.policy import CompiledPolicy, Request, compile_policy, load_policy
from tests.support.venvs import client_venv

CEDAR = "cedarpy==4.12.2"
BATCHES = 25
CALLS = 100
TOOL = "tool_0"
KINDS = {"path": "path", "source": "path", "destination": "path"}
DENY = '  - {id: secrets, deny: "*", args: {"@path": {glob: ["**/.env*", "**/id_rsa*"]}}}\n'
WHEN = ", when: \"session.calls['fs.tool_1'] < 3 && size(args.content) < 70000\""
ALLOWED: JsonObject = {"path": "/workspace/src0/app/main.py", "content": "print('hello')\n" * 20}
CASES: Mapping[str, JsonObject] = {
    "allow": ALLOWED,
    "allow, path made canonical": {**ALLOWED, "path": "src0/./app/../main.py"},
    "deny by rule": {**ALLOWED, "path": "/workspace/src0/.env"},
    "deny, no match": {**ALLOWED, "path": "/etc/passwd"},
}
COLUMNS = ("engine", "by hand", "with when", "cedar, batch", "cedar, call")

Figures: TypeAlias = dict[str, float]
Peer: TypeAlias = "subprocess.Popen[str]"


def rules(count: int, when: str) -> Iterator[str]:
    """Yield `count` rules of a file: two for each tool, and one for all."""
    if count > 1:
        yield DENY
    for number in range(max(count - 1, 1)):
        yield (
            f"  - {{id: r{number}, allow: fs.tool_{number // 2}, "
            f'args: {{path: {{under: /workspace/src{number % 2}, not_glob: "**/.git/**"}}, '
            f"content: {{max_bytes: 65536}}}}{when}}}\n"
        )


def policy_of(count: int, when: str = "") -> CompiledPolicy:
    """Return a compiled policy of so many rules, each with an expression if one is given."""
    text = "version: 1\nrules:\n" + "".join(rules(count, when))
    return compile_policy(load_policy(text, "benchmark.yaml"))


def by_hand(count: int) -> Callable[[str, JsonObject], bool]:
    """Return the same rules as a programmer writes them for this policy alone: whether a call may run."""
    folders: dict[str, list[str]] = {}
    for number in range(max(count - 1, 1)):
        folders.setdefault(f"tool_{number // 2}", []).append(f"/workspace/src{number % 2}/")
    secrets = (".env", "id_rsa") if count > 1 else ()

    def allowed(tool: str, arguments: JsonObject) -> bool:
        path, content = arguments.get("path"), arguments.get("content")
        if not isinstance(path, str) or not isinstance(content, str):
            return False
        path = posixpath.normpath(posixpath.join("/workspace", path))
        if secrets and path.rpartition("/")[2].startswith(secrets):
            return False
        if "/.git/" in f"{path}/" or len(content.encode()) > 65536:
            return False
        return any(path.startswith(folder) for folder in folders.get(tool, ()))

    return allowed


def in_cedar(count: int) -> str:
    """Return the same rules in Cedar."""
    texts: list[str] = []
    if count > 1:
        texts.append(
            'forbid(principal, action, resource) when {context.path like "*/.env*" || '
            'context.path like "*/id_rsa*"};'
        )
    for number in range(max(count - 1, 1)):
        texts.append(
            f'permit(principal, action == Action::"fs.tool_{number // 2}", resource) when {{'
            f'context.path like "/workspace/src{number % 2}/*" && !(context.path like "*/.git/*") && '
            "context.content_bytes <= 65536};"
        )
    return "\n".join(texts)


def microseconds(run: Callable[[], object]) -> float:
    """Return the CPU time of one run, the best of several batches."""
    best = float("inf")
    for _ in range(BATCHES):
        start = time.process_time()
        for _ in range(CALLS):
            run()
        best = min(best, time.process_time() - start)
    return best / CALLS * 1e6


@contextlib.contextmanager
def cedar() -> Generator[Peer]:
    """Run Cedar's side until the block ends."""
    argv = [str(client_venv("cedarpy", [CEDAR])), "-I", str(Path(__file__).parent / "peers" / "cedar.py")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def ask_cedar(peer: Peer, policies: str, arguments: JsonObject, allowed: bool) -> Figures:
    """Return one round of Cedar's figures; it has to decide as the engine does."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    request = {
        "principal": 'User::"local"',
        "action": f'Action::"fs.{TOOL}"',
        "resource": 'Tool::"fs"',
        "context": {"path": arguments["path"], "content_bytes": len(str(arguments["content"]).encode())},
    }
    print(json.dumps({"policies": policies, "request": request, "calls": CALLS}), file=peer.stdin, flush=True)
    answer: dict[str, Any] = json.loads(peer.stdout.readline())
    assert answer["allowed"] is allowed, f"Cedar decides otherwise: {request}"
    return {"cedar, call": answer["call"], "cedar, batch": answer["batch"]}


class Size:
    """The same policy of `count` rules, in every peer's form."""

    def __init__(self, count: int) -> None:
        self.plain, self.expressive = policy_of(count), policy_of(count, WHEN)
        self.hand, self.cedar = by_hand(count), in_cedar(count)

    def measure(self, arguments: JsonObject, allowed: bool, peer: Peer | None) -> Figures:
        """Return one round: what one decision takes each, in microseconds."""
        request = Request("fs", TOOL, dict(arguments), KINDS)
        canonical = self.plain.judge(request).arguments
        assert self.hand(TOOL, arguments) is allowed
        assert self.expressive.judge(request).decision.allowed is allowed
        return {
            "engine": microseconds(lambda: self.plain.judge(request)),
            "by hand": microseconds(lambda: self.hand(TOOL, arguments)),
            "with when": microseconds(lambda: self.expressive.judge(request)),
            **(ask_cedar(peer, self.cedar, canonical, allowed) if peer else {}),
        }


def shown(rounds: list[Figures]) -> str:
    """Return each column's median, and the medians of its ratio to the engine in the same round."""
    cells: list[str] = []
    for name in COLUMNS:
        if name in rounds[0]:
            spent = statistics.median(figures[name] for figures in rounds)
            ratio = statistics.median(figures[name] / figures["engine"] for figures in rounds)
            cells.append(f"{spent:>10,.2f} {f'({ratio:,.2f}x)' if name != 'engine' else '':<12}")
    return "".join(cells)


def main() -> None:
    """Print one line for each size and decision: µs, and ratios to the engine."""
    parser = argparse.ArgumentParser(description="Policy decisions beside a closure and Cedar, in µs.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--alone", action="store_true", help="without Cedar")
    options = parser.parse_args()
    names = COLUMNS[:3] if options.alone else COLUMNS
    print(f"{'rules':>6}  {'decision, in µs':<28}" + "".join(f"{name:>12}{'':<11}" for name in names))
    with contextlib.nullcontext() if options.alone else cedar() as peer:
        for count in (1, 10, 100, 1_000):
            size = Size(count)
            for name, arguments in CASES.items():
                if count == 1 and name == "deny by rule":
                    continue  # one rule alone denies nothing by rule
                allowed = name.startswith("allow")
                rounds = [size.measure(arguments, allowed, peer) for _ in range(options.rounds)]
                print(f"{count:>6}  {name:<28}{shown(rounds)}", flush=True)


if __name__ == "__main__":
    main()
