"""What can go wrong between a trainer and its environment, sorted by whose fault it is.

A denied call, a tool's own error or a malformed argument is none of these: it is an observation.
"""

from __future__ import annotations

from gateway.errors import SandgateError

__all__ = [
    "AnswerLate",
    "CapacityReached",
    "ConnectionLost",
    "EnvError",
    "EpisodeUnavailable",
    "InvalidRequest",
    "NotAllowed",
    "ProtocolBroken",
    "ServerFailed",
    "SnapshotElsewhere",
    "SnapshotFailed",
]


class EnvError(SandgateError):
    """Any of them. `code` is the wire's own word where the server said it, else empty."""

    def __init__(self, message: str, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class InvalidRequest(EnvError):
    """Yours: the reset or action is not of the contract, or names a task that is not there.

    Nothing was done; the episode goes on.
    """


class SnapshotElsewhere(InvalidRequest):
    """Another process of the server has the snapshot; a reset connects to it by itself."""


class EpisodeUnavailable(EnvError):
    """The episode takes no step: none was started, it is over or was idle too long, or the server drains.

    Reset to start another.
    """


class NotAllowed(EnvError):
    """Yours: the server does not know the token, or it has not the role `orchestrator`."""


class CapacityReached(EnvError):
    """Nobody's: the server holds as many sessions as it may. Retry after `retry_after` seconds."""

    def __init__(self, message: str, code: str = "", retry_after: float = 5.0) -> None:
        self.retry_after = retry_after
        super().__init__(message, code)


class ServerFailed(EnvError):
    """The server's: it could not bring up a sandbox, or hit a fault of its own. The episode is lost."""


class SnapshotFailed(EnvError):
    """The workspace could not be kept, for the reason told. The episode goes on."""


class ConnectionLost(EnvError):
    """The network's: no connection, or it broke.

    A step on its way may have been taken. While the server keeps the session (`limits.session_grace`), the
    next request connects to it again: `state` tells how many steps were. A reset always connects again.
    """


class AnswerLate(EnvError):
    """No answer within the client's `timeout`. The episode is lost; a reset connects again."""


class ProtocolBroken(EnvError):
    """The server's: what it answered is not of the contract; most likely its version is another."""
