"""What a client knows of its session, and what each answer and each fault means for it. No socket, no clock.

    no session ──reset──> held ──fault──> lost: the next request connects to it again, while the server keeps
                            │                   it (`limits.session_grace`), and nothing is sent twice
                            └──late answer, end, error of the server──> no session

A step whose answer was lost may have been taken, so it is never sent again: `state` tells how many were.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlencode

from gateway.training.codec import Exchange
from gateway.training.errors import (
    CapacityReached,
    ConnectionLost,
    EnvError,
    EpisodeUnavailable,
    ProtocolBroken,
    ServerFailed,
)
from gateway.training.results import ResetResult
from gateway.training.transport import Address, fault_of

__all__ = ["Conversation"]

_Answer = TypeVar("_Answer")
_REFUSED = "SESSION_ERROR"


class Conversation:
    """One client's side. `session` is the one to attach to; empty: there is none.

    `snapshot` is what the next reset starts from: a new session is best had from the process that has it.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.session = ""
        self.snapshot: str | None = None

    @property
    def url(self) -> str:
        """Where to connect to: to the session, if there is one."""
        if self.session:
            return f"{self.address.url}?{urlencode({'session_id': self.session})}"
        if self.snapshot:
            return f"{self.address.url}?{urlencode({'snapshot': self.snapshot})}"
        return self.address.url

    def no_episode(self) -> EpisodeUnavailable:
        """Return what to raise where something needs an episode and there is none."""
        return EpisodeUnavailable("there is no episode: reset first")

    def forget(self) -> None:
        """Give the session up: what happens next is not to be taken for its answer."""
        self.session = ""

    def fault(self, error: BaseException) -> EnvError:
        """Return what to raise for one of `CONNECTION_FAULTS`, with the next step where there is one."""
        found = fault_of(error, self.address)
        if not isinstance(found, ConnectionLost):
            self.forget()
        elif self.session:
            return ConnectionLost(
                f"{found}; the session is kept for a while: state() connects again and tells whether the "
                "step was taken, reset() starts another episode"
            )
        return found

    def read(self, exchange: Exchange[_Answer], answer: str | bytes, *, attached: bool) -> _Answer:
        """Return what an answer says, and keep or forget the session. Raises `EnvError`.

        `attached`: it is the first answer after attaching to the session, which may have been refused.
        """
        try:
            found = exchange.read(answer)
        except (CapacityReached, ServerFailed, ProtocolBroken) as error:
            self.forget()
            if attached and error.code == _REFUSED:
                message = f"the episode was given up meanwhile ({error}): reset to start another"
                raise EpisodeUnavailable(message, _REFUSED) from None
            raise
        if isinstance(found, ResetResult):
            self.session = found.session_id
        return found

    def ended_by(self, error: EnvError) -> bool:
        """Whether nothing more can be said on the connection that brought this error."""
        return error.code == _REFUSED or isinstance(error, (CapacityReached, ServerFailed, ProtocolBroken))
