"""MCP towards one tool server, whatever its era: JSON-RPC by hand, for the bytes of a hostile server.

A *conversation* (`Upstream`) is with one server, from its *opening* to its end. Its *transport* takes and
brings messages, as much as its *hearing* allows. An *exchange* is one request in flight; `requests` keeps
them, each under its call's *deadline*. What the server says and asks of its own accord is *incoming*: a
*note* or an *ask*, *relayed* to the client of a call, if it has one. An exchange whose questions another
call will answer is *parked*; a server that asks by its results (*inputs*) is answered by sending its
request anew.
"""

from __future__ import annotations

from .conversation import Upstream, UpstreamSettings
from .exchange import UpstreamFailure
from .incoming import Announced

__all__ = ["Announced", "Upstream", "UpstreamFailure", "UpstreamSettings"]
