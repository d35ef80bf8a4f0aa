"""One request to a tool server while it runs: what the server says meanwhile, and how it ends.

Filled by the reader of the server's output, which never waits for anybody; emptied by the task
whose request it is. What a server may say in one call is bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import anyio

from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.loop import Promise
from gateway.runtime.peer import ClientPeer

__all__ = ["MOST_OPEN", "MOST_QUESTIONS", "Ask", "Exchange", "Note", "UpstreamFailure"]

MOST_OPEN, MOST_QUESTIONS = 16, 64
"""Questions of one call: that its client has not answered, and in all."""
_MOST_SAID = 1_000
"""Notifications and questions of one call that wait to be passed on."""


class UpstreamFailure(Exception):
    """A request brought no result; `kind` says why. It may have run."""

    def __init__(self, kind: FailureKind, message: str, error: ServerError | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.error = kind, message, error


@dataclass(frozen=True, slots=True)
class Note:
    """A notification for the call's client."""

    method: str
    params: JsonObject


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to the call's client; `id` is the server's."""

    id: int | str
    method: str
    params: JsonObject


class Exchange:
    """A request in flight: it ends with exactly one of `message` and `failure`.

    `woken` is kept when it ended, when something was said and when its time was over; `asking` are the
    questions that the client has, `asked` all that are open, `questions` counts those that ever
    were.
    """

    __slots__ = (
        "asked",
        "asking",
        "failure",
        "message",
        "peer",
        "questions",
        "request_id",
        "said",
        "woken",
    )

    def __init__(self, request_id: int, peer: ClientPeer | None = None) -> None:
        self.request_id = request_id
        self.peer = peer
        self.message: JsonObject | None = None
        self.failure: UpstreamFailure | None = None
        self.said: deque[Note | Ask] = deque()
        self.asking: dict[int | str, anyio.CancelScope] = {}
        self.asked: set[int | str] = set()
        self.questions = 0
        self.woken: Promise[None] = Promise()

    @property
    def settled(self) -> bool:
        """Whether it ended."""
        return self.message is not None or self.failure is not None

    def answer(self, message: JsonObject) -> bool:
        """End it with the server's answer; `False` if it had ended."""
        if self.settled:
            return False
        self.message = message
        self.woken.keep(None)
        return True

    def expire(self) -> None:
        """Wake who waits: its time is over."""
        self.woken.keep(None)

    def fail(self, failure: UpstreamFailure) -> None:
        """End it without one, unless it ended."""
        if not self.settled:
            self.failure = failure
            self.woken.keep(None)

    def say(self, said: Note | Ask) -> bool:
        """Take what the server says; `False` if nobody listens, it was too much, or asked by an id in use."""
        if self.peer is None or self.settled or len(self.said) >= _MOST_SAID or not self._may_ask(said):
            return False
        self.said.append(said)
        self.woken.keep(None)
        return True

    def _may_ask(self, said: Note | Ask) -> bool:
        if isinstance(said, Note):
            return True
        if said.id in self.asked or len(self.asked) >= MOST_OPEN or self.questions >= MOST_QUESTIONS:
            return False
        self.asked.add(said.id)
        self.questions += 1
        return True

    def withdraw(self, ask_id: JsonValue) -> bool:
        """Forget a question that the server no longer asks; `False` if it is not one of this call."""
        for said in self.said:
            if isinstance(said, Ask) and said.id == ask_id:
                self.said.remove(said)
                self.asked.discard(said.id)
                return True
        scope = self.asking.get(ask_id) if isinstance(ask_id, int | str) else None
        if scope is not None:
            scope.cancel()
        return scope is not None

    def take_asks(self) -> list[Ask]:
        """Take the questions that wait to be passed on."""
        asks = [said for said in self.said if isinstance(said, Ask)]
        for ask in asks:
            self.said.remove(ask)
            self.asked.discard(ask.id)
        return asks

    async def wait(self) -> None:
        """Return once it ended or something was said."""
        if not self.settled and not self.said:
            if self.woken.done:
                self.woken = Promise()
            await self.woken
