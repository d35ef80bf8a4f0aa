"""Passes on what a server says and asks during a call, and brings it the answers.

A client that can be asked while its call runs is asked; for one that cannot (`ClientPeer.defers`)
the call is parked: its questions are the call's result, and the call that brings the answers goes
on where it stopped. The other way round, a server that answers `input_required` to a client that
can be asked is sent the answers at once. Nothing here decides or sends a call again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import anyio

from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.deadline import Deadline
from gateway.runtime.exchange import Ask, Exchange, Note, UpstreamFailure
from gateway.runtime.parking import Parked
from gateway.runtime.peer import ClientPeer, PeerError, Standing, lacking

__all__ = ["answer_inputs", "answer_to", "check_inputs", "converse", "inputs_of", "needs_input", "park"]

logger = logging.getLogger(__name__)

_PUT_SECONDS, _PUT_LATE_SECONDS = 5.0, 0.5
"""How long an answer may take to be read, and how much of it beyond the end of the call's time."""
_METHOD_NOT_FOUND, _INTERNAL, _MISSING_CAPABILITY = -32601, -32603, -32021
Put = Callable[[JsonObject], Awaitable[None]]
"""Sends the server a message."""


async def converse(exchange: Exchange, put: Put, deadline: Deadline, client_timeout: float) -> None:
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
    return f"the client did not declare {_named(lack)!r}" if lack else None


def _named(lack: JsonObject) -> str:
    """Return a capability, or a part of one, as it is spoken of: `elicitation.url`."""
    return next(".".join((name, *part)) for name, part in lack.items() if isinstance(part, dict))


def _error(request_id: int | str, code: int, message: str, data: JsonValue = None) -> JsonObject:
    error: JsonObject = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


# -- a server that asks during the call, a client that answers with another one


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


# -- a server that answers with its questions, a client that can be asked


def needs_input(result: JsonObject) -> bool:
    """Whether a result is a modern server's question in place of one."""
    return result.get("resultType") == "input_required"


def inputs_of(result: JsonObject) -> JsonObject:
    """Return what is asked by such a result, by key."""
    requests = result.get("inputRequests")
    return requests if isinstance(requests, dict) else {}


def check_inputs(result: JsonObject, capabilities: Mapping[str, JsonValue]) -> None:
    """Refuse questions that a client of these capabilities is not to be asked (`UpstreamFailure`).

    The caller is told by the protocol's own error what it would have to declare.
    """
    lack: JsonObject = {}
    for request in inputs_of(result).values():
        method = request.get("method") if isinstance(request, dict) else None
        params = request.get("params") if isinstance(request, dict) else None
        missing = lacking(capabilities, method, params) if isinstance(method, str) else None
        if missing is None:
            raise UpstreamFailure(FailureKind.PROTOCOL, "the server asks for input that no client gives")
        for name, part in missing.items():
            known = lack.get(name)
            lack[name] = {**known, **part} if isinstance(known, dict) and isinstance(part, dict) else part
    if lack:
        said = "this needs what the client did not declare: " + ", ".join(
            _named({name: part}) for name, part in lack.items()
        )
        error = ServerError(_MISSING_CAPABILITY, said, {"requiredCapabilities": lack})
        raise UpstreamFailure(FailureKind.SERVER_ERROR, said, error)


async def answer_inputs(
    peer: ClientPeer, result: JsonObject, deadline: Deadline, client_timeout: float
) -> JsonObject:
    """Ask the client what a server asks by its result; return the parameters that bring it the answers.

    Raises `UpstreamFailure` where the client cannot or will not answer.
    """
    answers: JsonObject = {}
    failures: list[UpstreamFailure] = []

    async def one(key: str, request: JsonValue) -> None:
        try:
            answers[key] = await _input(peer, request)
        except UpstreamFailure as failure:
            failures.append(failure)

    with deadline.standing_still(), anyio.move_on_after(min(client_timeout, deadline.left)):
        async with anyio.create_task_group() as asks:
            for key, request in inputs_of(result).items():
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
    assert isinstance(method, str), "inputs are checked before anybody is asked"
    try:
        return await peer.request(method, params if isinstance(params, dict) else {})
    except PeerError as error:
        told = ServerError(error.code, error.message, error.data)
        raise UpstreamFailure(FailureKind.SERVER_ERROR, error.message, told) from error
