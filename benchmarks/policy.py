"""Policy decisions a second, at 1, 10, 100 and 1,000 rules, with and without `when`.

Run: `python benchmarks/policy.py`; the columns with `when` need the extra `cel`.

Each line is the best of several batches in CPU time of this process, so that a busy machine
disturbs it little. The rules are spread over tools as in a real file; one deny rule covers them all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from gateway.core.policy import CompiledPolicy, Request, compile_policy, load_policy

BATCHES = 300
CALLS = 200
KINDS = {"path": "path", "source": "path", "destination": "path"}
DENY = '  - {id: secrets, deny: "*", args: {"@path": {glob: ["**/.env*", "**/id_rsa*"]}}}\n'


WHEN = ", when: \"session.calls['fs.tool_1'] < 3 && size(args.content) < 70000\""


def rules(count: int, when: str) -> Iterator[str]:
    """Yield `count` rules of a file: two for each tool, and one for all."""
    if count > 1:
        yield DENY
    for number in range(max(count - 1, 1)):
        tool = f"fs.tool_{number // 2}"
        yield (
            f"  - {{id: r{number}, allow: {tool}, "
            f'args: {{path: {{under: /workspace/src{number % 2}, not_glob: "**/.git/**"}}, '
            f"content: {{max_bytes: 65536}}}}{when}}}\n"
        )


def policy_of(count: int, when: str = "") -> CompiledPolicy:
    """Return a compiled policy of so many rules, each with an expression if one is given."""
    text = "version: 1\nrules:\n" + "".join(rules(count, when))
    return compile_policy(load_policy(text, "benchmark.yaml"))


def microseconds(policy: CompiledPolicy, request: Request) -> float:
    """Return the CPU time of one decision."""
    judge = policy.judge
    judge(request)
    best = float("inf")
    for _ in range(BATCHES):
        start = time.process_time()
        for _ in range(CALLS):
            judge(request)
        best = min(best, time.process_time() - start)
    return best / CALLS * 1e6


def main() -> None:
    """Print one line for each size and decision."""
    allowed = {"path": "/workspace/src0/app/main.py", "content": "print('hello')\n" * 20}
    calls = {
        "allow": allowed,
        "allow, path made canonical": {**allowed, "path": "src0/./app/../main.py"},
        "deny by rule": {**allowed, "path": "/workspace/src0/.env"},
        "deny, no match": {**allowed, "path": "/etc/passwd"},
    }
    print(f"{'rules':>6}  {'decision':<28}{'µs':>8}{'decisions/s':>14}{'µs, when':>12}{'decisions/s':>14}")
    for count in (1, 10, 100, 1_000):
        policies = [policy_of(count), policy_of(count, WHEN)]
        for name, arguments in calls.items():
            request = Request("fs", "tool_0", dict(arguments), KINDS)
            effects = {policy.judge(request).decision.effect.value for policy in policies}
            if effects != {name.split(",")[0].split()[0]}:
                continue  # one rule alone denies nothing by rule
            plain, expressive = [microseconds(policy, request) for policy in policies]
            figures = f"{plain:>8.2f}{1e6 / plain:>14,.0f}{expressive:>12.2f}{1e6 / expressive:>14,.0f}"
            print(f"{count:>6}  {name:<28}{figures}")


if __name__ == "__main__":
    main()
