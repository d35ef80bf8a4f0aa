"""What the session machine is told, and what it says to do next. Frozen values; decides nothing.

Each command names the events that answer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from gateway.core.approvals import ApprovalRequest
from gateway.core.calls import FailureKind, Outcome, ServerError, ToolCall
from gateway.core.json_types import JsonObject

__all__ = [
    "Acquire",
    "Acquired",
    "Answer",
    "Approved",
    "Broke",
    "Called",
    "Command",
    "Event",
    "Expired",
    "Look",
    "Looked",
    "Pending",
    "Record",
    "RecordLost",
    "Recorded",
    "Refused",
    "Returned",
    "SeekApproval",
    "Send",
]

# -- events: what happened ------------------------------------------------------------------------


class Called(NamedTuple):
    """A front translated a call. `wall` is the wall clock in unix seconds, for rules that ask the hour."""

    call: ToolCall
    episode: str | None = None
    step: int | None = None
    wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found in the session's files: whether the way to a path leads over a symbolic link.

    A path that could not be looked at is left out.
    """

    crosses_link: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The record of the last `Record` command is durable."""


@dataclass(frozen=True, slots=True)
class RecordLost:
    """The record could not be written."""

    reason: str


@dataclass(frozen=True, slots=True)
class Acquired:
    """The server of the call runs in its sandbox `sandbox`; its listing was compared (`drifted`)."""

    sandbox: str


@dataclass(frozen=True, slots=True)
class Returned:
    """The server answered with a result."""

    result: JsonObject


@dataclass(frozen=True, slots=True)
class Broke:
    """No result will come: the server failed, or the caller left."""

    kind: FailureKind
    message: str
    error: ServerError | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """Somebody who may said yes to this very call; the approval is spent by this event."""

    approval: str
    by: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Somebody who may said no, or nobody can be asked."""

    reason: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The approval's time was over before the call could run."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pending:
    """Nobody has answered yet; the approval waits on, the call does not."""

    approval: str


Event: TypeAlias = (
    Called
    | Looked
    | Recorded
    | RecordLost
    | Approved
    | Refused
    | Expired
    | Pending
    | Acquired
    | Returned
    | Broke
)


# -- commands: what to do next --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Look at these paths of the session's workspace, before anything is decided; answer with `Looked`."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Make this ledger record durable; answer with `Recorded` or `RecordLost`."""

    body: JsonObject


@dataclass(frozen=True, slots=True)
class SeekApproval:
    """Have somebody decide; answer with `Approved`, `Refused`, `Expired`, `Pending` or `Broke`."""

    request: ApprovalRequest


@dataclass(frozen=True, slots=True)
class Acquire:
    """Have the server running; answer with `Acquired` or `Broke`."""

    server: str


class Send(NamedTuple):
    """Send the judged call to the server, once; answer with `Returned` or `Broke`."""

    server: str
    method: str
    params: JsonObject


@dataclass(frozen=True, slots=True)
class Answer:
    """The call is over: give this to the front."""

    outcome: Outcome


Command: TypeAlias = Look | Record | SeekApproval | Acquire | Send | Answer
