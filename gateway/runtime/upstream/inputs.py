"""A server that asks by its results (`input_required`), for a client that can be asked during its call.

The client is asked at once, and the request sent anew with what it answered: as one call to it, with
one deadline. Nothing is sent from here.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.peer import ClientPeer, PeerError, lacking, named
from gateway.runtime.upstream.deadline import Deadline
from gateway.runtime.upstream.exchange import MOST_OPEN, MOST_QUESTIONS, UpstreamFailure

__all__ = ["Rounds", "check_inputs", "needs_input"]

_MOST_ROUNDS = 8
_MISSING_CAPABILITY = -32021


def needs_input(result: JsonObject) -> bool:
    """Whether a result is a modern server's question in place of one."""
    return result.get("resultType") == "input_required"


def check_inputs(result: JsonObject, capabilities: Mapping[str, JsonValue]) -> None:
    """Refuse questions that a client of these capabilities is not to be asked (`UpstreamFailure`).

    The caller is told by the protocol's own error what it would have to declare.
    """
    lack: JsonObject = {}
    for request in _requests(result).values():
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
            named({name: part}) for name, part in lack.items()
        )
        error = ServerError(_MISSING_CAPABILITY, said, {"requiredCapabilities": lack})
        raise UpstreamFailure(FailureKind.SERVER_ERROR, said, error)


def _requests(result: JsonObject) -> JsonObject:
    """Return what is asked by such a result, by key."""
    requests = result.get("inputRequests")
    return requests if isinstance(requests, dict) else {}


class Rounds:
    """The questions of one call, round by round. Bounded in number; in time by the call's deadline."""

    def __init__(
        self, server: str, peer: ClientPeer | None, deadline: Deadline, client_timeout: float
    ) -> None:
        self._server = server
        self._peer = peer
        self._deadline = deadline
        self._client_timeout = client_timeout
        self._rounds = self._questions = 0

    async def answers(self, result: JsonObject) -> JsonObject:
        """Ask what this result asks, once checked; return the parameters that bring the server the answers.

        Raises `UpstreamFailure` where the client cannot or will not answer, or was asked enough.
        """
        requests = _requests(result)
        self._rounds, self._questions = self._rounds + 1, self._questions + len(requests)
        if self._peer is None:
            raise self._broke("asks for input that this caller cannot give")
        if self._rounds > _MOST_ROUNDS or len(requests) > MOST_OPEN or self._questions > MOST_QUESTIONS:
            raise self._broke("asks for more than a client is asked in one call")
        answers = await self._asked(self._peer, requests)
        state = result.get("requestState")
        given: JsonObject = {"inputResponses": answers} if answers else {}
        return given if state is None else {**given, "requestState": state}

    async def _asked(self, peer: ClientPeer, requests: JsonObject) -> JsonObject:
        answers: JsonObject = {}
        failures: list[UpstreamFailure] = []

        async def ask(key: str, request: JsonValue) -> None:
            try:
                answers[key] = await self._answer(peer, request)
            except UpstreamFailure as failure:
                failures.append(failure)

        with self._deadline.standing_still():
            with anyio.move_on_after(min(self._client_timeout, self._deadline.left)) as scope:
                async with anyio.create_task_group() as asks:
                    for key, request in requests.items():
                        asks.start_soon(ask, key, request)
        if failures:
            raise failures[0]
        if scope.cancelled_caught:
            raise UpstreamFailure(FailureKind.TIMEOUT, "the client did not answer in time")
        return answers

    async def _answer(self, peer: ClientPeer, request: JsonValue) -> JsonObject:
        method = request.get("method") if isinstance(request, dict) else None
        params = request.get("params") if isinstance(request, dict) else None
        assert isinstance(method, str), "inputs are checked before anybody is asked"
        try:
            return await peer.request(method, params if isinstance(params, dict) else {})
        except PeerError as error:
            told = ServerError(error.code, error.message, error.data)
            raise UpstreamFailure(FailureKind.SERVER_ERROR, error.message, told) from error

    def _broke(self, said: str) -> UpstreamFailure:
        return UpstreamFailure(FailureKind.PROTOCOL, f"server {self._server!r} {said}")
