"""Commands run in this process, for those that start nothing: what came out, and the exit code."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from gateway.cli.app import app
from gateway.cli.faults import run

__all__ = ["Ran", "sandgate"]


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def sandgate(*args: str) -> Ran:
    """Run a command in this process; nothing of it outlives the call."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(lambda: app(list(args)))
    return Ran(code, out.getvalue(), err.getvalue())
