"""Speaks MCP to one tool server over its sandbox's pipes. Owns nothing but the conversation.

What the server says and asks during a call is passed on to the call's client, if it has one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from anyio.abc import TaskGroup

from gateway.core.calls import FailureKind
from gateway.core.json_types import JsonObject
from gateway.runtime.peer import NOBODY, ClientFacts, ClientPeer, Standing
from gateway.runtime.upstream.deadline import Deadline
from gateway.runtime.upstream.exchange import UpstreamFailure
from gateway.runtime.upstream.incoming import Announced, Incoming
from gateway.runtime.upstream.inputs import Rounds, check_inputs, needs_input
from gateway.runtime.upstream.listings import Listing, every_page
from gateway.runtime.upstream.opening import Offers, changes_of, discover, envelope, initialize
from gateway.runtime.upstream.requests import Requests
from gateway.runtime.upstream.transport import Transport
from gateway.sandbox.contract import Sandbox

__all__ = ["Upstream", "UpstreamSettings"]

_PATIENCE = 3
"""Of a client's time for one question: what all the questions of a call may take together."""
_MOST_FOLLOWED = 256
_TELL_SECONDS = 5.0
_LISTEN = "subscriptions/listen"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Deadlines in seconds, sizes in bytes. `client_timeout` is for one question to the client."""

    startup_timeout: float = 20.0
    call_timeout: float = 30.0
    max_result: int = 10_000_000
    client_timeout: float = 300.0

    def deadline(self) -> Deadline:
        """Return that of a call which begins now."""
        return Deadline(self.call_timeout, _PATIENCE * self.client_timeout)


def _nothing(method: str, params: JsonObject) -> None:
    return None


def _nobody() -> None:
    return None


class Upstream:
    """A conversation with one tool server. `start` it in a task group; `kill` ends server and reader.

    `client` is what the server is told of who it works for, its era that of the conversation; `offers`,
    once started, what it said of itself.
    """

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        settings: UpstreamSettings,
        client: ClientFacts = NOBODY,
        announced: Announced = _nothing,
        standing: Callable[[], Standing | None] = _nobody,
    ) -> None:
        self.name = name
        self.sandbox = sandbox
        self.client = client
        self.offers = Offers(client.era, "")
        self._settings = settings
        self._transport = Transport(name, sandbox, settings.max_result)
        self._requests = Requests(name, self._transport, settings.client_timeout)
        self._incoming = Incoming(
            self._transport, self._requests, client, settings.client_timeout, standing, announced
        )
        self._followed: dict[str, int] = {}

    @property
    def ended(self) -> UpstreamFailure | None:
        """Why it is over, `None` while it is not."""
        return self._transport.ended

    @property
    def stale(self) -> bool:
        """Whether the server announced that its tools changed, until `list_tools` is called."""
        return self._incoming.stale

    async def start(self, tasks: TaskGroup) -> None:
        """Start the reader in `tasks` and open the conversation; raises `UpstreamFailure` (start_failed).

        `WrongEra`, where the server's process may know the other era only.
        """
        self._requests.tasks = self._incoming.tasks = tasks
        await tasks.start(self._transport.read, self._requests, self._incoming.take)
        try:
            self.offers = await self._open()
        except UpstreamFailure as failure:
            message = f"server {self.name!r} did not start: {failure.message}"
            raise type(failure)(FailureKind.START_FAILED, message) from failure

    async def list_tools(self) -> list[JsonObject]:
        """Return the server's tool definitions as it sent them, over all pages; raises `UpstreamFailure`."""
        self._incoming.stale = False  # before asking: a change announced meanwhile counts
        try:
            return await self.list_all(Listing.TOOLS)
        except BaseException:
            self._incoming.stale = True
            raise

    async def list_all(self, what: Listing) -> list[JsonObject]:
        """Return what the server lists of a kind, as it sent it, over all pages; raises `UpstreamFailure`."""
        deadline = Deadline(self._settings.startup_timeout)

        async def page(params: JsonObject) -> JsonObject:
            return await self._ask(what.method, params, deadline)

        return await every_page(self.name, what, page)

    async def request(self, method: str, params: JsonObject, peer: ClientPeer | None = None) -> JsonObject:
        """Send a request once and return its result object; raises `UpstreamFailure`.

        `peer` is the client that the server may ask and tell meanwhile.
        """
        deadline = self._settings.deadline()
        if self.client.era == "legacy":
            suspended = params.get("requestState") is not None
            send = self._requests.resume if suspended else self._requests.send
            return await send(method, params, peer, deadline)
        if method in ("resources/subscribe", "resources/unsubscribe"):
            return await self._follow(str(params.get("uri")), method == "resources/subscribe", deadline)
        return await self._in_rounds(method, params, peer, deadline)

    async def set_level(self, level: str) -> None:
        """Say which log messages are wanted, where the server logs; one that will not listen logs on."""
        if self.client.era == "legacy" and self.offers.has("logging"):
            try:
                await self.request("logging/setLevel", {"level": level})
            except UpstreamFailure as failure:
                logger.warning("server %r does not take a log level: %s", self.name, failure)

    async def tell(self, method: str, params: JsonObject) -> None:
        """Pass on what the client says that is no request; bounded, for the server may not read."""
        message: JsonObject = {"jsonrpc": "2.0", "method": method, "params": params}
        await self._transport.send_within(_TELL_SECONDS, message)

    async def kill(self) -> None:
        """End the server; everything that waits fails with `cancelled`. Idempotent."""
        self._transport.end(UpstreamFailure(FailureKind.CANCELLED, f"server {self.name!r} was stopped"))
        await self.sandbox.kill()

    # -- opening

    async def _open(self) -> Offers:
        async def ask(method: str, params: JsonObject) -> JsonObject:
            return await self._ask(method, params, Deadline(self._settings.startup_timeout))

        if self.client.era == "modern":
            offers = await discover(ask)
            if changes := changes_of(offers):
                params = envelope({"notifications": changes}, None)
                request: JsonObject = {"id": self._requests.next_id(), "method": _LISTEN, "params": params}
                await self._transport.send({"jsonrpc": "2.0", **request})  # nobody waits for its end
            return offers
        offers = await initialize(ask, self.client)
        await self._transport.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return offers

    # -- requests

    async def _ask(self, method: str, params: JsonObject, deadline: Deadline) -> JsonObject:
        """Send a request that is the gateway's own."""
        if self.client.era == "legacy":
            return await self._requests.send(method, params, None, deadline)
        return await self._in_rounds(method, params, None, deadline)

    async def _in_rounds(
        self, method: str, params: JsonObject, peer: ClientPeer | None, deadline: Deadline
    ) -> JsonObject:
        """Send a modern request, and again with what its server asks of a client that does not defer."""
        rounds = Rounds(self.name, peer, deadline, self._settings.client_timeout)
        told = params
        while True:
            result = await self._requests.send(method, envelope(told, peer), peer, deadline)
            if not needs_input(result):
                return result
            check_inputs(result, {} if peer is None else peer.capabilities)
            if peer is not None and peer.defers:
                return result
            told = {**params, **await rounds.answers(result)}

    async def _follow(self, uri: str, wanted: bool, deadline: Deadline) -> JsonObject:
        """Begin or end to follow one resource, where servers have no requests for that: by its stream."""
        if not wanted:
            request_id = self._followed.pop(uri, None)
            if request_id is not None:
                await self._requests.give_up(request_id, "nobody follows it any more")
        elif uri not in self._followed and len(self._followed) < _MOST_FOLLOWED:
            params = envelope({"notifications": {"resourceSubscriptions": [uri]}}, None)
            self._followed[uri] = await self._requests.open_stream(_LISTEN, params, deadline)
        return {}
