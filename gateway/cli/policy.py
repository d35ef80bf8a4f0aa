"""`sandgate policy`: is a policy file right, does it do what its tests say, and why does it decide so."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(help="Policy files: check, test, explain.", no_args_is_help=True, rich_markup_mode=None)
