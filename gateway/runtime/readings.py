"""What can be read of a gateway while it runs, for `/metrics` and `/api`. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.runtime.egress import EgressDesk
from gateway.runtime.lease_pool import LeasePool
from gateway.runtime.leases import Lease
from gateway.runtime.ledger import Ledger
from gateway.runtime.sessions import Session, SessionTable
from gateway.runtime.tally import CommitTally, EgressTally

__all__ = ["Readings"]


@dataclass(frozen=True, slots=True)
class Readings:
    """Looks at the parts of one gateway. Made by it."""

    _sessions: SessionTable
    _pool: LeasePool
    _ledger: Ledger
    _egress: EgressDesk

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are open now."""
        return list(self._sessions)

    @property
    def warm(self) -> Mapping[str, int]:
        """How many sessions' servers stand ready, by pack."""
        return self._pool.ready_of_packs()

    @property
    def warm_leases(self) -> list[tuple[str, Lease]]:
        """The leases that stand ready, each with its pack."""
        return self._pool.ready_leases()

    @property
    def ledger_healthy(self) -> bool:
        """Whether records can be written."""
        return self._ledger.healthy

    @property
    def commits(self) -> CommitTally:
        """What the ledger's commits came to."""
        return self._ledger.commits

    @property
    def audit_folder(self) -> Path | None:
        """Where the records are, `None` if they are not on disk."""
        return self._ledger.folder

    @property
    def egress(self) -> EgressTally:
        """What became of the connections that sandboxes asked for."""
        return self._egress.tally
