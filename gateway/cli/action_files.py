"""Files of actions, JSON Lines, an action each: read with their line numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.core.episode import Action
    from gateway.core.json_types import JsonObject

__all__ = ["actions_of", "lines_of"]


def lines_of(text: str, file: str) -> list[tuple[int, JsonObject]]:
    """Return the JSON objects of a JSON Lines file with their line numbers; raises `UsageError`."""
    from gateway.core.strict_json import StrictJsonError, loads

    found: list[tuple[int, JsonObject]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = loads(line)
        except StrictJsonError as error:
            raise UsageError(f"{file}:{number}: {error}") from None
        if not isinstance(value, dict):
            raise UsageError(f"{file}:{number}: an action is a JSON object")
        found.append((number, value))
    return found


def actions_of(written: Sequence[tuple[int, JsonObject]], file: str) -> list[Action]:
    """Return the actions that such lines are; raises `UsageError`."""
    from gateway.serve.openenv.wire import WireError, parse_action

    actions: list[Action] = []
    for number, action in written:
        try:
            actions.append(parse_action(action))
        except WireError as error:
            raise UsageError(f"{file}:{number}: {error}") from None
    return actions
