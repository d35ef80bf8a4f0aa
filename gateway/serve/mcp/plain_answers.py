"""Answers as plain JSON where nothing was said before them, as an event stream from the first notification.

The SDK opens a stream for every request of a session. Most calls say nothing until they end, and
JSON is what the simplest of clients read. A client that takes no streams gets the answer alone: what is
asked of it goes where it listens.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

from starlette.types import Message, Scope, Send

__all__ = ["PlainAnswers", "accepting_streams", "takes_streams"]

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_STREAM = b"text/event-stream"
_ANSWER_ONLY = "sandgate.answer_only"


def takes_streams(scope: Scope) -> bool:
    """Whether the sender of a request hears what is said on it before its answer."""
    return _ANSWER_ONLY not in scope


def accepting_streams(scope: Scope) -> tuple[Scope, bool]:
    """Return a request that takes streams, as the SDK wants it, and whether it really does."""
    accept = [value for name, value in scope["headers"] if name == b"accept"]
    if any(_STREAM in value.lower() or b"*/*" in value for value in accept):
        return scope, True
    if not any(b"application/json" in value.lower() for value in accept):
        return scope, True  # not for us to mend: it is refused
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]
    headers.append((b"accept", b"application/json, " + _STREAM))
    return {**scope, "headers": headers, _ANSWER_ONLY: True}, False


class PlainAnswers:
    """A `send` that holds a stream's beginning back until it is clear what the stream is."""

    def __init__(self, send: Send, *, streams: bool) -> None:
        self._send = send
        self._streams = streams
        self._start: Message | None = None
        self._held = bytearray()
        self._answered = False

    async def __call__(self, message: Message) -> None:
        """Pass a message on, now, later, or as another one."""
        if message["type"] == "http.response.start" and _is_stream(message):
            self._start = message
        elif self._answered:
            return
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            await self._take(message)

    async def _take(self, message: Message) -> None:
        self._held += message.get("body", b"")
        while match := _EVENT_END.search(self._held):
            event = bytes(self._held[: match.start()])
            answer = _answer_in(event)
            if answer is not None:
                await self._answer(answer)
                return
            if self._streams:
                break
            del self._held[: match.end()]
        else:
            if message.get("more_body", False):
                return
        await self._commit(more=message.get("more_body", False))

    async def _answer(self, body: bytes) -> None:
        assert self._start is not None
        self._answered = True
        kept = [(name, value) for name, value in self._start["headers"] if name.lower() not in _OF_STREAMS]
        length = (b"content-length", str(len(body)).encode())
        headers = [*kept, (b"content-type", b"application/json"), length]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _commit(self, *, more: bool) -> None:
        """Let it be a stream after all, from its beginning."""
        start, self._start = self._start, None
        assert start is not None
        await self._send(start)
        await self._send({"type": "http.response.body", "body": bytes(self._held), "more_body": more})
        self._held.clear()


_OF_STREAMS = frozenset({b"content-type", b"cache-control", b"connection", b"x-accel-buffering"})


def _is_stream(message: Message) -> bool:
    return message["status"] == 200 and any(
        name.lower() == b"content-type" and value.startswith(_STREAM) for name, value in message["headers"]
    )


def _answer_in(event: bytes) -> bytes | None:
    """Return the JSON-RPC answer that an event holds, `None` if it holds anything else."""
    lines = [line[5:].strip() for line in re.split(rb"\r\n|\n|\r", event) if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if not data:
        return None
    message: Any = json.loads(data)
    if not isinstance(message, dict):
        return None
    keys = cast("dict[str, Any]", message).keys()
    return data if "method" not in keys and ("result" in keys or "error" in keys) else None
