"""The latest calls as the ledger has them. Reads beside the writer; blocking; writes nothing."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.core.chain import BrokenRecord, parse_record
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.records import Event
from gateway.runtime.ledger_chains import record_time
from gateway.runtime.ledger_reading import ledger_files, read_lines

__all__ = ["MOST_CALLS", "recent_calls"]

MOST_CALLS: Final = 500
_FILES = 2
"""Files that are looked at: after a rotation the newest is nearly empty."""
_RECORDS = 20_000
"""Latest records that are looked at."""
_FIELDS = (
    *("call_id", "ts", "session", "episode", "step", "front", "principal", "pack", "server", "tool"),
    *("arguments", "decision"),
)


def recent_calls(
    audits: Sequence[Path], limit: int, wanted: Mapping[str, str] | None = None
) -> list[JsonObject]:
    """Return up to `limit` calls of these chains, newest first: fields of their decision, and their outcome.

    `outcome` is `null` while a call runs. `wanted` are fields that have to match, `effect` that of the
    decision and `outcome` the kind of the outcome among them. Arguments are there as the ledger has them.
    """
    found: list[JsonObject] = []
    outcomes: dict[str, JsonValue] = {}
    told: set[str] = set()
    latest = heapq.merge(*map(_latest_first, audits), key=record_time, reverse=True)
    for record in latest:
        call_id = str(record.get("call_id"))
        match record.get("event"):
            case Event.OUTCOME:
                outcomes[call_id] = record.get("outcome")
            case Event.DECISION if call_id not in told:  # its last one: an approval may have replaced others
                told.add(call_id)
                call = _call(record, outcomes.get(call_id))
                if _matches(call, wanted or {}):
                    found.append(call)
            case _:
                continue
        if len(found) == limit:
            break
    return found


def _latest_first(audit: Path) -> Iterator[JsonObject]:
    """Yield the latest records, newest first; each is only parsed when it is asked for."""
    for line in reversed(deque(read_lines(ledger_files(audit)[-_FILES:]), maxlen=_RECORDS)):
        try:
            yield parse_record(line.data)
        except BrokenRecord:
            continue  # the line that is being written, or one that `audit verify` speaks of


def _call(record: JsonObject, outcome: JsonValue) -> JsonObject:
    fields: JsonObject = {name: record.get(name) for name in _FIELDS}
    return {**fields, "outcome": outcome}


def _matches(call: JsonObject, wanted: Mapping[str, str]) -> bool:
    return all(_field(call, name) == value for name, value in wanted.items())


def _field(call: JsonObject, name: str) -> JsonValue:
    inner = {"effect": ("decision", "effect"), "outcome": ("outcome", "kind")}.get(name)
    if inner is None:
        return call.get(name)
    holder = call.get(inner[0])
    return holder.get(inner[1]) if isinstance(holder, dict) else None
