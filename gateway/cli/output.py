"""How commands print: text for people or one JSON document, on stdout; the rest on stderr."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Any

__all__ = ["Format", "printable", "say", "show"]


class Format(StrEnum):
    """What a command's answer looks like."""

    TEXT = "text"
    JSON = "json"


def show(form: Format, document: Any, text: str) -> None:
    """Print a command's one answer: `document` (JSON-able) or `text`."""
    if form is Format.JSON:
        print(json.dumps(document, ensure_ascii=False, indent=2))
    elif text:
        print(printable(text))


def say(message: str) -> None:
    """Tell the person at the terminal something that is not the answer."""
    print(printable(f"sandgate: {message}"), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return `text` without anything that could move the cursor, recolour or hide: tools wrote some of it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\u{{{ord(char):x}}}" for char in text)
