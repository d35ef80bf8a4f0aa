"""Listens to what containers try to reach, in the gateway's loop, as the launcher does in its own."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio

from .contract import Attempt
from .launcher.attempts import Attempts
from .launcher.hearing import REST_SECONDS, Hearing
from .noticing import attempt_of

__all__ = ["ContainerHearing"]


class ContainerHearing:
    """Listens for all containers of a driver. `run` it in the driver's tasks."""

    def __init__(self) -> None:
        self._ready = select.epoll()
        self._heard: dict[int, Callable[[], None]] = {}
        self._told: dict[int, Callable[[Attempt], None]] = {}
        self._numbers = count()
        self._hearing = Hearing(self._watch, self._unwatch, self._tell)

    async def run(self) -> None:
        """Listen until cancelled."""
        try:
            while True:
                with anyio.move_on_after(REST_SECONDS if self._hearing.resting else None):
                    await anyio.wait_readable(self._ready)
                for fd, _ in self._ready.poll(0):
                    if fd in self._heard:  # none of those called before it ended what it is of
                        self._heard[fd]()
                self._hearing.wake()
        finally:
            self._ready.close()

    def begin(self, listeners: list[socket.socket], tell: Callable[[Attempt], None]) -> Callable[[], None]:
        """Have `tell` called for what `listeners` see; return what tells the rest and ends that."""
        number, attempts = next(self._numbers), Attempts(listeners)
        self._told[number] = tell
        self._hearing.begin(number, attempts)

        def end() -> None:
            self._hearing.end(number, attempts)
            del self._told[number]

        return end

    def _watch(self, fd: int, heard: Callable[[], None]) -> None:
        self._heard[fd] = heard
        self._ready.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._heard.pop(fd, None) is not None:
            self._ready.unregister(fd)

    def _tell(self, message: dict[str, Any]) -> None:
        self._told[message["attempt"]](attempt_of(message))
