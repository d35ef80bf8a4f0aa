"""The client behind a call, as far as a server may reach it: what a front gives to the path of a call.

A server asks its client for samples, input or roots, and tells it of progress; only a front knows
how to reach that client. Protocols and values; does nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from gateway.core.json_types import JsonObject, JsonValue

__all__ = [
    "NOBODY",
    "ClientFacts",
    "ClientPeer",
    "Era",
    "PeerError",
    "Standing",
    "Veiled",
    "lacking",
    "named",
]

Era: TypeAlias = Literal["legacy", "modern"]
"""legacy: `initialize` and sessions, up to 2025-11-25. modern: self-contained requests, 2026-07-28."""


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What a server is told of the client it works for: never more than that client said of itself."""

    era: Era = "legacy"
    capabilities: JsonObject = field(default_factory=dict[str, JsonValue])


NOBODY = ClientFacts()
"""A caller that cannot be asked anything: an environment, a script, the command line."""


class PeerError(Exception):
    """The client answered with an error, or there is no way to ask it."""

    def __init__(self, code: int, message: str, data: JsonValue = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class ClientPeer(Protocol):
    """The client of one call in flight.

    `capabilities` are those of this call. `progress_token` and `log_level` are its own, `None` where
    it wants none. A peer that `defers` cannot be asked while its call runs: what the server asks is
    the call's result (`input_required`), and another call brings the answers.
    """

    defers: bool
    capabilities: JsonObject
    progress_token: JsonValue
    log_level: str | None

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """Ask the client and return its result; raises `PeerError`."""
        ...

    async def notify(self, method: str, params: JsonObject) -> None:
        """Tell the client, in the order of the calls; never raises for a client that has gone."""
        ...


class Standing(Protocol):
    """The client of a session, for what a server asks outside of any call."""

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """Ask the client and return its result; raises `PeerError`."""
        ...


class Veiled:
    """A peer that is shown what a server says as `shown` leaves it: masked and redacted like results."""

    def __init__(self, peer: ClientPeer, shown: Callable[[JsonObject], JsonObject]) -> None:
        self.defers = peer.defers
        self.capabilities = peer.capabilities
        self.progress_token = peer.progress_token
        self.log_level = peer.log_level
        self._peer = peer
        self._shown = shown

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """Ask the client what is left of the question."""
        return await self._peer.request(method, self._shown(params))

    async def notify(self, method: str, params: JsonObject) -> None:
        """Tell the client what is left of the notification."""
        await self._peer.notify(method, self._shown(params))


_CAPABILITY = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}


def lacking(capabilities: Mapping[str, JsonValue], method: str, params: JsonValue) -> JsonObject | None:
    """Return what a client of these capabilities lacks to be asked that: nothing is empty.

    `None` for what no client is asked.
    """
    name = _CAPABILITY.get(method)
    if name is None:
        return None
    declared = capabilities.get(name)
    if declared is None:
        return {name: {}}
    part = _part(method, params if isinstance(params, dict) else {})
    parts = declared if isinstance(declared, dict) else {}
    # Elicitation of nothing in particular means forms, as it did when there was nothing else.
    if part is None or part in parts or (part == "form" and "url" not in parts):
        return {}
    return {name: {part: {}}}


def named(lack: JsonObject) -> str:
    """Return a capability, or a part of one, as it is spoken of: `elicitation.url`."""
    return next(".".join((name, *part)) for name, part in lack.items() if isinstance(part, dict))


def _part(method: str, params: JsonObject) -> str | None:
    """Return which part of a capability a question needs, `None` where the whole is enough."""
    if method == "elicitation/create":
        return "url" if params.get("mode") == "url" else "form"
    return "tools" if "tools" in params or "toolChoice" in params else None
