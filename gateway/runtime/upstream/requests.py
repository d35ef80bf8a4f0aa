"""The requests of one conversation that wait for their answers: their ids, their time, their ends.

A request is sent once. An answer is matched to the request that still waits for it; wrong, double and
late ones are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.peer import ClientPeer
from gateway.runtime.upstream.deadline import Deadline
from gateway.runtime.upstream.exchange import Exchange, UpstreamFailure
from gateway.runtime.upstream.parking import Parked, Parking
from gateway.runtime.upstream.relaying import park, relay
from gateway.runtime.upstream.transport import Transport

__all__ = ["Requests"]

_COURTESY_SECONDS = 0.5
_INVALID_PARAMS = -32602


class Requests:
    """The requests in flight to one server. `tasks` are set before the first is sent."""

    def __init__(self, name: str, transport: Transport, client_timeout: float) -> None:
        self.tasks: TaskGroup | None = None
        self._name = name
        self._transport = transport
        self._client_timeout = client_timeout
        self._waiting: dict[int, Exchange] = {}
        self._parking = Parking(client_timeout, self._let_go)
        self._next_id = 1

    def next_id(self) -> int:
        """Return an id that no request had."""
        request_id, self._next_id = self._next_id, self._next_id + 1
        return request_id

    async def send(
        self, method: str, params: JsonObject, peer: ClientPeer | None, deadline: Deadline
    ) -> JsonObject:
        """Send a request and return its result, or what it asks of a client that defers.

        Raises `UpstreamFailure`.
        """
        request_id = self.next_id()
        if peer is not None and peer.progress_token is not None:
            meta = params.get("_meta")
            own = {**(meta if isinstance(meta, dict) else {}), "progressToken": request_id}
            params = {**params, "_meta": own}
        message: JsonObject = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        return await self._finish(self._begin(request_id, peer), method, deadline, message)

    async def open_stream(self, method: str, params: JsonObject, deadline: Deadline) -> int:
        """Send a request whose answer is a stream; return its id once the server says that it is open."""
        request_id = self.next_id()
        message: JsonObject = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        await self._finish(self._begin(request_id, None), method, deadline, message)
        return request_id

    async def resume(
        self, method: str, params: JsonObject, peer: ClientPeer | None, deadline: Deadline
    ) -> JsonObject:
        """Go on with a suspended request: bring the answers that these parameters carry."""
        parked = self._parking.find(params.get("requestState"))
        if parked is None or self._transport.ended is not None:
            error = ServerError(_INVALID_PARAMS, "requestState is unknown or over: make the call anew")
            raise UpstreamFailure(FailureKind.SERVER_ERROR, error.message, error)
        answers = parked.answers(params)
        if answers is None:
            return parked.result()
        self._parking.take(parked)
        parked.exchange.peer = peer
        return await self._finish(parked.exchange, method, deadline, *answers)

    async def give_up(self, request_id: int, reason: str) -> None:
        """Tell the server that nobody waits any more; bounded, for it may not read either."""
        params: JsonObject = {"requestId": request_id, "reason": reason}
        message: JsonObject = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        await self._transport.send_within(_COURTESY_SECONDS, message)

    # -- what comes from the server

    def answered(self, message: JsonObject) -> bool:
        """End the request that this answers; `False` if none waits for it."""
        waiting = self.known(message.get("id"))
        return waiting is not None and waiting.answer(message)

    def unacceptable(self, request_id: int, failure: UpstreamFailure) -> None:
        """Fail the one request that a refused frame answered."""
        waiting = self.known(request_id)
        if waiting is not None:
            waiting.fail(failure)

    def over(self, failure: UpstreamFailure) -> None:
        """Fail all of them: their server is gone."""
        self._parking.clear()
        for waiting in self._waiting.values():
            waiting.fail(failure)

    def known(self, request_id: JsonValue) -> Exchange | None:
        """Return the request of this id, if it waits; ids are our own, and integers."""
        return self._waiting.get(request_id) if type(request_id) is int else None

    def latest(self) -> Exchange | None:
        """Return the request that a server most likely speaks of: the last begun that has a client.

        A server over pipes does not say which call it speaks of; all of them are of one session.
        """
        for exchange in reversed(self._waiting.values()):
            if exchange.peer is not None and not exchange.settled:
                return exchange
        return None

    def withdraw(self, ask_id: JsonValue) -> bool:
        """Forget a question that the server no longer asks; `False` if it is none that is known."""
        return any(exchange.withdraw(ask_id) for exchange in self._waiting.values())

    # -- from the first byte to the last

    def _begin(self, request_id: int, peer: ClientPeer | None) -> Exchange:
        if self._transport.ended is not None:
            raise self._transport.ended
        exchange = self._waiting[request_id] = Exchange(request_id, peer)
        return exchange

    async def _finish(
        self, exchange: Exchange, method: str, deadline: Deadline, *messages: JsonObject
    ) -> JsonObject:
        """Send what begins or resumes an exchange; wait for its result, or for what it asks of a client."""
        parked: Parked | None = None
        try:
            if len(messages) == 1 and self._transport.send_now(messages[0]):
                messages = ()
                await self._answered(exchange, deadline)
            if messages or exchange.said:
                parked = await self._attended(exchange, deadline, messages)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.give_up(exchange.request_id, "the caller left")
            raise
        finally:
            if parked is None or exchange.settled:
                self._waiting.pop(exchange.request_id, None)
        if exchange.failure is not None:
            raise exchange.failure
        if exchange.message is not None:
            return self._result(exchange.message)
        if parked is not None:
            return await self._park(parked)
        await self.give_up(exchange.request_id, "deadline passed")
        raise UpstreamFailure(
            FailureKind.TIMEOUT, f"server {self._name!r} did not answer {method} within {deadline}"
        )

    async def _answered(self, exchange: Exchange, deadline: Deadline) -> None:
        """Wait for the end of an exchange, or for what is said before.

        Most calls end here, so this costs a timer and no more.
        """
        timer = deadline.timer(exchange.expire)
        try:
            await exchange.wait()
        finally:
            timer.cancel()

    async def _attended(
        self, exchange: Exchange, deadline: Deadline, messages: Sequence[JsonObject]
    ) -> Parked | None:
        """Send, then wait for the end and pass on what is said until then."""
        parked: Parked | None = None
        with deadline.enforced():
            for message in messages:
                await self._transport.send(message)
            while parked is None and (exchange.said or not exchange.settled):
                await exchange.wait()
                if exchange.said:
                    parked = await self._pass_on(exchange, deadline)
        return parked

    async def _pass_on(self, exchange: Exchange, deadline: Deadline) -> Parked | None:
        """Pass on what was said; return the questions that have to wait for another call."""
        await relay(exchange, self._transport.send, deadline, self._client_timeout)
        if exchange.settled:
            exchange.said.clear()  # a question whose call is over
            return None
        return await park(exchange, self._transport.send) if exchange.said else None

    async def _park(self, parked: Parked) -> JsonObject:
        """Hold a suspended request for the call that brings the answers."""
        assert self.tasks is not None, "a request is suspended after the start"
        await self._parking.keep(parked, self.tasks)
        return parked.result()

    async def _let_go(self, exchange: Exchange, reason: str) -> None:
        self._waiting.pop(exchange.request_id, None)
        await self.give_up(exchange.request_id, reason)

    def _result(self, message: JsonObject) -> JsonObject:
        error = message.get("error")
        if isinstance(error, dict):
            raise UpstreamFailure(FailureKind.SERVER_ERROR, *_server_error(error))
        result = message.get("result")
        if not isinstance(result, dict):
            raise UpstreamFailure(
                FailureKind.PROTOCOL, f"server {self._name!r} answered without a result object"
            )
        return result


def _server_error(error: JsonObject) -> tuple[str, ServerError]:
    code, message = error.get("code"), error.get("message")
    number = code if isinstance(code, int) and not isinstance(code, bool) else -32603
    text = message if isinstance(message, str) else "unspecified error"
    return f"{text} ({number})", ServerError(number, text, error.get("data"))
