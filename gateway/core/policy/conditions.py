"""`when`: what a condition is given of a request, and what it may cost. Only `true` counts as holding.

The CEL library (see `expressions`) answers errors as values or exceptions and bounds its own iterations;
what one iteration may cost is bounded here, by the size of what an expression with loops is given. What
is an error, too large or no boolean is a doubt (`None`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.expressions import compile_expression
from gateway.core.policy.request import Request
from gateway.core.policy.verdicts import Verdict

__all__ = ["compile_condition"]

MAX_BYTES: Final = 1_000_000
"""Most bytes of arguments any expression sees."""
MAX_WORK: Final = 8_000_000
"""Most iterations times bytes of one evaluation: tens of milliseconds at worst."""
MAX_ITERATIONS: Final = 10_000
"""Where the library itself stops a loop."""

_LOOPS: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(")
_COUNTED: Final = re.compile(r"""session\s*\.\s*calls\s*\[\s*(?:'([^'\\]+)'|"([^"\\]+)")\s*\]""")


def compile_condition(text: str) -> Callable[[JsonObject, Request], Verdict]:
    """Return a judge of canonical arguments and their request; raises `PatternError`."""
    expression = compile_expression(text)
    loops = len(_LOOPS.findall(text))
    counted = {first or second: 0 for first, second in _COUNTED.findall(text)}

    def judge(arguments: JsonObject, request: Request) -> Verdict:
        if _work(arguments, loops) > MAX_WORK:
            return None
        try:
            value = expression.eval(data=_view(arguments, request, counted)).value()
        except Exception:  # noqa: BLE001 - whatever it is, the expression was not found true
            return None
        return value if isinstance(value, bool) else None

    return judge


def _view(arguments: JsonObject, request: Request, counted: Mapping[str, int]) -> dict[str, object]:
    who, situation = request.principal, request.situation
    return {
        "args": arguments,
        "tool": request.tool,
        "server": request.server,
        "principal": {
            "name": who.name,
            "client": who.client or "",
            "groups": sorted(who.groups),
            "roles": sorted(role.value for role in who.roles),
        },
        "session": {
            # A tool that the expression names has been called no times rather than never heard of.
            "calls": {**counted, **situation.calls},
            "denials": situation.denials,
            "labels": sorted(situation.labels),
            "steps": situation.steps,
        },
        "mode": request.mode,
        "now": datetime.fromtimestamp(situation.now, UTC),
    }


def _work(arguments: JsonObject, loops: int) -> int:
    """Return a bound of bytes touched: all of them, once for each iteration there may be."""
    size, items = 0, 1
    waiting: list[JsonValue] = [arguments]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value) * (1 if value.isascii() else 4)
        elif isinstance(value, dict):
            size += sum(map(len, value)) * 4
            items += len(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            items += len(value)
            waiting.extend(value)
        if items > MAX_ITERATIONS or size > MAX_BYTES:
            return MAX_WORK + 1
    return (min(items**loops, MAX_ITERATIONS) if loops else 1) * (size + items)
