"""What a tool server says and asks of its own accord: whom it is for, and what is refused at once.

Runs in the task that reads from the server, so it waits for nobody but the server itself, and that for
seconds only.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.peer import ClientFacts, Standing, lacking
from gateway.runtime.upstream.exchange import Ask, Note
from gateway.runtime.upstream.opening import stream_of, without_stream
from gateway.runtime.upstream.relaying import answer_to
from gateway.runtime.upstream.requests import Requests
from gateway.runtime.upstream.transport import Transport

__all__ = ["Announced", "Incoming"]

_ANSWER_SECONDS = 5.0
_MOST_STANDING = 16
_INVALID_REQUEST, _METHOD_NOT_FOUND = -32600, -32601
_CHANGES = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)

Announced = Callable[[str, JsonObject], None]
"""Is told at once what a server says that belongs to no call: a notification's method and parameters."""


class Incoming:
    """Takes the requests and notifications of one server. `stale`: it said that its tools changed.

    A question goes to the client of the call that it most likely belongs to (`Requests.latest`); without
    such a call to the session's client, by `standing`. `tasks` are set before the first message comes.
    """

    def __init__(
        self,
        transport: Transport,
        requests: Requests,
        client: ClientFacts,
        client_timeout: float,
        standing: Callable[[], Standing | None],
        announced: Announced,
    ) -> None:
        self.tasks: TaskGroup | None = None
        self.stale = False
        self._transport = transport
        self._requests = requests
        self._client = client
        self._client_timeout = client_timeout
        self._standing = standing
        self._standing_asks = 0
        self._announced = announced

    async def take(self, message: JsonObject) -> bool:
        """Take one message; `False` if it was noise."""
        method, params, request_id = message.get("method"), message.get("params"), message.get("id")
        params = params if isinstance(params, dict) else {}
        if not isinstance(method, str):
            return False
        if not isinstance(request_id, int | str) or isinstance(request_id, bool):
            return self._told(method, params)
        await self._asked(Ask(request_id, method, params))
        return True

    # -- questions

    async def _asked(self, ask: Ask) -> None:
        """Put a question to a client; nobody to ask, and it is refused."""
        if ask.method == "ping":
            answer: JsonObject = {"jsonrpc": "2.0", "id": ask.id, "result": {}}
        else:
            error = self._refusal(ask)
            if error is None:
                return
            answer = {"jsonrpc": "2.0", "id": ask.id, "error": error}
        await self._transport.send_within(_ANSWER_SECONDS, answer)

    def _refusal(self, ask: Ask) -> JsonObject | None:
        """Begin to ask, or return the error that the server gets instead."""
        exchange = self._requests.latest()
        if self._client.era == "legacy":  # a modern server asks by its results
            if exchange is not None and not exchange.say(ask):
                # What is too much for the client of a call is not asked elsewhere instead.
                return {"code": _INVALID_REQUEST, "message": "more than a client is asked in one call"}
            if exchange is not None or self._ask_standing(ask):
                return None
        return {"code": _METHOD_NOT_FOUND, "message": "not offered by this client"}

    def _ask_standing(self, ask: Ask) -> bool:
        """Put a question that belongs to no call to the session's client; `False` if there is no way."""
        standing = self._standing()
        if standing is None or self.tasks is None:
            return False
        if lacking(self._client.capabilities, ask.method, ask.params) != {}:
            return False
        if self._standing_asks >= _MOST_STANDING:
            return False
        self._standing_asks += 1
        self.tasks.start_soon(self._put_standing, standing, ask)
        return True

    async def _put_standing(self, standing: Standing, ask: Ask) -> None:
        try:
            with anyio.move_on_after(self._client_timeout):
                await self._transport.send(await answer_to(standing, ask))
        finally:
            self._standing_asks -= 1

    # -- notifications

    def _told(self, method: str, params: JsonObject) -> bool:
        """Pass a notification on; `False` if it is about nothing that is known."""
        if method == "notifications/tools/list_changed":
            self.stale = True
        if method == "notifications/cancelled":
            return self._requests.withdraw(params.get("requestId"))
        if method == "notifications/progress":
            return self._progressed(params)
        if method in _CHANGES:
            self._announced(method, without_stream(params))
        elif method == "notifications/subscriptions/acknowledged":
            self._acknowledged(stream_of(params))
        else:
            exchange = self._requests.latest()
            if exchange is None or not exchange.say(Note(method, params)):
                self._announced(method, params)
        return True

    def _progressed(self, params: JsonObject) -> bool:
        exchange = self._requests.known(params.get("progressToken"))
        if exchange is None or exchange.peer is None:
            return False
        own = {**params, "progressToken": exchange.peer.progress_token}
        exchange.say(Note("notifications/progress", own))
        return True

    def _acknowledged(self, request_id: JsonValue) -> None:
        """A stream of notifications is open: that is all its request waited for."""
        exchange = self._requests.known(request_id)
        if exchange is not None:
            exchange.answer({"result": {}})
