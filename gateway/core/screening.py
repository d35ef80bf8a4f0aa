"""Makes tool definitions safe to show: nothing invisible, nothing endless. Pure text work.

A tool's description is written by its server and read by a model. Control characters, bidi
overrides, zero-width and tag characters can hide instructions from the person who reviews it, so
listings show them as `\\u{...}` and cut over-long text. Hashes are never taken over the result.
"""

from __future__ import annotations

import unicodedata

from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["MAX_TEXT", "screen"]

MAX_TEXT = 16_384
"""Longest string of a definition shown in a listing, in characters."""

_KEPT = frozenset("\n\t\r")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_INVISIBLE = frozenset({"\u115f", "\u1160", "\u3164", "\uffa0", "\u2800"})


def screen(definition: JsonObject) -> tuple[JsonObject, list[str]]:
    """Return a copy of a tool definition that is safe to show, and a note for each thing changed."""
    notes: list[str] = []
    name = str(definition.get("name"))[:128]
    shown = {key: _value(value, f"{name}.{key}", notes) for key, value in definition.items()}
    return shown, notes


def _value(value: JsonValue, where: str, notes: list[str]) -> JsonValue:
    if isinstance(value, str):
        return _text(value, where, notes)
    if isinstance(value, list):
        return [_value(item, where, notes) for item in value]
    if isinstance(value, dict):
        return {key: _value(item, where, notes) for key, item in value.items()}
    return value


def _text(text: str, where: str, notes: list[str]) -> str:
    if len(text) > MAX_TEXT:
        notes.append(f"{where}: cut to {MAX_TEXT} of {len(text)} characters")
        text = text[:MAX_TEXT] + "… [cut]"
    if text.isascii() and text.isprintable():
        return text
    visible = "".join(_visible(char) for char in text)
    if visible != text:
        notes.append(f"{where}: invisible or control characters made visible")
    return visible


def _visible(char: str) -> str:
    if char in _KEPT:
        return char
    variation = "\ufe00" <= char <= "\ufe0e" or "\U000e0100" <= char <= "\U000e01ef"
    if unicodedata.category(char) in _HIDDEN_CATEGORIES or char in _INVISIBLE or variation:
        return f"\\u{{{ord(char):x}}}"
    return char
