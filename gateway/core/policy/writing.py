"""A proposed policy as YAML text: what stands in it, and in comments how often it was seen. Pure.

Read back, the text is exactly the values that were given: every text is quoted where it could be
taken for anything else, and no `${` becomes a variable (in a key it never does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import yaml

from gateway.core.json_types import JsonValue
from gateway.core.policy.samples import Learned, Noted

__all__ = ["write_policy"]

_PLAIN = re.compile(r"(?!(?i:true|false|null|yes|no|on|off)\Z)[A-Za-z/][A-Za-z0-9/_.-]*")


def write_policy(rules: Sequence[Learned], heading: str) -> str:
    """Return the text of a policy with these rules, `heading` as its first comment."""
    lines = [f"# {heading}", "version: 1"]
    lines += ["rules:", *_sequence(rules, 2)] if rules else ["rules: []"]
    return "\n".join(lines) + "\n"


def _mapping(parts: Mapping[str, Learned], indent: int) -> Iterator[str]:
    for key, part in parts.items():
        yield from _entry(f"{' ' * indent}{_quoted(key)}:", part, indent)


def _sequence(parts: Sequence[Learned], indent: int) -> Iterator[str]:
    for part in parts:
        inner = part.value if isinstance(part, Noted) else part
        if isinstance(inner, Mapping):
            first, *rest = _mapping(cast("Mapping[str, Learned]", inner), indent + 2)
            yield f"{' ' * indent}- {first.lstrip()}"
            yield from rest
        else:
            yield from _entry(f"{' ' * indent}-", part, indent)


def _entry(head: str, part: Learned, indent: int) -> Iterator[str]:
    note = f"  # {part.note}" if isinstance(part, Noted) and part.note else ""
    value = part.value if isinstance(part, Noted) else part
    if isinstance(value, Mapping) and value:
        yield f"{head}{note}"
        yield from _mapping(cast("Mapping[str, Learned]", value), indent + 2)
    elif isinstance(value, list) and value and any(isinstance(item, Noted) for item in value):
        yield f"{head}{note}"
        yield from _sequence(cast("Sequence[Learned]", value), indent + 2)
    else:
        yield f"{head} {_scalar(cast('JsonValue', value))}{note}"


def _scalar(value: JsonValue) -> str:
    if isinstance(value, str):
        return _quoted(value.replace("${", "$${"))
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value) if isinstance(value, int | float) else "{}"


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return yaml.dump(text, default_style='"', allow_unicode=True, width=10**9).removesuffix("\n")
