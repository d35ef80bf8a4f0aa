"""Calls as the ledger recorded them, to be judged again. Reads records; judges nothing itself.

The ledger keeps no prompt and no result, so what a rule wants to have seen `from` them is never found
when a recorded call is judged again; everything else of a session is lived through once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from gateway.core.calls import LOCAL, Front, Principal
from gateway.core.decisions import DecisionCode, Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.model import Mode
from gateway.core.records import Event

__all__ = ["RecordedCall", "Recording", "read_recording"]

_NOT_THE_POLICYS = frozenset(
    {
        DecisionCode.UNKNOWN_TOOL,
        DecisionCode.DEFINITION_CHANGED,
        DecisionCode.INVALID_ARGUMENTS,
        DecisionCode.AUDIT_UNAVAILABLE,
    }
)
"""Refusals that no policy has a say in."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call with the values it was judged on. `ran`: it was allowed in the end, by a rule or a person.

    `at` is when, in unix seconds.
    """

    call_id: str
    session: str
    pack: str
    server: str
    tool: str
    arguments: JsonObject
    principal: Principal
    mode: Mode
    ran: bool
    at: float

    @property
    def name(self) -> str:
        """The tool, resource or prompt as policies name it."""
        target, _, own = self.tool.partition(":")
        return f"{self.server}.{self.tool}" if self.is_tool else f"{target}:{self.server}/{own}"

    @property
    def is_tool(self) -> bool:
        """Whether it is a tool's call; others are recorded as `resource:URI` and `prompt:NAME`."""
        target, _, own = self.tool.partition(":")
        return target not in ("resource", "prompt") or not own


@dataclass(frozen=True, slots=True)
class Recording:
    """The calls of a ledger, oldest first; `hidden` counts those whose argument values it does not hold."""

    calls: tuple[RecordedCall, ...]
    hidden: int = 0

    def sessions(self) -> Mapping[str, tuple[RecordedCall, ...]]:
        """Return the calls by session, both in the order of their first appearance."""
        found: dict[str, list[RecordedCall]] = {}
        for call in self.calls:
            found.setdefault(call.session, []).append(call)
        return {session: tuple(calls) for session, calls in found.items()}


def read_recording(records: Iterable[JsonObject]) -> Recording:
    """Return the calls that a policy judged, from ledger records; others are left out.

    A call that was asked for and then approved is one call that ran.
    """
    calls: dict[str, RecordedCall] = {}
    hidden: set[str] = set()
    for record, decision in _decisions(records):
        call_id = str(record.get("call_id"))
        ran = decision.get("effect") == Effect.ALLOW
        known = calls.get(call_id)
        if known:
            calls[call_id] = replace(known, ran=ran)
        elif (arguments := _plain(record)) is None:
            hidden.add(call_id)
        else:
            calls[call_id] = _call(record, call_id, arguments, ran)
    return Recording(tuple(calls.values()), len(hidden))


def _decisions(records: Iterable[JsonObject]) -> Iterator[tuple[JsonObject, JsonObject]]:
    for record in records:
        decision = record.get("decision")
        if (
            record.get("event") == Event.DECISION
            and isinstance(decision, dict)
            and record.get("server")
            and decision.get("code") not in _NOT_THE_POLICYS
        ):
            yield record, decision


def _plain(record: JsonObject) -> JsonObject | None:
    arguments = record.get("arguments")
    plain = arguments.get("plain") if isinstance(arguments, dict) else None
    return plain if isinstance(plain, dict) else None


def _call(record: JsonObject, call_id: str, arguments: JsonObject, ran: bool) -> RecordedCall:
    at = record.get("ts")
    return RecordedCall(
        call_id=call_id,
        session=str(record.get("session")),
        pack=str(record.get("pack")),
        server=str(record.get("server")),
        tool=str(record.get("tool")),
        arguments=arguments,
        principal=_principal(record.get("principal")),
        mode=_mode(record),
        ran=ran,
        at=at if isinstance(at, int | float) else 0.0,
    )


def _principal(name: JsonValue) -> Principal:
    """Return who it was as far as the ledger knows: a name, which is the user of the auth file."""
    return LOCAL if name == LOCAL.name else Principal(str(name), user=str(name))


def _mode(record: JsonObject) -> Mode:
    """Return the mode of the call: episodes and the environment front exist in training only."""
    training = record.get("episode") is not None or record.get("front") == Front.ENV
    return "training" if training else "deployment"
