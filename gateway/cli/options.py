"""The arguments and options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.cli.output import Format

__all__ = [
    "ConfigOption",
    "FormatOption",
    "LogFormatOption",
    "LogLevelOption",
    "NotIsolatedOption",
    "PackArgument",
    "PacksArgument",
    "PolicyOption",
    "SandboxOption",
    "StateOption",
]

PackArgument = Annotated[str, typer.Argument(metavar="PACK", help="A bundled toolpack's name, or a folder.")]
PacksArgument = Annotated[
    list[str], typer.Argument(metavar="PACK...", help="Bundled toolpacks' names, or folders.")
]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="Policy file, instead of the pack's own.")
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state", metavar="DIR", help="State folder with the audit log [$XDG_STATE_HOME/sandgate]."
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings [gateway.yaml, where there is one].")
]
SandboxOption = Annotated[
    str | None, typer.Option("--sandbox", metavar="DRIVER", help="What isolates tool servers [bubblewrap].")
]
NotIsolatedOption = Annotated[
    bool,
    typer.Option(
        "--i-know-this-is-not-isolated", help="Needed with --sandbox process, which isolates nothing."
    ),
]
LogFormatOption = Annotated[
    Literal["text", "json"] | None, typer.Option("--log-format", help="Lines for people, or JSON [text].")
]
LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option("--log-level", help="What is logged on stderr; info has a line for each call [warning]."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="text, or one JSON document on stdout.")]
