"""`requestState`: what a call without sessions is told to bring back, sealed so that only it can.

A seal holds whose call it is and of what: session (and so principal), method, name and arguments,
and until when. Inside stands the server's own state, the approval that was asked for, or both. The
retry is a call like any other and is judged again. Pure but for the clock that it is given.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from gateway.core import strict_json
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import StrictJsonError, canonical

__all__ = ["APPROVAL_KEY", "FIRST", "Retry", "Seal", "answers_of"]

APPROVAL_KEY = "approval"
"""The key under which a call's own approval is asked for and answered."""
_SECONDS = 900.0
_MOST_HELD = 65_536
"""Bytes of answers to a server that are kept in a state while an approval is waited for."""


@dataclass(frozen=True, slots=True)
class Retry:
    """What a call brings from the one before it.

    `approval` is the approval it was asked for, `state` the server's own state, `answers` what it says
    to what was asked, by key.
    """

    approval: str | None = None
    state: str | None = None
    answers: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    @property
    def params(self) -> JsonObject:
        """Return what of it travels on to the server."""
        state: JsonObject = {} if self.state is None else {"requestState": self.state}
        # A server that asks by the gateway's key is answered, unless the gateway asked by it.
        own = {APPROVAL_KEY} if self.approval is not None else set[str]()
        answers: JsonObject = {key: value for key, value in self.answers.items() if key not in own}
        return {**state, "inputResponses": answers} if answers else state


FIRST = Retry()
"""A call that brings nothing."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Seals and opens the states of one call. `key` is the ledger's, `now` in unix seconds."""

    key: bytes
    session: str
    method: str
    name: str
    arguments: JsonObject
    now: float

    def state_of(self, retry: Retry, *, hold_answers: bool = False) -> str:
        """Return the sealed form of what the next call is to bring."""
        held: JsonObject = {"until": int(self.now + _SECONDS), "of": self._subject()}
        if retry.approval is not None:
            held["approval"] = retry.approval
        if retry.state is not None:
            held["state"] = retry.state
        if hold_answers and retry.answers and len(canonical(dict(retry.answers))) <= _MOST_HELD:
            held["answers"] = dict(retry.answers)
        body = canonical(held)
        return _text(self._mac(body) + body)

    def open(self, state: JsonValue, answers: Mapping[str, JsonValue]) -> Retry:
        """Return what a call brings; raises `MCPError` for a state that was not sealed for this very call."""
        if state is None:
            return Retry(answers=answers)
        held = self._opened(state)
        if held is None:
            raise MCPError(INVALID_PARAMS, "requestState is not of this call, or over: make the call anew")
        approval, own, kept = held.get("approval"), held.get("state"), held.get("answers")
        return Retry(
            approval if isinstance(approval, str) else None,
            own if isinstance(own, str) else None,
            {**(kept if isinstance(kept, dict) else {}), **answers},
        )

    def _opened(self, state: JsonValue) -> JsonObject | None:
        try:
            raw = base64.urlsafe_b64decode(state) if isinstance(state, str) else b""
            mac, body = raw[:32], raw[32:]
            # Written out again: a sloppy decoder reads several texts alike.
            if _text(raw) != state or not hmac.compare_digest(mac, self._mac(body)):
                return None
            held = strict_json.loads(body)
        except (ValueError, StrictJsonError):
            return None
        if not isinstance(held, dict) or held.get("of") != self._subject():
            return None
        until = held.get("until")
        return held if isinstance(until, int) and until >= self.now else None

    def _subject(self) -> str:
        subject: list[JsonValue] = [self.session, self.method, self.name, self.arguments]
        return hashlib.sha256(canonical(subject)).hexdigest()

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(hmac.digest(self.key, b"sandgate requestState", "sha256"), body, "sha256")


def answers_of(params: Mapping[str, JsonValue]) -> JsonObject:
    """Return the answers that a call's parameters bring, or refuse them (`MCPError`)."""
    if "inputResponses" not in params:
        return {}
    answers = params["inputResponses"]
    if not isinstance(answers, dict) or not all(isinstance(each, dict) for each in answers.values()):
        raise MCPError(
            INVALID_PARAMS, "inputResponses is an object of results, by the keys of what was asked"
        )
    return answers


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
