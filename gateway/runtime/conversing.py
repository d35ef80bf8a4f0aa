"""Passes on what a server says and asks during a call, and brings it the answers.

A client that can be asked while its call runs is asked; for one that cannot (`ClientPeer.defers`)
the call is parked: its questions are the call's result, and the call that brings the answers goes
on where it stopped. The other way round, a server that answers `input_required` to a client that
can be asked is sent the answers at once. Nothing here decides or sends a call again.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.exchange import Ask, Exchange, Note, UpstreamFailure
from gateway.runtime.peer import ClientPeer, PeerError, Standing, wanted_capability

__all__ = ["PARKED_PREFIX", "Parked", "answer_inputs", "answer_to", "converse", "needs_input", "park"]

logger = logging.getLogger(__name__)

PARKED_PREFIX = "parked:"
_PUT_SECONDS = 5.0
_METHOD_NOT_FOUND, _INVALID_PARAMS, _INTERNAL = -32601, -32602, -32603
Put = Callable[[JsonObject], Awaitable[None]]
"""Sends the server a message."""


async def converse(exchange: Exchange, put: Put, deadline: anyio.CancelScope, client_timeout: float) -> None:
    """Pass on what is said until the request ended, or has to be parked.

    While the client has a question the request's own `deadline` stands still; the client has
    `client_timeout` seconds for it.
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
    exchange: Exchange, ask: Ask, put: Put, deadline: anyio.CancelScope, client_timeout: float
) -> None:
    assert exchange.peer is not None
    left = deadline.deadline - anyio.current_time()
    answer: JsonObject | None = None
    with anyio.move_on_after(client_timeout) as scope:
        exchange.asking[ask.id] = scope
        deadline.deadline = math.inf
        try:
            answer = await _answer(exchange.peer, ask)
        finally:
            del exchange.asking[ask.id]
            if not exchange.asking:
                deadline.deadline = anyio.current_time() + (left if left < math.inf else client_timeout)
    if answer is None:
        answer = _error(ask.id, _INTERNAL, "the client did not answer in time")
    # A frame that goes out in part would end the conversation: it is finished even if the call is over.
    with anyio.move_on_after(_PUT_SECONDS, shield=True):
        await put(answer)
    exchange.asked.discard(ask.id)


async def _answer(peer: ClientPeer, ask: Ask) -> JsonObject:
    fault = undeclared(peer, ask.method)
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


def undeclared(peer: ClientPeer, method: str) -> str | None:
    """Return why this client is not asked that, or `None`."""
    capability = wanted_capability(method)
    if capability is None:
        return f"{method[:64]!r} is not offered by this client"
    return None if capability in peer.capabilities else f"the client did not declare {capability!r}"


def _error(request_id: int | str, code: int, message: str, data: JsonValue = None) -> JsonObject:
    error: JsonObject = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


# -- a server that asks during the call, a client that answers with another one


@dataclass(frozen=True, slots=True)
class Parked:
    """A request that waits for the answers of another call: questions by the keys they were given."""

    token: str
    exchange: Exchange
    asks: dict[str, Ask]
    until: float

    def result(self) -> JsonObject:
        """Return what the client is told in place of a result."""
        requests: JsonObject = {
            key: {"method": ask.method, "params": ask.params} for key, ask in self.asks.items()
        }
        return {"resultType": "input_required", "inputRequests": requests, "requestState": self.token}

    def answers(self, params: JsonObject) -> list[JsonObject] | None:
        """Return the server's questions answered, `None` while one of them is not."""
        given = params.get("inputResponses")
        given = given if isinstance(given, dict) else {}
        answers: list[JsonObject] = []
        for key, ask in self.asks.items():
            response = given.get(key)
            if not isinstance(response, dict):
                return None
            answers.append({"jsonrpc": "2.0", "id": ask.id, "result": response})
        return answers


async def park(exchange: Exchange, put: Put, keep: float) -> Parked | None:
    """Take a request's open questions for later; `None` if the client may be asked none of them."""
    assert exchange.peer is not None
    asks: dict[str, Ask] = {}
    for ask in exchange.take_asks():
        fault = undeclared(exchange.peer, ask.method)
        if fault is not None:
            await put(_error(ask.id, _METHOD_NOT_FOUND, fault))
        else:
            asks[f"ask-{len(asks) + 1}"] = ask
    if not asks:
        return None
    token = PARKED_PREFIX + secrets.token_hex(16)
    return Parked(token, exchange, asks, anyio.current_time() + keep)


# -- a server that answers with its questions, a client that can be asked


def needs_input(result: JsonObject) -> bool:
    """Whether a result is a modern server's question in place of one."""
    return result.get("resultType") == "input_required"


async def answer_inputs(peer: ClientPeer, result: JsonObject, client_timeout: float) -> JsonObject:
    """Ask the client what a server asks by its result; return the parameters that bring it the answers.

    Raises `UpstreamFailure` where the client cannot or will not answer.
    """
    requests = result.get("inputRequests")
    answers: JsonObject = {}
    failures: list[UpstreamFailure] = []

    async def one(key: str, request: JsonValue) -> None:
        try:
            answers[key] = await _input(peer, request)
        except UpstreamFailure as failure:
            failures.append(failure)

    with anyio.move_on_after(client_timeout):
        async with anyio.create_task_group() as asks:
            for key, request in requests.items() if isinstance(requests, dict) else ():
                asks.start_soon(one, key, request)
        if failures:
            raise failures[0]
        state = result.get("requestState")
        given: JsonObject = {"inputResponses": answers} if answers else {}
        return given if state is None else {**given, "requestState": state}
    raise UpstreamFailure(FailureKind.TIMEOUT, "the client did not answer in time")


async def _input(peer: ClientPeer, request: JsonValue) -> JsonObject:
    method = request.get("method") if isinstance(request, dict) else None
    params = request.get("params") if isinstance(request, dict) else None
    if not isinstance(method, str):
        raise UpstreamFailure(FailureKind.PROTOCOL, "the server asks for input without a method")
    fault = undeclared(peer, method)
    if fault is not None:
        raise UpstreamFailure(FailureKind.PROTOCOL, f"the server asks for input: {fault}")
    try:
        return await peer.request(method, params if isinstance(params, dict) else {})
    except PeerError as error:
        told = ServerError(error.code, error.message, error.data)
        raise UpstreamFailure(FailureKind.SERVER_ERROR, error.message, told) from error
