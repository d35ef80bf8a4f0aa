"""The tree of commands. Names only: what each does stands in the module of its group."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import approvals, audit, auth, calls, client, demo, doctor, env, policy, serving, toolpack

__all__ = ["app"]

app = typer.Typer(
    name="sandgate",
    help="The MCP tool-sandboxing gateway: policy on every argument, a sandbox around every server.",
    epilog="Exit codes: 0 fine; 1 what was asked about is false; 2 usage or configuration; 70 our own fault.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sandgate {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction] - typer keeps it
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version  # acted on by its callback


app.command()(demo.demo)
app.command()(serving.serve)
app.command()(serving.stdio)
app.command()(calls.tools)
app.command()(calls.call)
app.command()(doctor.doctor)
app.add_typer(policy.app, name="policy")
app.add_typer(toolpack.app, name="toolpack")
app.add_typer(audit.app, name="audit")
app.add_typer(auth.app, name="auth")
app.add_typer(approvals.app, name="approvals")
app.add_typer(client.app, name="client")
app.add_typer(env.app, name="env")
