"""Exceptions, sorted by whose fault it is. Each says what to do next.

A refusal of a call is a value (`gateway.core.decisions.Decision`), not an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "AlreadyAnswered",
    "ClientError",
    "ConfigError",
    "LedgerError",
    "NotApprover",
    "Problem",
    "SandboxError",
    "SandgateError",
    "ShuttingDown",
    "StateInUse",
    "TooManySessions",
    "TooManyStreams",
    "UnknownApproval",
    "UnknownSession",
    "UsageError",
]


class SandgateError(Exception):
    """Anything this program raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file. `line` and `column` count from 1; 0 where the file as a whole is meant."""

    file: str
    line: int
    column: int
    code: str
    message: str

    def __str__(self) -> str:
        """Return `file:line:col: message`."""
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.message}"


class ConfigError(SandgateError):
    """The operator's file is wrong. Exit code 2; nothing was started."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(SandgateError):
    """The command line or the machine is not as needed; the message names the next step. Exit code 2."""


class StateInUse(UsageError):
    """Another gateway writes to this state folder; a folder has one writer."""


class ClientError(SandgateError):
    """The caller's fault. `status` is the HTTP status that tells it, `word` a word that tells more."""

    status = 400
    word: str | None = None


class UnknownSession(ClientError):
    """No such session for this principal; also said when it belongs to somebody else."""

    status = 404

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no session {session_id[:64]!r}: open a new one")


class UnknownApproval(ClientError):
    """No such approval waits, or not for this principal to answer."""

    status = 404

    def __init__(self, approval: str) -> None:
        super().__init__(f"no approval {approval[:64]!r} waits here: it was used, ran out, or never was")


class NotApprover(ClientError):
    """The principal sees this approval and may not answer it."""

    status = 403

    def __init__(self) -> None:
        super().__init__(
            "a caller does not approve its own call, unless the rule's 'by' names it: ask another"
        )


class AlreadyAnswered(ClientError):
    """Somebody answered this approval before."""

    status = 409

    def __init__(self, approval: str) -> None:
        super().__init__(f"approval {approval} has its answer: an approval is answered once")


class ShuttingDown(ClientError):
    """The gateway drains: calls in flight finish, new ones go elsewhere or come later."""

    status = 503
    retry_after = 5

    def __init__(self) -> None:
        super().__init__(f"the gateway is shutting down: retry in {self.retry_after} s")


class TooManySessions(ClientError):
    """A limit on live sessions is reached; `retry_after` is in seconds."""

    status = 503

    def __init__(self, limit: int, what: str, retry_after: int = 5) -> None:
        self.limit, self.retry_after = limit, retry_after
        super().__init__(f"{what} already has {limit} sessions: close one or retry in {retry_after} s")


class TooManyStreams(ClientError):
    """A session has as many streams of notifications as one may have."""

    status = 429
    retry_after = 5

    def __init__(self, limit: int) -> None:
        super().__init__(f"this session already listens on {limit} streams: end one")


class SandboxError(SandgateError):
    """The sandbox, not the tool server in it, failed. Never shown as tool output."""


class LedgerError(SandgateError):
    """The ledger cannot be written; calls are refused until it can."""
