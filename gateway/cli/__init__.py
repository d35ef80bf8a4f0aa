"""The command line `sandgate`: the only place that prints.

A *command* reads its flags, calls the library and prints one answer; nothing is decided here. The
*plan* (`wiring.Plan`) is what a command line, checked, amounts to: settings and packs with their
policies, nothing started yet. `wiring.open_plan` is the one composition root: every command that
makes a call makes it through there. Modules import what costs time inside their commands, so
that `sandgate --help` answers at once.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; exits 0, 1 (what was asked about is false), 2 (usage) or 70 (our fault)."""
    from gateway.cli.app import app
    from gateway.cli.faults import run

    sys.exit(run(app))
