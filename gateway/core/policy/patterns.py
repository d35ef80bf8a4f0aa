"""Patterns over structured text: globs by `/` segment, hosts by label, tools by server and name.

Compiled once, matched often; a hostile value cannot make one slow. Knows no policy and no JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import canonical_host
from gateway.core.policy.wildcards import PatternError, StringTest, compile_wildcard

__all__ = [
    "Target",
    "TargetPattern",
    "compile_glob",
    "compile_globs",
    "compile_host",
    "split_name",
    "split_pattern",
    "split_tool_pattern",
]

Target: TypeAlias = Literal["tool", "resource", "prompt"]

_NAMED = re.compile(
    r"(?:([a-z*][a-z0-9_*-]*)/)?(resource|prompt):(?:([a-z][a-z0-9_-]*)/(?!/))?(.+)", re.DOTALL
)

_MARKS = frozenset("*?[]{}\\")


def compile_glob(pattern: str) -> StringTest:
    """Return a test of whole strings: `*` and `?` stay in a `/` segment, `**` crosses and may be nothing."""
    if not pattern:
        raise PatternError("an empty pattern matches nothing: remove it")
    common = _common_glob(pattern)
    if common:
        return common
    groups: list[list[StringTest]] = [[]]
    for segment in pattern.split("/"):
        if segment == "**":
            groups.append([])
        elif "**" in segment:
            raise PatternError(
                f"'**' stands alone between slashes: write '**/*' in place of it in {pattern!r}"
            )
        else:
            groups[-1].append(compile_wildcard(segment))
    return _segments_test(groups)


def compile_globs(patterns: Sequence[str]) -> StringTest:
    """Return a test for any of the globs; the many that only look at a file's name cost as much as one."""
    names: set[str] = set()
    heads: list[str] = []
    tails: list[str] = []
    others: list[StringTest] = []
    for pattern in patterns:
        name = pattern.removeprefix("**/")
        if name == pattern or not name or "/" in name:
            others.append(compile_glob(pattern))
        elif _is_literal(name):
            names.add(name)
        elif _is_literal(name[:-1]) and name.endswith("*"):
            heads.append(name[:-1])
        elif _is_literal(name[1:]) and name.startswith("*"):
            tails.append(name[1:])
        else:
            others.append(compile_glob(pattern))
    if len(others) == len(patterns):
        return others[0] if len(others) == 1 else _any_of(others)
    starts, ends = tuple(heads), tuple(tails)

    def test(text: str) -> bool:
        name = text[text.rfind("/") + 1 :]
        if name in names or name.startswith(starts) or name.endswith(ends):
            return True
        return any(other(text) for other in others) if others else False

    return test


def _any_of(tests: Sequence[StringTest]) -> StringTest:
    return lambda text: any(test(text) for test in tests)


def _common_glob(pattern: str) -> StringTest | None:
    """Return a test without splitting for `**/name`, `**/literal/**` and `literal/**`, or `None`."""
    head, slash, last = pattern.rpartition("/")
    if head == "**" and last != "**" and "**" not in last:
        name = compile_wildcard(last)
        return lambda text: name(text[text.rfind("/") + 1 :])
    if not slash or last != "**" or not _is_literal(head.removeprefix("**/")):
        return None
    if head.startswith("**/"):
        inner = f"/{head[3:]}/"
        return lambda text: inner in f"/{text}/"
    inside = f"{head}/"
    return lambda text: text == head or text.startswith(inside)


def _is_literal(pattern: str) -> bool:
    return not _MARKS & set(pattern)


def _segments_test(groups: Sequence[Sequence[StringTest]]) -> StringTest:
    """Return a test for groups of segments with `**` between them."""
    head = groups[0]
    if len(groups) == 1:
        return lambda text: len(parts := text.split("/")) == len(head) and _fits(head, parts, 0)
    inner, tail = groups[1:-1], groups[-1]
    shortest = len(head) + len(tail)

    def test(text: str) -> bool:
        parts = text.split("/")
        end = len(parts) - len(tail)
        if len(parts) < shortest or not _fits(tail, parts, end) or not _fits(head, parts, 0):
            return False
        at = len(head)
        # The earliest place for each group leaves the most room for the rest.
        for group in inner:
            while at + len(group) <= end and not _fits(group, parts, at):
                at += 1
            at += len(group)
            if at > end:
                return False
        return True

    return test


def _fits(tests: Sequence[StringTest], parts: Sequence[str], start: int) -> bool:
    """Whether each test holds for its segment, counted from `start`; the caller saw to the length."""
    for offset, test in enumerate(tests):  # noqa: SIM110 - a generator costs more than the tests
        if not test(parts[start + offset]):
            return False
    return True


def compile_host(pattern: str) -> StringTest:
    """Return a test of canonical hosts: a whole name, `*.name` (one or more labels before it) or `*`."""
    if pattern == "*":
        return lambda host: True
    wild = pattern.startswith("*.")
    name = pattern[2:] if wild else pattern
    if "*" in name or "?" in name:
        raise PatternError(f"host patterns match whole labels: write 'name' or '*.name', not {pattern!r}")
    host = canonical_host(name)
    if isinstance(host, Unfit):
        raise PatternError(f"{pattern!r} is not a host: {host.reason}")
    if not wild:
        return host.__eq__
    suffix = "." + host
    return lambda value: value.endswith(suffix) and len(value) > len(suffix)


@dataclass(frozen=True, slots=True)
class TargetPattern:
    """What a rule is about: a tool, resource or prompt, by wildcards on its server and on its name.

    `target` is `None` for `"*"` alone: every tool, and in a deny everything.
    """

    target: Target | None
    server: str
    name: str


def split_tool_pattern(pattern: str) -> tuple[str, str]:
    """Return the server and tool parts of `server.tool`; `*` alone names every tool of every server."""
    if pattern == "*":
        return "*", "*"
    server, _, tool = pattern.partition(".")
    if not server or not tool:
        raise PatternError(f"tools are named 'server.tool', or '*' for all: not {pattern!r}")
    for part in (server, tool):
        compile_wildcard(part)
    return server, tool


def split_name(text: str) -> tuple[Target, str, str]:
    """Return what one call is for: `server.tool`, `resource:server/URI` or `prompt:server/name`."""
    kind, colon, rest = text.partition(":")
    if colon and kind in ("resource", "prompt"):
        server, slash, name = rest.partition("/")
        if not (server and slash and name) or ":" in server:
            raise PatternError(f"name the server and what it has: '{kind}:server/...', not {text!r}")
        return ("resource" if kind == "resource" else "prompt"), server, name
    server, _, tool = text.partition(".")
    if not (server and tool) or "*" in text:
        raise PatternError(f"name server and tool of one call, such as fs.read_file: not {text!r}")
    return "tool", server, tool


def split_pattern(pattern: str) -> TargetPattern:
    """Return what a rule's pattern names: `server.tool`, `resource:GLOB`, `prompt:GLOB` or `*`.

    `server/` narrows the last two, in front of the whole or of the glob; URIs have a scheme, so
    nothing is named by both. A glob of `*` alone names all there is, as it does everywhere: who
    denies `resource:*` means every URI, and not those of one segment.
    """
    if pattern == "*":
        return TargetPattern(None, "*", "*")
    match = _NAMED.fullmatch(pattern)
    if match is None:
        return TargetPattern("tool", *split_tool_pattern(pattern))
    target: Target = "resource" if match[2] == "resource" else "prompt"
    server, name = match[1] or match[3] or "*", match[4]
    if target == "resource" and name == "*":
        name = "**"
    compile_wildcard(server)
    (compile_glob if target == "resource" else compile_wildcard)(name)
    return TargetPattern(target, server, name)
