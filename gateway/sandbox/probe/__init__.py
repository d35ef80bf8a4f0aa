"""Proof that a driver isolates: attacks that run inside its own sandboxes. For `doctor` and the tests.

A *probe* is one line of the promise, an *attack* the code inside that tries to break it, a *bomb* an
attack that uses up a limited thing.
"""

from __future__ import annotations

from .run import PROBES, ProbeResult, run_probes

__all__ = ["PROBES", "ProbeResult", "run_probes"]
