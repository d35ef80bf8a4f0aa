"""How a conversation with a tool server begins, in either era, and what the server says that it offers.

A server's process is fixed to the era of its first request: where that turns out to be the wrong one,
`WrongEra` is raised and a fresh process has to be asked. Knows messages, no pipes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway import __version__
from gateway.core.calls import FailureKind
from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.peer import ClientFacts, ClientPeer, Era
from gateway.runtime.upstream.exchange import UpstreamFailure

__all__ = [
    "LEGACY_VERSION",
    "MODERN_VERSION",
    "KnownEras",
    "Offers",
    "WrongEra",
    "changes_of",
    "discover",
    "envelope",
    "initialize",
    "stream_of",
    "without_stream",
]

LEGACY_VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"
_LEGACY_VERSIONS = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
_META = "io.modelcontextprotocol/"
_US: JsonObject = {"name": "sandgate", "version": __version__}

Ask = Callable[[str, JsonObject], Awaitable[JsonObject]]
"""Sends a request and returns its result; raises `UpstreamFailure`."""


class WrongEra(UpstreamFailure):
    """The server does not speak the era it was opened in."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What a server said of itself when it was opened."""

    era: Era
    version: str
    capabilities: JsonObject = field(default_factory=dict[str, JsonValue])
    instructions: str | None = None

    def has(self, *names: str) -> bool:
        """Whether a capability is declared: `has("resources", "subscribe")`."""
        here: JsonValue = self.capabilities
        for name in names:
            if not isinstance(here, dict) or name not in here:
                return False
            here = here[name]
        return here is not False and here is not None

    def may_list(self, kind: str) -> bool:
        """Whether to ask for its tools, prompts or resources; one that declares nothing may have any."""
        return not self.capabilities or self.has(kind)


@dataclass(slots=True)
class KnownEras:
    """Which eras a server was found not to speak, shared by all who start it."""

    refused: set[Era] = field(default_factory=set[Era])

    def to_try(self, wanted: Era) -> list[Era]:
        """Return the eras to open the server in, the caller's own first."""
        eras: list[Era] = ["legacy", "modern"] if wanted == "legacy" else ["modern", "legacy"]
        return [era for era in eras if era not in self.refused]


async def initialize(ask: Ask, client: ClientFacts) -> Offers:
    """Open a conversation with `initialize`; the caller sends `notifications/initialized`."""
    params: JsonObject = {
        "protocolVersion": LEGACY_VERSION,
        "capabilities": client.capabilities,
        "clientInfo": _US,
    }
    try:
        result = await ask("initialize", params)
    except UpstreamFailure as failure:
        raise _wrong(failure) from failure
    version = result.get("protocolVersion")
    if version not in _LEGACY_VERSIONS:
        said = str(version)[:32]
        raise WrongEra(FailureKind.PROTOCOL, f"it speaks the unknown protocol version {said!r}")
    return _offers("legacy", str(version), result)


async def discover(ask: Ask) -> Offers:
    """Open a conversation with `server/discover`."""
    try:
        result = await ask("server/discover", {})
    except UpstreamFailure as failure:
        raise _wrong(failure) from failure
    versions = result.get("supportedVersions")
    if not isinstance(versions, list) or MODERN_VERSION not in versions:
        raise WrongEra(FailureKind.PROTOCOL, f"it does not speak protocol version {MODERN_VERSION}")
    return _offers("modern", MODERN_VERSION, result)


def envelope(params: JsonObject, peer: ClientPeer | None) -> JsonObject:
    """Return a modern request's parameters: what every request says of the client it is made for."""
    meta = params.get("_meta")
    own: JsonObject = {
        f"{_META}protocolVersion": MODERN_VERSION,
        f"{_META}clientInfo": _US,
        f"{_META}clientCapabilities": {} if peer is None else peer.capabilities,
    }
    if peer is not None and peer.log_level is not None:
        own[f"{_META}logLevel"] = peer.log_level
    return {**params, "_meta": {**(meta if isinstance(meta, dict) else {}), **own}}


def changes_of(offers: Offers) -> JsonObject:
    """Return which changes of its listings a modern server is asked to tell."""
    kinds = ("tools", "prompts", "resources")
    return {f"{kind}ListChanged": True for kind in kinds if offers.has(kind, "listChanged")}


def stream_of(params: JsonObject) -> JsonValue:
    """Return the request whose stream a modern notification came on."""
    meta = params.get("_meta")
    return meta.get(f"{_META}subscriptionId") if isinstance(meta, dict) else None


def without_stream(params: JsonObject) -> JsonObject:
    """Return a notification's parameters without the name of the stream, which is this hop's own."""
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return params
    kept = {key: value for key, value in meta.items() if key != f"{_META}subscriptionId"}
    rest = {key: value for key, value in params.items() if key != "_meta"}
    return {**rest, "_meta": kept} if kept else rest


def _wrong(failure: UpstreamFailure) -> UpstreamFailure:
    """Return what a failed opening means: a server that could not follow may know the other era."""
    if failure.kind in (FailureKind.CANCELLED, FailureKind.TOO_LARGE):
        return failure
    return WrongEra(failure.kind, failure.message, failure.error)


def _offers(era: Era, version: str, result: JsonObject) -> Offers:
    capabilities, instructions = result.get("capabilities"), result.get("instructions")
    return Offers(
        era,
        version,
        capabilities if isinstance(capabilities, dict) else {},
        instructions if isinstance(instructions, str) else None,
    )
