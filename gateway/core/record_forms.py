"""A record in its two forms: with keys in the ledger's order, which is written, and sorted, which is hashed.

Most of a call's record stood in the one before it: whose call it is, which tool it is for, and why it
was decided so. Those parts are kept as JSON in both forms, and only the rest is written anew. Pure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias, cast

from gateway.core.json_encoding import encode, encode_sorted, quote
from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["CALL_FIELDS", "DECISION_FIELDS", "record_forms"]

CALL_FIELDS = (
    *("event", "call_id", "session", "episode", "step", "front", "principal", "pack", "server", "tool"),
    *("definition_sha256", "arguments", "decision", "outcome", "sandbox"),
)
"""What the body of a call's record has, in this order; all but three are scalars."""
DECISION_FIELDS = ("effect", "code", "rule", "reason", "policy", "line", "policy_sha256", "call_id")
"""What a decision has in it, in this order; all are scalars."""

_Forms: TypeAlias = tuple[str, str]
_Scalar: TypeAlias = str | int | float | None
_NULL = ("null", "null")


def record_forms(seq: int, ts: float, boot_id: str, body: JsonObject) -> _Forms:
    """Return the JSON of `{seq, ts, boot_id, **body}` in its own order and with sorted keys.

    The text is that of `encode` and `encode_sorted`. Raises `ValueError` or `TypeError` for what is not JSON.
    """
    if tuple(body) != CALL_FIELDS:
        return _forms({"seq": seq, "ts": ts, "boot_id": boot_id, **body})
    event, call_id, session, episode, step, front, principal, pack, *rest = body.values()
    server, tool, definition, arguments, decision, outcome, sandbox = rest
    kept = session, episode, front, principal, pack, server, tool, definition, sandbox
    own, ordered = _call_layout(*cast("tuple[_Scalar, ...]", kept))
    what, call, at, when, boot = _scalar(event), _scalar(call_id), _scalar(step), encode(ts), _scalar(boot_id)
    asked, asked_ordered = _NULL if arguments is None else _forms(arguments)
    ruled, ruled_ordered = _NULL if decision is None else _decision_forms(decision)
    ended, ended_ordered = _NULL if outcome is None else _forms(outcome)
    return (
        own % (seq, when, boot, what, call, at, asked, ruled, ended),
        ordered % (asked_ordered, boot, call, ruled_ordered, what, ended_ordered, seq, at, when),
    )


def _forms(value: JsonValue) -> _Forms:
    return encode(value), encode_sorted(value)


def _decision_forms(decision: JsonValue) -> _Forms:
    if not isinstance(decision, dict) or tuple(decision) != DECISION_FIELDS:
        return _forms(decision)
    *rest, call_id = decision.values()
    own, ordered = _decision_layout(*cast("list[_Scalar]", rest))
    call = _scalar(call_id)
    return own % call, ordered % call


def _scalar(value: JsonValue) -> str:
    return "null" if value is None else quote(value) if type(value) is str else encode(value)


def _kept(value: JsonValue) -> str:
    return _scalar(value).replace("%", "%%")


@lru_cache(maxsize=256, typed=True)
def _call_layout(*values: _Scalar) -> _Forms:
    """Return a record with room for what differs from call to call."""
    session, episode, front, principal, pack, server, tool, definition, sandbox = map(_kept, values)
    return (
        '{"seq":%d,"ts":%s,"boot_id":%s,"event":%s,"call_id":%s,'
        f'"session":{session},"episode":{episode},"step":%s,"front":{front},"principal":{principal},'
        f'"pack":{pack},"server":{server},"tool":{tool},"definition_sha256":{definition},'
        f'"arguments":%s,"decision":%s,"outcome":%s,"sandbox":{sandbox}}}',
        '{"arguments":%s,"boot_id":%s,"call_id":%s,"decision":%s,'
        f'"definition_sha256":{definition},"episode":{episode},"event":%s,"front":{front},"outcome":%s,'
        f'"pack":{pack},"principal":{principal},"sandbox":{sandbox},"seq":%d,"server":{server},'
        f'"session":{session},"step":%s,"tool":{tool},"ts":%s}}',
    )


@lru_cache(maxsize=256, typed=True)
def _decision_layout(*values: _Scalar) -> _Forms:
    """Return a decision with room for the call's id."""
    effect, code, rule, reason, policy, line, policy_sha256 = map(_kept, values)
    return (
        f'{{"effect":{effect},"code":{code},"rule":{rule},"reason":{reason},"policy":{policy},"line":{line},'
        f'"policy_sha256":{policy_sha256},"call_id":%s}}',
        f'{{"call_id":%s,"code":{code},"effect":{effect},"line":{line},"policy":{policy},'
        f'"policy_sha256":{policy_sha256},"reason":{reason},"rule":{rule}}}',
    )
