"""The event loop's own primitives, for the path of a call: there anyio's cost more than the work itself.

The only module that names asyncio. No task is made here: a promise has one owner, who keeps or breaks
it, and one who waits; what runs is whoever awaits, or a callback of the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar, cast

__all__ = ["EventLoop", "Promise", "Running", "Timer", "Turn", "current_loop", "running_task"]

T = TypeVar("T")

Turn = asyncio.Lock
"""Lets one in at a time, in the order they came. A free one is entered at once."""


class Timer(Protocol):
    """A call that the loop will make."""

    def cancel(self) -> None:
        """Do not make it. Idempotent."""
        ...


class EventLoop(Protocol):
    """What of an event loop is used here; asyncio's and uvloop's have it."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object:
        """Call back in the next turn of the loop."""
        ...

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object:
        """Likewise, from another thread."""
        ...

    def time(self) -> float:
        """Return what the loop's clock shows, in seconds."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back in `delay` seconds."""
        ...

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back at `when`, by the loop's clock."""
        ...

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Call back whenever `fd` has something to read, until `remove_reader`."""
        ...

    def remove_reader(self, fd: int) -> bool:
        """Stop that; whether it was so."""
        ...

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Call back whenever `fd` takes something, until `remove_writer`."""
        ...

    def remove_writer(self, fd: int) -> bool:
        """Stop that; whether it was so."""
        ...

    async def connect_accepted_socket(
        self, protocol_factory: Callable[[], Any], sock: socket.socket
    ) -> tuple[Any, Any]:
        """Give a connection that somebody accepted to a protocol; return its transport and that."""
        ...


class Running(Protocol):
    """Whoever runs this: a task of the loop."""

    def cancel(self) -> object:
        """End it where it waits."""
        ...


def running_task() -> Running:
    """Return the task that runs this."""
    task = asyncio.current_task()
    assert task is not None, "called outside a task"
    return task


def current_loop() -> EventLoop:
    """Return the loop that runs this."""
    return cast("EventLoop", asyncio.get_running_loop())


class Promise(Generic[T]):
    """A value that is known later. Awaiting it again after a cancellation is fine, at once by two is not.

    Kept or broken by its owner, once: what comes second changes nothing.
    """

    __slots__ = ("_error", "_value", "_waiter", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def keep(self, value: T) -> None:
        """Let the value be known."""
        if not self.done:
            self.done, self._value = True, value
            self._wake()

    def break_with(self, error: Exception) -> None:
        """Let it be known that there is no value: whoever awaits gets `error` raised."""
        if not self.done:
            self.done, self._error = True, error
            self._wake()

    @property
    def value(self) -> T | None:
        """The value, `None` while it is not known."""
        return self._value

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the value."""
        if not self.done:
            self._waiter = asyncio.get_running_loop().create_future()
            yield from self._waiter
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
