"""`from`: whether a value was seen before, word for word, in a text that nobody else could write.

Sources are the task's prompt, the policy's own `vars` and results of named tools in this session.
Only results of tools that some rule trusts are kept, the newest first to go last; what was dropped
was not seen, which can only deny. One call searches so much and no more (`finding`): beyond that, and
for what is neither text nor number, the verdict is a doubt.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.finding import Effort, appears_in
from gateway.core.policy.model import Kind
from gateway.core.policy.situation import Finder, Situation
from gateway.core.policy.verdicts import Verdict, all_of

__all__ = ["Seen", "compile_from", "texts_of"]

MAX_VALUE: Final = 8_192
"""Longest value that is looked for, in characters."""
MAX_TEXT: Final = 262_144
"""Most characters kept of one result, and of a prompt."""
MAX_KEPT: Final = 1_048_576
"""Most characters of results kept in one session."""
_MOST_ITEMS: Final = 1_000
"""Longest list that is judged item by item."""
_PER_RESULT: Final = 256
"""What a result takes of that beside its text, so that short ones are bounded in number too."""


def compile_from(
    sources: Sequence[str], variables: Sequence[str], kind: Kind | None, workspace: str
) -> Callable[[JsonValue, Situation], Verdict]:
    """Return a judge of values; a list is judged item by item."""
    own = variables if "policy" in sources else ()
    elsewhere = tuple(source for source in sources if source != "policy")

    def seen(value: JsonValue, situation: Situation) -> Verdict:
        if isinstance(value, list):
            if len(value) > _MOST_ITEMS:
                return None
            return all_of(seen(item, situation) for item in value)
        spelled = _spelled(value, kind, workspace)
        return None if spelled is None else situation.appeared(spelled, elsewhere, own)

    return seen


def _spelled(value: JsonValue, kind: Kind | None, workspace: str) -> str | None:
    """Return the shortest way to write a canonical value, which stands in the longer ones too.

    Nothing for what is blank, `None` for what cannot be judged.
    """
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return None
    if not isinstance(value, str):
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        return str(int(value)) if whole else json.dumps(value)
    if len(value) > MAX_VALUE:
        return None
    if not value.strip():
        return ""
    if kind == "path":
        return value.removeprefix(f"{workspace.rstrip('/')}/")
    if kind == "url" and value.count("/") == 3:
        return value.removesuffix("/")
    return value


def texts_of(result: JsonObject) -> str:
    """Return all text and numbers of a result, one a line, cut to what is kept."""
    parts: list[str] = []
    size = 0
    for leaf in _leaves(result):
        parts.append(leaf)
        size += len(leaf) + 1
        if size > MAX_TEXT:
            break
    return "\n".join(parts)[:MAX_TEXT]


def _leaves(result: JsonObject) -> Iterator[str]:
    """Yield what the tool said: the texts of content blocks, and all of the structured content."""
    content = result.get("content")
    waiting: deque[JsonValue] = deque(_block_texts(content) if isinstance(content, list) else ())
    waiting.append(result.get("structuredContent"))
    while waiting:
        value = waiting.popleft()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield json.dumps(value)


def _block_texts(blocks: Sequence[JsonValue]) -> Iterator[JsonValue]:
    for block in blocks:
        if isinstance(block, dict):
            resource = block.get("resource")
            inner = resource if isinstance(resource, dict) else {}
            yield from (block.get("text"), block.get("uri"), inner.get("text"), inner.get("uri"))


@dataclass(slots=True)
class Seen:
    """What a session has seen of its sources: the prompt, and results with the sources they count for."""

    prompt: str = ""
    _results: deque[tuple[frozenset[str], str]] = field(default_factory=deque[tuple[frozenset[str], str]])
    _kept: int = 0

    def branch(self, prompt: str) -> Seen:
        """Return the same results beside another prompt; what is seen from here on is seen apart."""
        return Seen(prompt, self._results.copy(), self._kept)

    def keep(self, sources: frozenset[str], result: JsonObject) -> None:
        """Remember a result; the oldest make room for it."""
        text = texts_of(result)
        self._results.append((sources, text))
        self._kept += len(text) + _PER_RESULT
        while self._kept > MAX_KEPT:
            self._kept -= len(self._results.popleft()[1]) + _PER_RESULT

    def finder(self) -> Finder:
        """Return `Situation.appeared` for one call, whose searches share one effort."""
        effort = Effort()

        def appeared(value: str, sources: Sequence[str], texts: Sequence[str]) -> Verdict:
            return appears_in(value, chain(texts, self._texts(frozenset(sources))), effort)

        return appeared

    def _texts(self, sources: frozenset[str]) -> Iterator[str]:
        """Yield the texts of `prompt` and of rules' `tool:PATTERN`s, the newest result first."""
        if "prompt" in sources:
            yield self.prompt[:MAX_TEXT]
        yield from (text for counted, text in reversed(self._results) if sources & counted)
