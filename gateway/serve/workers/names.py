"""The names of sessions that this worker answers for, while they are open or a request for them is."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from gateway.runtime.gateway import Gateway

__all__ = ["HeldNames"]

_SWEEP_SECONDS = 2.0


@dataclass(slots=True)
class _Held:
    place: int
    requests: int = 0


class HeldNames:
    """The names that worker `own` holds in the gateway's table."""

    def __init__(self, gateway: Gateway, own: int) -> None:
        self._gateway = gateway
        self._places = gateway.places.names
        self._own = own
        self._held: dict[str, _Held] = {}

    @contextmanager
    def answering(self, session_id: str) -> Generator[int]:
        """Give the worker that answers for a named session: this one for as long as it is entered, if nobody.

        Raises `TooManySessions`.
        """
        held = self._held.get(session_id)
        if held is None:
            holder, place = self._places.claim(session_id)
            if place is None:
                yield holder
                return
            held = self._held[session_id] = _Held(place)
        held.requests += 1
        try:
            yield self._own
        finally:
            held.requests -= 1

    async def sweep(self) -> None:
        """Give back the names of sessions that ended, for as long as this runs."""
        while True:
            await anyio.sleep(_SWEEP_SECONDS)
            open_now = {session.id for session in self._gateway.readings.sessions}
            for session_id, held in list(self._held.items()):
                if not held.requests and session_id not in open_now:
                    del self._held[session_id]
                    self._places.free(held.place)
