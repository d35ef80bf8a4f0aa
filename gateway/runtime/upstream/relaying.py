"""Passes on what a server says and asks during a call, and brings it the answers.

A client that can be asked while its call runs is asked; for one that cannot (`ClientPeer.defers`)
the call is parked: its questions are the call's result, and the call that brings the answers goes
on where it stopped. Nothing here decides or sends a call again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import anyio

from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.peer import ClientPeer, PeerError, Standing, lacking, named
from gateway.runtime.upstream.deadline import Deadline
from gateway.runtime.upstream.exchange import Ask, Exchange, Note
from gateway.runtime.upstream.parking import Parked

__all__ = ["answer_to", "park", "relay", "undeclared"]

logger = logging.getLogger(__name__)

_PUT_SECONDS, _PUT_LATE_SECONDS = 5.0, 0.5
"""How long an answer may take to be read, and how much of it beyond the end of the call's time."""
_METHOD_NOT_FOUND, _INTERNAL = -32601, -32603
Put = Callable[[JsonObject], Awaitable[None]]
"""Sends the server a message."""


async def relay(exchange: Exchange, put: Put, deadline: Deadline, client_timeout: float) -> None:
    """Pass on what is said until the request ended, or has to be parked.

    While the client has a question the call's `deadline` stands still, as far as it does; the client
    has `client_timeout` seconds for each.
    """
    peer = exchange.peer
    assert peer is not None, "nothing is said to nobody"
    async with anyio.create_task_group() as asks:
        while True:
            while exchange.said and not _must_park(exchange):
                said = exchange.said.popleft()
                if isinstance(said, Note):
                    await peer.notify(said.method, said.params)
                else:
                    asks.start_soon(_put_question, exchange, said, put, deadline, client_timeout)
            if exchange.settled or _must_park(exchange):
                asks.cancel_scope.cancel()
                return
            await exchange.wait()


def _must_park(exchange: Exchange) -> bool:
    defers = exchange.peer is not None and exchange.peer.defers
    return defers and bool(exchange.said) and isinstance(exchange.said[0], Ask)


async def _put_question(
    exchange: Exchange, ask: Ask, put: Put, deadline: Deadline, client_timeout: float
) -> None:
    assert exchange.peer is not None
    answer: JsonObject | None = None
    with deadline.standing_still(), anyio.move_on_after(client_timeout) as scope:
        exchange.asking[ask.id] = scope
        try:
            answer = await _answer(exchange.peer, ask)
        finally:
            del exchange.asking[ask.id]
    if answer is None:
        answer = _error(ask.id, _INTERNAL, "the client did not answer in time")
    # A frame that goes out in part would end the conversation: it is finished even if the call is over.
    with anyio.move_on_after(min(_PUT_SECONDS, deadline.left + _PUT_LATE_SECONDS), shield=True):
        await put(answer)
    exchange.asked.discard(ask.id)


async def _answer(peer: ClientPeer, ask: Ask) -> JsonObject:
    fault = undeclared(peer.capabilities, ask.method, ask.params)
    return await answer_to(peer, ask) if fault is None else _error(ask.id, _METHOD_NOT_FOUND, fault)


async def answer_to(peer: Standing, ask: Ask) -> JsonObject:
    """Put a question to the client and return the server's answer: a result, or the error it got."""
    try:
        result = await peer.request(ask.method, ask.params)
    except PeerError as error:
        return _error(ask.id, error.code, error.message, error.data)
    except Exception:
        # Whatever a front fails with, the server is owed an answer and the call goes on.
        logger.exception("asking the client %s failed", ask.method)
        return _error(ask.id, _INTERNAL, "the client could not be asked")
    return {"jsonrpc": "2.0", "id": ask.id, "result": result}


def undeclared(capabilities: Mapping[str, JsonValue], method: str, params: JsonValue) -> str | None:
    """Return why a client of these capabilities is not asked that, or `None`."""
    lack = lacking(capabilities, method, params)
    if lack is None:
        return f"{method[:64]!r} is not offered by this client"
    return f"the client did not declare {named(lack)!r}" if lack else None


def _error(request_id: int | str, code: int, message: str, data: JsonValue = None) -> JsonObject:
    error: JsonObject = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


async def park(exchange: Exchange, put: Put) -> Parked | None:
    """Take a request's open questions for later; `None` if the client may be asked none of them."""
    assert exchange.peer is not None
    asks: list[Ask] = []
    for ask in exchange.take_asks():
        fault = undeclared(exchange.peer.capabilities, ask.method, ask.params)
        if fault is None:
            asks.append(ask)
        else:
            await put(_error(ask.id, _METHOD_NOT_FOUND, fault))
    return Parked.of(exchange, asks) if asks else None
