"""The sessions of a gateway: who holds them, how many there may be, when they end.

A session id is a name, not a credential: every look-up also takes the principal, and somebody
else's session does not exist for them. A principal is all that was authenticated, groups and roles
included: a session opened with other rights is somebody else's.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import anyio

from gateway.core.calls import Principal
from gateway.core.json_types import JsonObject
from gateway.core.records import CallIds
from gateway.core.session import SessionMachine
from gateway.errors import UnknownSession
from gateway.runtime.announcements import Announcements
from gateway.runtime.leases import Lease
from gateway.runtime.offerings import Offerings
from gateway.runtime.places import Places
from gateway.runtime.served_pack import ServedPack
from gateway.sandbox.contract import Workspace

__all__ = ["Session", "SessionTable", "named_session_id", "new_call_id", "new_session_id"]


def new_call_id() -> str:
    """Return an id for one call, unique across gateways."""
    return f"call_{os.urandom(12).hex()}"


def new_session_id() -> str:
    """Return an id that cannot be guessed; even so it opens nothing without its principal."""
    return secrets.token_hex(16)


@lru_cache(maxsize=1024)
def named_session_id(principal: Principal, name: str | None) -> str:
    """Return the id of a principal's session of that name; no two principals, or names, share one."""
    rights = [principal.client, principal.user, sorted(principal.groups), sorted(principal.roles)]
    digest = hashlib.sha256(repr(rights).encode()).hexdigest()[:12]
    return f"{principal.name}:{digest}:{name or ''}"


@dataclass(slots=True, eq=False)
class Session:
    """Identity, policy and servers of one caller. `episode` and `step` go into its records.

    `announcements` are what its servers say that belongs to no call, `offerings` their resources and
    prompts.
    """

    id: str
    pack: ServedPack
    principal: Principal
    machine: SessionMachine
    lease: Lease
    last_used: float
    announcements: Announcements = field(default_factory=Announcements)
    episode: str | None = None
    step: int | None = None
    in_flight: int = 0
    closed: bool = False
    place: int | None = None
    offerings: Offerings = field(init=False)

    def __post_init__(self) -> None:
        self.offerings = Offerings(self.pack, self.machine, self.lease)

    @property
    def workspace(self) -> Workspace:
        """The session's files."""
        return self.lease.workspace

    @property
    def failed(self) -> str | None:
        """Why the session cannot go on, once a server of it died in training."""
        self.lease.check_alive()
        return self.lease.failed

    def ids(self) -> CallIds:
        """Return whose it is now, for records."""
        return CallIds(self.id, self.episode, self.step, self.principal.name, self.pack.name)

    def logs(self, tool: str) -> bool:
        """Whether a tool's server says that it sends log messages."""
        known = self.pack.catalog.tools.get(tool)
        offers = None if known is None else self.pack.offers.get(known.server)
        return offers is not None and offers.has("logging")

    def tools(self) -> list[JsonObject]:
        """Return the MCP tool definitions as the policy shows them."""
        return self.machine.tools()

    async def stop_servers(self) -> None:
        """Kill the session's servers and keep its workspace."""
        await self.lease.stop_servers()


@dataclass(slots=True)
class SessionTable:
    """Live sessions by pack and id. Each has one of the `places`."""

    places: Places
    max_per_principal: int
    _sessions: dict[tuple[str, str], Session] = field(default_factory=dict[tuple[str, str], Session])
    _locks: dict[tuple[str, str], anyio.Lock] = field(default_factory=dict[tuple[str, str], anyio.Lock])

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, pack: str, session_id: str, principal: Principal) -> Session:
        """Return the principal's own session; raises `UnknownSession`."""
        session = self._sessions.get((pack, session_id))
        if session is None or session.closed or session.principal != principal:
            raise UnknownSession(session_id)
        return session

    def reserve(self, principal: Principal) -> int:
        """Take a place for a session about to open; raises `TooManySessions`."""
        return self.places.take(principal.name, self.max_per_principal)

    def add(self, session: Session, place: int) -> None:
        """Put an open session in its place; raises `UnknownSession` if its id is somebody's already."""
        key = (session.pack.name, session.id)
        if key in self._sessions:
            raise UnknownSession(session.id)
        session.place = place
        self._sessions[key] = session

    def remove(self, session: Session) -> None:
        """Take a session out of the table and give its place back. Idempotent."""
        key = (session.pack.name, session.id)
        if self._sessions.get(key) is session:
            del self._sessions[key]
            assert session.place is not None, "a session in the table has a place"
            self.places.free(session.place)

    def opening_lock(self, pack: str, session_id: str) -> anyio.Lock:
        """Return the lock under which a named session is looked up or opened, once."""
        return self._locks.setdefault((pack, session_id), anyio.Lock())

    def forget_lock(self, pack: str, session_id: str) -> None:
        """Drop the lock of a named session that nobody waits for."""
        lock = self._locks.get((pack, session_id))
        if lock is not None and not lock.locked():
            del self._locks[(pack, session_id)]
