"""When a call's time is over: it stands still while the call's client has a question, but not for ever."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio

from gateway.loop import Timer, current_loop

__all__ = ["Deadline"]


class Deadline:
    """The time of one call: `seconds` for its server, and for its client `patience` seconds in all.

    So it ends, whatever server and client do: what is left of the patience is all that standing still
    can add. `at` is when the time is over, by the loop's clock; `waited` how long it stood still.
    """

    __slots__ = ("_askers", "_loop", "_patience", "_scope", "_since", "at", "seconds", "waited")

    def __init__(self, seconds: float, patience: float = 0.0) -> None:
        self._loop = current_loop()
        self.seconds = seconds
        self.at = self._loop.time() + seconds
        self.waited = 0.0
        self._patience = patience
        self._askers = 0
        self._since = 0.0
        self._scope: anyio.CancelScope | None = None

    def __str__(self) -> str:
        """Say how long it was."""
        waited = f" and {self.waited:.3g} s of waiting for the client" if self.waited else ""
        return f"{self.seconds:g} s{waited}"

    @property
    def left(self) -> float:
        """The seconds until then."""
        return max(0.0, self.at - self._loop.time())

    def timer(self, callback: Callable[[], object]) -> Timer:
        """Have `callback` called then; a time that stands still later does not move it."""
        return self._loop.call_at(self.at, callback)

    @contextmanager
    def enforced(self) -> Generator[None]:
        """End what is done inside once the time is over; one at a time."""
        with anyio.CancelScope(deadline=self.at) as self._scope:
            yield

    @contextmanager
    def standing_still(self) -> Generator[None]:
        """Let the time stand still while anybody is inside, as far as the patience goes."""
        if self._askers == 0:
            self._since = self._loop.time()
            self._move(self._patience)
        self._askers += 1
        try:
            yield
        finally:
            self._askers -= 1
            if self._askers == 0:
                waited = min(self._patience, self._loop.time() - self._since)
                self._move(waited - self._patience)
                self._patience -= waited
                self.waited += waited

    def _move(self, seconds: float) -> None:
        self.at += seconds
        if self._scope is not None:
            self._scope.deadline = self.at
