"""Ledger records: what is written of a call. Pure; no value of an argument or result unless asked for.

A record is one JSON object with these fields, `null` where one does not apply:

    seq ts boot_id event call_id session episode step front principal pack server tool
    definition_sha256 arguments{shape,hmac[,plain]} decision outcome{kind,ms,bytes,hmac[,failure]}
    sandbox prev hash

An `egress` record tells of a connection that a sandbox asked for: `decision{effect,code,reason,rule}` when
it asked, `outcome` when one that was allowed ended, and `egress{asked,protocol,host,port,addresses,attempts}`
in both.

This module makes the body; `seq ts boot_id prev hash` are added by `gateway.core.chain` as it is written.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, Protocol

from gateway.core.calls import Answered, Denied, Failed, Outcome, ToolCall
from gateway.core.decisions import Decision, Effect
from gateway.core.egress import Verdict
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.record_forms import CALL_FIELDS
from gateway.core.strict_json import canonical

__all__ = [
    "CallIds",
    "Event",
    "ToolIds",
    "approval_record",
    "arguments_shape",
    "change_record",
    "decision_record",
    "egress_closed_record",
    "egress_record",
    "hmac_sha256",
    "outcome_record",
    "recovered_record",
    "unknown_outcome",
]


_BLOCK = 64
"""Bytes of one block of SHA-256."""


class _Hash(Protocol):
    def copy(self) -> _Hash: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class Event(StrEnum):
    """What a record tells."""

    DECISION = "decision"
    OUTCOME = "outcome"
    APPROVAL = "approval"
    RECOVERED = "recovered"
    EGRESS = "egress"
    CHANGE = "change"


class CallIds(NamedTuple):
    """Whose call it is. `step` counts an episode's steps from 1.

    What a server does before it is anybody's, at its start, has neither session nor principal.
    """

    session: str | None
    episode: str | None
    step: int | None
    principal: str | None
    pack: str


class ToolIds(NamedTuple):
    """Which tool it is for; `server`, `definition_sha256` and `sandbox` are `None` while unknown."""

    server: str | None
    tool: str
    definition_sha256: str | None
    sandbox: str | None


def decision_record(
    *,
    call: ToolCall,
    decision: Decision,
    ids: CallIds,
    tool: ToolIds,
    arguments: JsonObject,
    plain: JsonObject | None,
    key: bytes,
) -> JsonObject:
    """Return the body of a call's decision record.

    `arguments` are those judged; of their values only those in `plain` are written. `key` is the ledger's:
    with it an owner can tell whether a call had certain arguments, nobody else can guess them.
    """
    written: JsonObject = {
        "shape": arguments_shape(arguments),
        "hmac": hmac_sha256(key, canonical(arguments)),
    }
    if plain is not None:
        written["plain"] = plain
    return _body(Event.DECISION, call, ids, tool, arguments=written, decision=decision.wire())


def outcome_record(
    *, call: ToolCall, outcome: Outcome, ids: CallIds, tool: ToolIds, ms: float, key: bytes
) -> JsonObject:
    """Return the body of a call's outcome record; `ms` is its duration in milliseconds.

    `bytes` and `hmac` are of the result's canonical JSON; a failed call has its `failure` kind.
    """
    return _body(Event.OUTCOME, call, ids, tool, outcome=_outcome(outcome, ms, key))


def approval_record(*, call: ToolCall, verdict: Decision, ids: CallIds, tool: ToolIds) -> JsonObject:
    """Return the body of the record of what somebody decided about a call that asked."""
    return _body(Event.APPROVAL, call, ids, tool, decision=verdict.wire())


def unknown_outcome(decision: JsonObject) -> JsonObject:
    """Return the outcome that closes a decision record found without one: it may or may not have run."""
    closed: JsonObject = {name: decision.get(name) for name in CALL_FIELDS}
    closed["event"] = Event.OUTCOME.value
    closed["arguments"] = closed["decision"] = None
    closed["outcome"] = {"kind": "unknown", "ms": None, "bytes": None, "hmac": None}
    return closed


def change_record(*, ids: CallIds, change: JsonObject) -> JsonObject:
    """Return the body of the record of what a task's event changed before a step: no agent's doing."""
    body: JsonObject = dict.fromkeys(CALL_FIELDS)
    body |= {"event": Event.CHANGE.value, "session": ids.session, "episode": ids.episode, "step": ids.step}
    return {**body, "principal": ids.principal, "pack": ids.pack, "change": change}


def egress_record(*, ids: CallIds, server: str, verdict: Verdict) -> JsonObject:
    """Return the body of the record of what was decided about a connection that `server` asked for."""
    effect = Effect.ALLOW if verdict.allowed else Effect.DENY
    decision: JsonObject = {
        "effect": effect.value,
        "code": verdict.code.value,
        "reason": verdict.reason,
        "rule": verdict.rule,
    }
    return _egress(ids, server, verdict, "decision", decision)


def egress_closed_record(*, ids: CallIds, server: str, verdict: Verdict, outcome: JsonObject) -> JsonObject:
    """Return the body of the record of how a connection that was allowed ended."""
    return _egress(ids, server, verdict, "outcome", outcome)


def _egress(ids: CallIds, server: str, verdict: Verdict, what: str, told: JsonObject) -> JsonObject:
    body: JsonObject = dict.fromkeys(CALL_FIELDS)
    there = verdict.destination
    own: JsonObject = {
        what: told,
        "event": Event.EGRESS.value,
        "session": ids.session,
        "episode": ids.episode,
        "step": ids.step,
        "principal": ids.principal,
        "pack": ids.pack,
        "server": server,
        "egress": {
            "asked": verdict.asked,
            "protocol": verdict.protocol,
            "host": there.host if there else None,
            "port": there.port if there else None,
            "addresses": [str(address) for address in verdict.addresses],
            "attempts": verdict.attempts,
        },
    }
    return body | own


def recovered_record(void_after: dict[str, int]) -> JsonObject:
    """Return the record that opens a file after a write error.

    `void_after` maps each file that failed to its length in bytes as far as it counts: what may stand
    behind that was never acknowledged and is not part of the chain.
    """
    body: JsonObject = dict.fromkeys(CALL_FIELDS)
    body["event"] = Event.RECOVERED.value
    body["void_after"] = dict[str, JsonValue](void_after)
    return body


def _body(
    event: Event,
    call: ToolCall,
    ids: CallIds,
    tool: ToolIds,
    *,
    arguments: JsonObject | None = None,
    decision: JsonObject | None = None,
    outcome: JsonObject | None = None,
) -> JsonObject:
    return {
        "event": event._value_,  # a plain attribute, where `value` is a descriptor
        "call_id": call.call_id,
        "session": ids.session,
        "episode": ids.episode,
        "step": ids.step,
        "front": call.front._value_,
        "principal": ids.principal,
        "pack": ids.pack,
        "server": tool.server,
        "tool": tool.tool,
        "definition_sha256": tool.definition_sha256,
        "arguments": arguments,
        "decision": decision,
        "outcome": outcome,
        "sandbox": tool.sandbox,
    }


def _outcome(outcome: Outcome, ms: float, key: bytes) -> JsonObject:
    told: JsonObject = {"kind": "denied", "ms": round(ms, 3), "bytes": 0, "hmac": None}
    match outcome:
        case Answered(result=result):
            data = canonical(result)
            return told | {"kind": "answered", "bytes": len(data), "hmac": hmac_sha256(key, data)}
        case Failed(kind=kind):
            return told | {"kind": "failed", "failure": kind.value}
        case Denied():
            return told


def hmac_sha256(key: bytes, data: bytes) -> str:
    """Return HMAC-SHA-256 (RFC 2104) in hex, as `hmac.digest` does in a tenth of its time for short data."""
    inner_pad, outer_pad = _pads(key)
    inner, outer = inner_pad.copy(), outer_pad.copy()
    inner.update(data)
    outer.update(inner.digest())
    return outer.hexdigest()


@lru_cache(maxsize=16)
def _pads(key: bytes) -> tuple[_Hash, _Hash]:
    block = (key if len(key) <= _BLOCK else hashlib.sha256(key).digest()).ljust(_BLOCK, b"\0")
    return hashlib.sha256(bytes(b ^ 0x36 for b in block)), hashlib.sha256(bytes(b ^ 0x5C for b in block))


_MAX_SHAPE_ITEMS = 16
"""Entries of one object or array that are shown."""
_MAX_SHAPE_DEPTH = 4
_MAX_SHAPE_NODES = 200
_MAX_SHAPE_NAME = 64


def arguments_shape(arguments: JsonObject) -> JsonValue:
    """Return names, types and lengths of `arguments`, and no values; a few KiB at most.

    `{"path": "string(11)", "lines": ["integer", "+97 items"]}`. An object with names left out, those of
    more than 64 characters among them, is `[{…}, "+3 names"]`.
    """
    return _Shaper().shape(arguments, 0)


class _Shaper:
    """Describes one value within a budget of nodes."""

    def __init__(self) -> None:
        self._left = _MAX_SHAPE_NODES

    def shape(self, value: JsonValue, depth: int) -> JsonValue:
        self._left -= 1
        match value:
            case str():
                return f"string({len(value)})"
            case dict():
                return self._object(value, depth) if self._shown(depth) else f"object({len(value)})"
            case list():
                return self._array(value, depth) if self._shown(depth) else f"array({len(value)})"
            case bool():
                return "boolean"
            case None:
                return "null"
            case _:
                return "integer" if isinstance(value, int) else "number"

    def _shown(self, depth: int) -> bool:
        return depth < _MAX_SHAPE_DEPTH and self._left > 0

    def _object(self, value: JsonObject, depth: int) -> JsonValue:
        shown: JsonObject = {}
        for name, item in islice(value.items(), _MAX_SHAPE_ITEMS):
            if len(name) <= _MAX_SHAPE_NAME and self._left > 0:
                shown[name] = self.shape(item, depth + 1)
        return shown if len(shown) == len(value) else [shown, f"+{len(value) - len(shown)} names"]

    def _array(self, value: list[JsonValue], depth: int) -> list[JsonValue]:
        shown: list[JsonValue] = []
        for item in islice(value, _MAX_SHAPE_ITEMS):
            if self._left > 0:
                shown.append(self.shape(item, depth + 1))
        return shown if len(shown) == len(value) else [*shown, f"+{len(value) - len(shown)} items"]
