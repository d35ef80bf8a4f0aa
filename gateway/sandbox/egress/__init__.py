"""The one way out of a sandbox: a door (a CONNECT proxy on a unix socket) for each, one gate for all.

A *gate* resolves a name, checks its addresses, has the decision recorded and connects to the very
address that it checked. A *door* is what one sandbox sees of it; a session's *account* holds its budget.
"""

from __future__ import annotations

from .door import Account, Door
from .gate import EgressGate, EgressRefused, EgressSettings, Recorder, Resolver
from .inside import EGRESS_SOCKET

__all__ = [
    "EGRESS_SOCKET",
    "Account",
    "Door",
    "EgressGate",
    "EgressRefused",
    "EgressSettings",
    "Recorder",
    "Resolver",
]
