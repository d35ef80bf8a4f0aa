"""The one way out of a sandbox: a door (a CONNECT proxy on a unix socket) for each, one gate for all.

A *gate* resolves a name, checks its addresses, has the decision recorded and connects to the very
address that it checked. A *door* is what one sandbox sees of it, a *way* what the gateway connects by to a
server elsewhere; a session's *account* holds its budget.
"""

from __future__ import annotations

from .account import Account
from .door import Door
from .gate import EgressGate, EgressRefused, EgressSettings, Recorder, Resolver
from .inside import EGRESS_SOCKET
from .way import Way

__all__ = [
    "EGRESS_SOCKET",
    "Account",
    "Door",
    "EgressGate",
    "EgressRefused",
    "EgressSettings",
    "Recorder",
    "Resolver",
    "Way",
]
