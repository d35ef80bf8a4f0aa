"""Requests that workers put to each other: one HTTP request each, answered inside, by the layers as they are.

The same token goes along, so that whoever may not ask a worker may not have it asked either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias, cast

import anyio
from starlette.types import ASGIApp, Message, Scope

from gateway.core.json_types import JsonObject, JsonValue
from gateway.loop import Promise

__all__ = ["Answer", "Colleagues", "answered_by", "inner_scope"]

logger = logging.getLogger(__name__)

_SENT = ("method", "path", "raw_path", "query_string", "scheme", "http_version")
_DROPPED = frozenset({b"accept-encoding", b"content-length", b"transfer-encoding", b"expect", b"accept"})

Say: TypeAlias = Callable[[JsonObject, bytes], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker answered."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def answered_by(app: ASGIApp, scope: Scope, body: bytes) -> Answer:
    """Return what `app` answers a request whose body is at hand."""
    sent: list[Message] = []
    whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive() -> Message:
        nonlocal whole
        if whole is None:
            await anyio.sleep_forever()
        message, whole = whole, None
        return cast("Message", message)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    return Answer(
        start["status"], b"".join(part.get("body", b"") for part in parts), tuple(start.get("headers", ()))
    )


def inner_scope(scope: Scope, body: bytes) -> Scope:
    """Return the scope of a request like `scope`, apart from its connection, with another body."""
    headers = [(name, value) for name, value in scope["headers"] if name not in _DROPPED]
    if scope["method"] != "GET":
        headers.append((b"content-length", str(len(body)).encode()))
    kept = {key: scope[key] for key in ("type", "asgi", "server", "client", "root_path", *_SENT)}
    return {**kept, "headers": headers, "state": {}}


class Colleagues:
    """The other workers, as worker `own` of `workers` asks them. `say` reaches the supervisor."""

    def __init__(self, own: int, workers: int, say: Say) -> None:
        self.own = own
        self.others: Sequence[int] = [number for number in range(1, workers + 1) if number != own]
        self._say = say
        self._ids = count(1)
        self._asked: dict[int, Promise[Answer | None]] = {}

    async def ask(self, worker: int, scope: Scope, body: bytes = b"") -> Answer | None:
        """Return what another worker answers to a request like `scope`; `None` where it is not there."""
        inner = inner_scope(scope, body)
        told: JsonObject = {name: _text(inner[name]) for name in _SENT}
        headers: list[JsonValue] = [[_text(name), _text(value)] for name, value in inner["headers"]]
        number = next(self._ids)
        promise = self._asked[number] = Promise[Answer | None]()
        self._say({"do": "ask", "to": worker, "id": number, "scope": {**told, "headers": headers}}, body)
        try:
            return await promise
        finally:
            del self._asked[number]

    async def ask_all(
        self, scope: Scope, body: bytes = b"", seconds: float = 5.0
    ) -> dict[int, Answer | None]:
        """Return what every other worker answers, `None` for those that do not within `seconds`."""
        answers: dict[int, Answer | None] = dict.fromkeys(self.others)

        async def one(worker: int) -> None:
            answers[worker] = await self.ask(worker, scope, body)

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for worker in self.others:
                    tasks.start_soon(one, worker)
        return answers

    def told(self, message: JsonObject, body: bytes) -> None:
        """Take an answer."""
        promise = self._asked.get(cast("int", message["id"]))
        if promise is not None:
            status = message.get("status")
            promise.keep(Answer(status, body) if isinstance(status, int) else None)

    async def answer(self, app: ASGIApp, message: JsonObject, body: bytes) -> None:
        """Answer what another worker asks."""
        told = cast("dict[str, str]", message["scope"])
        pairs = cast("list[list[str]]", told["headers"])
        scope: Scope = {
            **told,
            "type": "http",
            "asgi": {"version": "3.0"},
            "server": None,
            "client": None,
            "root_path": "",
            "raw_path": told["raw_path"].encode("latin-1"),
            "query_string": told["query_string"].encode("latin-1"),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
            "state": {},
        }
        try:
            answer = await answered_by(app, scope, body)
        except Exception:
            # The border of the request: a fault in it is for the log, and is nobody else's.
            logger.exception("answering %s for worker %s failed", scope["path"], message["from"])
            answer = Answer(500, b"")
        self._say(
            {"do": "reply", "to": message["from"], "id": message["id"], "status": answer.status}, answer.body
        )


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
