"""`sandgate policy diff`: what changes from one policy file to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import FormatOption
from gateway.cli.output import Format, say, show
from gateway.cli.recordings import PackOption, facts_for, load_recording

if TYPE_CHECKING:
    from gateway.core.policy import Policy
    from gateway.core.policy.diff import CallDiff

__all__ = ["diff"]

LogOption = Annotated[
    Path | None,
    typer.Option("--log", metavar="DIR", help="Judge the calls recorded in this audit folder under both."),
]


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The policy file as it was.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The policy file as it is to be.")],
    log: LogOption = None,
    pack: PackOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Say which recorded calls change effect; without --log, what the two files say differently.

    Exits with 1 if anything changes.
    """
    from gateway.core.policy.diff import diff_files

    before, after = _load(old), _load(new)
    found = diff_files(before, after) if log is None else _on_calls(before, after, log, pack)
    show(form, found.wire(), "\n".join(found.lines()))
    if found.changed:
        raise typer.Exit(1)


def _on_calls(old: Policy, new: Policy, log: Path, pack: str | None) -> CallDiff:
    from gateway.core.policy import compile_policy
    from gateway.core.policy.diff import diff_calls
    from gateway.core.policy.rejudging import blind_rules

    for policy in (old, new):
        if rules := blind_rules(policy):
            named = ", ".join(rules)
            say(f"{policy.file}: a log keeps no prompts and results, so 'from' finds nothing: {named}")
    recording = load_recording(log)
    facts = facts_for(recording, pack)
    before, after = (compile_policy(policy, facts, verify=False) for policy in (old, new))
    return diff_calls(before, after, recording, facts)


def _load(file: Path) -> Policy:
    from gateway.cli.files import read_text
    from gateway.core.policy import load_policy

    return load_policy(read_text(file), str(file))
