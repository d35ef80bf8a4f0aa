"""Requests to a server that wait for the answers of another call. Bounded in number and in time.

A client that cannot be asked while its call runs is told the questions as the call's result; its server's
request is kept meanwhile. Sends nothing itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.upstream.exchange import Ask, Exchange

__all__ = ["Parked", "Parking"]

_PREFIX = "parked:"
_MOST_PARKED = 16


@dataclass(frozen=True, slots=True)
class Parked:
    """A request that waits for the answers of another call: questions by the keys they were given."""

    token: str
    exchange: Exchange
    asks: dict[str, Ask]
    waiting: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @classmethod
    def of(cls, exchange: Exchange, asks: list[Ask]) -> Parked:
        """Return an exchange as it waits for the answers to these questions."""
        keyed = {f"ask-{number}": ask for number, ask in enumerate(asks, 1)}
        return cls(_PREFIX + secrets.token_hex(16), exchange, keyed)

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


class Parking:
    """The parked requests of one server. Each waits `seconds`; one too many, and the oldest makes room.

    `give_up` is told of each that waits no longer, with the reason.
    """

    def __init__(self, seconds: float, give_up: Callable[[Exchange, str], Awaitable[None]]) -> None:
        self._seconds = seconds
        self._give_up = give_up
        self._parked: dict[str, Parked] = {}

    async def keep(self, parked: Parked, tasks: TaskGroup) -> None:
        """Hold a request until it is taken; `tasks` look to the end of its time."""
        if len(self._parked) >= _MOST_PARKED:
            await self._drop(next(iter(self._parked.values())), "others wait")
        self._parked[parked.token] = parked
        tasks.start_soon(self._wait_out, parked)

    def find(self, token: JsonValue) -> Parked | None:
        """Return the request that this state stands for, if it still waits."""
        return self._parked.get(token) if isinstance(token, str) else None

    def take(self, parked: Parked) -> None:
        """Let go of a request: it goes on."""
        del self._parked[parked.token]
        parked.waiting.cancel()

    def clear(self) -> None:
        """Forget all of them: their server is gone."""
        for parked in list(self._parked.values()):
            self.take(parked)

    async def _wait_out(self, parked: Parked) -> None:
        with parked.waiting:
            await anyio.sleep(self._seconds)
        if parked.token in self._parked:
            await self._drop(parked, "nobody answered in time")

    async def _drop(self, parked: Parked, reason: str) -> None:
        self.take(parked)
        await self._give_up(parked.exchange, reason)
