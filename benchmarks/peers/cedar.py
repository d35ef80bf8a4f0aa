"""Cedar's side of `benchmarks.policy`: decisions by `cedarpy`, timed round by round. No code of the gateway.

Run by the benchmark in an environment of its own. Each line of standard input is a JSON object
`{policies, request, calls}`; each line of the answer is `{allowed, call, batch}`: the decision, and
the microseconds of one, asked for alone and in a batch of `calls`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import cedarpy  # pyright: ignore[reportMissingImports]

_LEAST = 0.02
"""Shortest time one figure is taken over, in seconds."""


def microseconds(run: Callable[[], object], decisions: int) -> float:
    """Return the CPU time of one decision, of `decisions` that one run makes."""
    runs, start = 0, time.process_time()
    while (spent := time.process_time() - start) < _LEAST:
        run()
        runs += 1
    return spent / runs / decisions * 1e6


def main() -> None:
    """Answer each round."""
    engine: Any = cedarpy
    for line in sys.stdin:
        asked = json.loads(line)
        policies, request, calls = asked["policies"], asked["request"], asked["calls"]
        answer = engine.is_authorized(request, policies, [])
        if answer.diagnostics.errors:
            raise SystemExit(f"cedar: {answer.diagnostics.errors}")
        alone = microseconds(lambda: engine.is_authorized(request, policies, []), 1)  # noqa: B023 - run here
        many = [request] * calls
        batch = microseconds(lambda: engine.is_authorized_batch(many, policies, []), calls)  # noqa: B023
        print(json.dumps({"allowed": answer.allowed, "call": alone, "batch": batch}), flush=True)


if __name__ == "__main__":
    main()
