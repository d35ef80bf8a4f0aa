"""Well-known secret shapes: one table, found in arguments (`no_secrets`) and taken out of results.

All shapes are searched for in one linear pass. A shape names what a secret looks like, never a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.regexes import compile_finder, compile_replacer

__all__ = ["SHAPES", "Shape", "redactor", "secret_finder"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of secret, by an RE2 expression for it anywhere in a text."""

    name: str
    pattern: str


_KEY_BLOCK = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_KEY_END = r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"

SHAPES: Final[tuple[Shape, ...]] = (
    Shape("aws_key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"),
    Shape(
        "aws_secret",
        r"(?:(?i:aws_?secret(?:_?access)?_?key)|SecretAccessKey)[\"']?\s{0,4}[:=]\s{0,4}[\"']?[A-Za-z0-9/+]{40}\b",
    ),
    Shape(
        "github_token",
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    ),
    Shape("gitlab_token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    # Cut off before its end, a key is still a key.
    Shape("private_key", rf"(?s){_KEY_BLOCK}.*?(?:{_KEY_END}|\z)"),
    Shape(
        "slack",
        r"\b(?:xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,})"
        r"|hooks\.slack\.com/services/[A-Za-z0-9_/]{20,}",
    ),
    Shape("jwt", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    Shape("google_api_key", r"\bAIza[A-Za-z0-9_-]{35}"),
    Shape("anthropic_key", r"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    Shape("openai_key", r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_]{32,}[A-Za-z0-9_-]*"),
    Shape("stripe_key", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    Shape("npm_token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    Shape("pypi_token", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    Shape("url_password", r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@\"'<>]*:[^\s/@\"'<>]+@"),
)
"""Every shape by its place in the table; the names are what policies write."""


def secret_finder() -> Callable[[JsonValue], bool]:
    """Return a test whether any text in a value, object keys included, holds a secret of a known shape."""
    in_text = _finder(SHAPES)

    def found(value: JsonValue) -> bool:
        if isinstance(value, str):
            return in_text(value)
        if isinstance(value, list):
            return any(map(found, value))
        return isinstance(value, dict) and any(in_text(key) or found(item) for key, item in value.items())

    return found


def redactor(names: Sequence[str]) -> Callable[[JsonObject], JsonObject]:
    """Return what puts `[redacted:NAME]` in place of every secret of the named shapes, keys included."""
    chosen = [shape for shape in SHAPES if shape.name in names]
    replacers = [compile_replacer(shape.pattern, f"[redacted:{shape.name}]") for shape in chosen]
    in_text = _finder(chosen)

    def clean_text(text: str) -> str:
        if not in_text(text):
            return text
        for replace in replacers:
            text = replace(text)
        return text

    def clean(value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return clean_text(value)
        if isinstance(value, list):
            return [clean(item) for item in value]
        return clean_object(value) if isinstance(value, dict) else value

    def clean_object(value: JsonObject) -> JsonObject:
        return {clean_text(key): clean(item) for key, item in value.items()}

    return clean_object


def _finder(shapes: Sequence[Shape]) -> Callable[[str], bool]:
    return compile_finder("|".join(f"(?:{shape.pattern})" for shape in shapes))
