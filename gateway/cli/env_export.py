"""`sandgate env export`: recorded episodes as JSON Lines that trainers read, one episode a line.

What a line holds is said by `gateway.training.export`. An episode that cannot be read is told on stderr and
left out; the others are written all the same, and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from gateway.cli.output import say
from gateway.errors import UsageError

__all__ = ["export"]


class Reader(StrEnum):
    """Who will read it."""

    TRL = "trl"
    OPENAI = "openai"


SourcesArgument = Annotated[
    list[Path], typer.Argument(metavar="STATE|FILE...", help="State folders, or trajectories.")
]


def export(
    sources: SourcesArgument,
    reader: Annotated[Reader, typer.Option("--for", help="Whose form of messages.")] = Reader.TRL,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write there, not to stdout.")
    ] = None,
    least: Annotated[
        float | None,
        typer.Option("--min-reward", metavar="REWARD", help="Only episodes scored with at least this."),
    ] = None,
) -> None:
    """Write recorded episodes as JSON Lines for training: messages with tool calls, and rewards."""
    from gateway.core.strict_json import dumps
    from gateway.training.export import export_files, trajectories_in

    files = [file for source in sources for file in trajectories_in(source)]
    if out is not None and out.resolve() in {file.resolve() for file in files}:
        raise UsageError(f"--out {out}: that is one of the trajectories: give another file")
    written = broken = 0
    with _opened(out) as lines:
        for file in files:
            try:
                [episode] = export_files([file], reader.value)
            except UsageError as error:
                say(f"left out: {error}")
                broken += 1
                continue
            reward = episode["reward"]
            if least is None or (isinstance(reward, float) and reward >= least):
                lines.write(dumps(episode).decode() + "\n")
                written += 1
    say(f"{written} of {len(files)} episodes written" + (f", {broken} cannot be read" if broken else ""))
    if broken:
        raise typer.Exit(1)


@contextmanager
def _opened(out: Path | None) -> Generator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    try:
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from None
    with file:
        yield file
