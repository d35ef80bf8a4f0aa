"""Kept workspaces that episodes start from: whose they are, how many there may be, when they go.

A snapshot belongs to the principal that took it and to its pack, and goes with the session that took it;
where a principal has too many, the one that was used longest ago makes room. An id is a name, not a
credential: somebody else's snapshot does not exist for them.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gateway.core.calls import Principal
from gateway.core.policy.state import PolicyState
from gateway.errors import ClientError, TooManySessions
from gateway.runtime.places import Places
from gateway.runtime.sessions import Session
from gateway.sandbox.contract import Snapshot

__all__ = ["KeptSnapshot", "Origin", "SnapshotElsewhere", "Snapshots", "UnknownSnapshot"]


class UnknownSnapshot(ClientError):
    """No such snapshot for this principal and pack: it never was, made room for others, or went."""

    status = 404
    word = "unknown_snapshot"

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(
            f"no snapshot {snapshot_id[:64]!r}: it goes with the session that took it, or makes room for"
            " newer ones; take another"
        )


class SnapshotElsewhere(ClientError):
    """Another worker has the snapshot, and the session is here; `query` leads a new connection to it."""

    status = 409
    word = "snapshot_elsewhere"

    def __init__(self, snapshot_id: str) -> None:
        self.query = f"snapshot={snapshot_id}"
        super().__init__(
            f"another worker of this gateway has snapshot {snapshot_id!r}: reset without a session id, or"
            f" over a new connection to /ws?{self.query}"
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a snapshot was taken: in which trajectory, at which of its steps."""

    trajectory: str
    step: int


@dataclass(slots=True, eq=False)
class KeptSnapshot:
    """One kept workspace. `task` and `seed` are those of the episode it was taken in.

    `past` is what the policy knew then: what starts from the files starts from that as well, or it would
    hold what a label was about without the label.
    """

    id: str
    files: Snapshot
    past: PolicyState
    pack: str
    principal: Principal
    session: str
    task: str | None
    seed: int
    origin: Origin
    place: int | None = None
    users: int = 0
    dropped: bool = False


class Snapshots:
    """The snapshots of one gateway; `most` is how many one principal may have.

    Each has one of the `places`, by which the other workers know where it is.
    """

    def __init__(self, most: int, places: Places) -> None:
        self._most = most
        self._places = places
        self._kept: dict[str, KeptSnapshot] = {}  # the one used longest ago first

    async def take(self, session: Session, *, task: str | None, seed: int, origin: Origin) -> KeptSnapshot:
        """Keep a session's workspace as it is now; another of its principal may have to go.

        Raises `SandboxError`.
        """
        files = await session.workspace.snapshot()
        kept = KeptSnapshot(
            id="snap_" + secrets.token_hex(12),
            files=files,
            past=session.machine.branch(),
            pack=session.pack.name,
            principal=session.principal,
            session=session.id,
            task=task,
            seed=seed,
            origin=origin,
        )
        await self._keep(kept)
        return kept

    async def _keep(self, kept: KeptSnapshot) -> None:
        own = [other for other in self._kept.values() if other.principal.name == kept.principal.name]
        self._kept[kept.id] = kept
        with suppress(TooManySessions):  # then it is found by its own worker only
            kept.place = self._places.claim(kept.id)[1]
        for other in own[: max(0, len(own) + 1 - self._most)]:
            await self._drop(other)

    @asynccontextmanager
    async def held(self, snapshot_id: str, pack: str, principal: Principal) -> AsyncGenerator[KeptSnapshot]:
        """Hold a snapshot while something starts from it; raises as `find` does."""
        kept = self.find(snapshot_id, pack, principal)
        self._kept[kept.id] = self._kept.pop(kept.id)
        kept.users += 1
        try:
            yield kept
        finally:
            kept.users -= 1
            if kept.dropped:
                await self._drop(kept)

    def find(self, snapshot_id: str, pack: str, principal: Principal) -> KeptSnapshot:
        """Return a principal's own snapshot of a pack; raises `UnknownSnapshot` or `SnapshotElsewhere`."""
        kept = self._kept.get(snapshot_id)
        if kept is None and self._places.holder(snapshot_id) is not None:
            raise SnapshotElsewhere(snapshot_id)
        if kept is None or kept.pack != pack or kept.principal != principal:
            raise UnknownSnapshot(snapshot_id)
        return kept

    async def drop_where(self, gone: Callable[[KeptSnapshot], bool]) -> None:
        """Let go of every snapshot that `gone` says is to go."""
        for kept in [kept for kept in self._kept.values() if gone(kept)]:
            await self._drop(kept)

    async def _drop(self, kept: KeptSnapshot) -> None:
        if self._kept.pop(kept.id, None) is not None and kept.place is not None:
            self._places.free(kept.place)
        kept.dropped = True
        if not kept.users:
            await kept.files.aclose()
