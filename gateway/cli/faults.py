"""Turns whatever a command raised into an exit code and a message; a user's fault never shows a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, cast

from gateway.cli.output import printable, say
from gateway.errors import ConfigError, SandgateError

__all__ = ["INTERNAL", "INTERRUPTED", "USAGE", "run"]

USAGE = 2
"""Exit code: usage, configuration, or a machine that lacks something. Nothing was started."""
INTERNAL = 70
"""Exit code: a fault of this program (EX_SOFTWARE)."""
INTERRUPTED = 130
"""Exit code: stopped by Ctrl-C."""


def run(command: Callable[[], Any]) -> int:
    """Run `command` and return the process's exit code."""
    try:
        command()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE if stop.code else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout left (`| head`): point it elsewhere so that the exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:  # noqa: BLE001 - the last place: everything becomes a message here
        return _report(error)
    return 0


def _report(error: BaseException) -> int:
    leaves = list(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return INTERRUPTED
    ours = [leaf for leaf in leaves if isinstance(leaf, SandgateError)]
    for fault in ours:
        # Located problems stand alone on their lines, as compilers write them and editors read them.
        if isinstance(fault, ConfigError):
            print(printable(str(fault)), file=sys.stderr)
        else:
            say(str(fault))
    return USAGE if ours else _internal(error, leaves)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group; a task group wraps even a single one."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _internal(error: BaseException, leaves: list[BaseException]) -> int:
    from gateway.config import default_state

    report = "".join(traceback.format_exception(error))
    first = leaves[0]
    what = f"a fault of sandgate itself, not yours: {type(first).__name__}: {first}"
    path = default_state() / "crash.log"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(report)
    except OSError:
        print(printable(report), file=sys.stderr)
        say(what)
    else:
        say(f"{what}; please report it with {path}")
    return INTERNAL
