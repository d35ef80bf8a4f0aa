"""The client of a call that the SDK does not see: what it can be told and asked, and how it is reached.

Said on the call's own stream. With sessions the client's answer to a question comes as a request of its
own, which `endpoint` brings to the session's binding. Translates, decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import anyio
from mcp_types import LOG_LEVEL_META_KEY, ClientCapabilities
from pydantic import ValidationError

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps, loads
from gateway.runtime.approvals import Prompt
from gateway.runtime.peer import PeerError
from gateway.serve.mcp.peers import LEVEL_STATE, LOG_LEVELS, StandingPeer, wanted_level
from gateway.serve.mcp.prompting import DeferredPrompt, ElicitingPrompt, elicits
from gateway.serve.mcp.request_state import FIRST
from gateway.serve.mcp.requests import carried, declared_by
from gateway.serve.mcp.sessions import Binding

__all__ = ["Client", "QuickPeer", "Stream", "client_with_session", "client_without_session", "prompt_for"]

_INTERNAL = -32603
_COURTESY_SECONDS = 0.5


class Stream(Protocol):
    """Where a call's client hears of it before the answer."""

    @property
    def open(self) -> bool:
        """Whether anybody is there to hear."""
        ...

    async def say(self, message: bytes) -> None:
        """Send one JSON-RPC message, or nothing if nobody is there."""
        ...


@dataclass(frozen=True, slots=True)
class Client:
    """What the client of one call said of itself; `capabilities` as servers are told of them."""

    capabilities: JsonObject
    elicits: bool
    progress_token: JsonValue = None
    log_level: str | None = None


def client_with_session(binding: Binding, meta: Mapping[str, JsonValue]) -> Client | None:
    """Return the client of a call in a session; `None` where the call is odd."""
    token = meta.get("progressToken")
    declared = binding.connection.client_capabilities
    return Client(declared_by(declared), elicits(declared), token) if _proper(token) else None


def client_without_session(declared: JsonObject, meta: Mapping[str, JsonValue]) -> Client | None:
    """Return the client of a call that says all of itself; `None` where that is odd."""
    token, level = meta.get("progressToken"), meta.get(LOG_LEVEL_META_KEY)
    if not _proper(token) or not (level is None or level in LOG_LEVELS):
        return None
    known = _capabilities(dumps(declared))
    if known is None:
        return None
    return Client(carried(declared), elicits(known), token, level if isinstance(level, str) else None)


def _proper(token: JsonValue) -> bool:
    return token is None or type(token) in (int, str)


@lru_cache(maxsize=256)
def _capabilities(declared: bytes) -> ClientCapabilities | None:
    try:
        return ClientCapabilities.model_validate(loads(declared))
    except ValidationError:
        return None


def prompt_for(client: Client, binding: Binding | None) -> Prompt | None:
    """Return the way to the user of the client, `None` where there is none."""
    if not client.elicits:
        return None
    return DeferredPrompt(FIRST) if binding is None else ElicitingPrompt(binding.connection, binding)


class QuickPeer:
    """The client of one call. See `gateway.runtime.peer.ClientPeer`."""

    def __init__(self, client: Client, stream: Stream | None, binding: Binding | None) -> None:
        self.defers = binding is None
        self.capabilities = client.capabilities
        self.progress_token = client.progress_token
        self.log_level = client.log_level
        self._stream = stream
        self._binding = binding

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """Ask the client on the stream of its request, or where it listens."""
        binding, stream = self._binding, self._stream
        assert binding is not None, "a peer that defers is not asked"
        if stream is None or not stream.open:
            return await StandingPeer(binding.connection, binding).request(method, params)
        with binding.question() as (question_id, answer):
            try:
                await stream.say(
                    dumps({"jsonrpc": "2.0", "id": question_id, "method": method, "params": params})
                )
                return _result(await answer)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(_COURTESY_SECONDS, shield=True):
                    await self.notify("notifications/cancelled", {"requestId": question_id})
                raise

    async def notify(self, method: str, params: JsonObject) -> None:
        """Tell the client on the stream of its request."""
        if self._stream is None or (method == "notifications/message" and not self._wants(params)):
            return
        await self._stream.say(dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    def _wants(self, params: JsonObject) -> bool:
        if self._binding is None:
            return self.log_level is not None and wanted_level(params, self.log_level)
        return wanted_level(params, self._binding.connection.state.get(LEVEL_STATE))


def _result(message: JsonObject) -> JsonObject:
    match message:
        case {"result": dict(result)}:
            return result
        case {"error": {"code": int(code), "message": str(text), **rest}}:
            raise PeerError(code, text, rest.get("data"))
        case _:
            raise PeerError(_INTERNAL, "the client's answer is neither a result nor an error")
