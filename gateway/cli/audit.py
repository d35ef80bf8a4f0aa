"""`sandgate audit`: is the ledger whole, and what does it say."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import FormatOption
from gateway.cli.output import Format, printable, say, show

if TYPE_CHECKING:
    from gateway.core.json_types import JsonObject
    from gateway.runtime.audit import AuditReport, ChainReport

__all__ = ["app", "record_line", "summary"]

app = typer.Typer(help="The audit log: verify, query, export.", no_args_is_help=True, rich_markup_mode=None)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A state folder, or the audit folder in it.")
]


@app.command()
def verify(folder: FolderArgument, form: FormatOption = Format.TEXT) -> None:
    """Check every record and the chain over all of them. Exits with 1 if anything is missing or changed."""
    from gateway.runtime import audit

    report = audit.verify(folder)
    document = asdict(report) | {
        "problems": [str(problem) for problem in report.problems],
        "notes": [str(note) for note in report.notes],
    }
    each = [_of_chain(chain) for chain in report.chains] if len(report.chains) > 1 else []
    show(form, document, "\n".join([summary(report), *each, *document["problems"], *document["notes"]]))
    if not report.ok:
        raise typer.Exit(1)


SessionOption = Annotated[str | None, typer.Option(metavar="ID", help="Only this session's records.")]
ToolOption = Annotated[str | None, typer.Option(metavar="NAME", help="Only calls of this tool.")]
EffectOption = Annotated[
    str | None, typer.Option(metavar="EFFECT", help="Only calls decided so: allow, deny or ask.")
]


@app.command()
def query(
    folder: FolderArgument,
    session: SessionOption = None,
    tool: ToolOption = None,
    effect: EffectOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Print records, oldest first."""
    from gateway.runtime import audit

    records = audit.query(folder, session=session, tool=tool, effect=effect)
    if form is Format.JSON:
        show(form, list(records), "")
        return
    for record in records:
        print(printable(record_line(record)))


@app.command()
def export(
    folder: FolderArgument,
    session: SessionOption = None,
    tool: ToolOption = None,
    effect: EffectOption = None,
) -> None:
    """Print whole records as JSON Lines, oldest first. Exits with 1 if the chain over all does not hold."""
    from gateway.core.strict_json import dumps
    from gateway.runtime import audit

    for record in audit.query(folder, session=session, tool=tool, effect=effect):
        print(dumps(record).decode())
    report = audit.verify(folder)
    if not report.ok:
        say(f"{summary(report)}: see 'sandgate audit verify {folder}'")
        raise typer.Exit(1)


def summary(report: AuditReport) -> str:
    """Return a verification's result as a line for people."""
    if len(report.chains) > 1:
        verdict = "all chains hold" if report.ok else "a chain is BROKEN"
    else:
        verdict = "the chain holds" if report.ok else "the chain is BROKEN"
    calls = f"{report.decisions} decisions, {report.outcomes} outcomes, {report.open_calls} calls open"
    return f"{verdict}: {report.records} records in {report.files} files ({calls})"


def _of_chain(chain: ChainReport) -> str:
    verdict = "holds" if chain.ok else "is BROKEN"
    return f"  {chain.folder} {verdict}: {chain.records} records in {chain.files} files"


def record_line(record: JsonObject) -> str:
    """Return one record as a line for people."""
    decision, outcome = record.get("decision"), record.get("outcome")
    said = ""
    if isinstance(decision, dict):
        by = f" by {decision['rule']}" if decision.get("rule") else ""
        said = f"{decision.get('effect')}{by} [{decision.get('code')}]"
    if isinstance(outcome, dict):
        said = f"{outcome.get('kind')} in {outcome.get('ms')} ms"
    what = f"{record.get('front') or '-':<4} {record.get('pack') or '-'} {_about(record)}"
    return f"{record.get('seq'):>6} {record.get('event')!s:<16} {what}  {said}".rstrip()


def _about(record: JsonObject) -> object:
    """Return the tool, or what a sandbox asked to connect to."""
    egress = record.get("egress")
    if isinstance(egress, dict):
        return f"{record.get('server')} -> {egress.get('asked')}"
    return record.get("tool") or "-"
