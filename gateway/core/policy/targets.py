"""What rules are about: tests of tools, resources and prompts by name, from a rule's patterns.

`*` alone is every tool; where it restricts (in a deny, a label or a result rule) it is everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gateway.core.decisions import Effect
from gateway.core.policy.patterns import Target, compile_glob, split_pattern, split_tool_pattern
from gateway.core.policy.wildcards import StringTest, compile_wildcard

__all__ = ["TargetTest", "target_test", "template_test", "tool_test"]

TargetTest = Callable[[Target, str, str], bool]
"""Whether a rule is about this kind of target, of this server, of this name."""


def target_test(patterns: Sequence[str], effect: Effect) -> TargetTest:
    """Return a test of what a rule's patterns name; `*` is every tool, and in a deny everything."""
    tests: list[tuple[Target | None, StringTest, StringTest]] = []
    for pattern in patterns:
        split = split_pattern(pattern)
        everything = split.target is None and effect is Effect.DENY
        target: Target | None = None if everything else split.target or "tool"
        named = compile_glob if split.target == "resource" else compile_wildcard
        tests.append((target, compile_wildcard(split.server), named(split.name)))

    def test(target: Target, server: str, name: str) -> bool:
        return any(
            (wanted is None or wanted == target) and of_server(server) and of_name(name)
            for wanted, of_server, of_name in tests
        )

    return test


def template_test(patterns: Sequence[str], effect: Effect) -> Callable[[str, str], bool]:
    """Return a test of a server and a URI template.

    A deny is about it if it is about whatever the template makes, a grant if it may be about some of it:
    their texts agree as far as both are fixed.
    """
    every = target_test(patterns, effect)
    if effect is Effect.DENY:
        return lambda server, template: every("resource", server, template)
    split = [split_pattern(pattern) for pattern in patterns]
    heads = [
        (compile_wildcard(part.server), _fixed_head(part.name)) for part in split if part.target == "resource"
    ]

    def test(server: str, template: str) -> bool:
        start = template.partition("{")[0]
        return any(
            of_server(server) and (start.startswith(head) or head.startswith(start))
            for of_server, head in heads
        )

    return test


def _fixed_head(pattern: str) -> str:
    return re.split(r"[*?\\]", pattern, maxsplit=1)[0]


def tool_test(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Return a test of server and tool names for patterns that name tools only."""
    tests = [tuple(map(compile_wildcard, split_tool_pattern(pattern))) for pattern in patterns]
    return lambda server, tool: any(of_server(server) and of_tool(tool) for of_server, of_tool in tests)
