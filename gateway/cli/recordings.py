"""Recorded calls and what is known of their toolpacks, for the commands that learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.core.policy import PackFacts
    from gateway.core.policy.recorded import Recording

__all__ = ["LogFolder", "PackOption", "facts_for", "load_recording"]

LogFolder = Annotated[
    Path, typer.Option("--log", metavar="DIR", help="The audit folder of a state folder, or that folder.")
]
PackOption = Annotated[
    str | None,
    typer.Option("--pack", metavar="PACK", help="The toolpack of the calls [the one they name, if bundled]."),
]


def load_recording(folder: Path) -> Recording:
    """Return the recorded calls of a ledger whose argument values it holds; raises `UsageError` if none."""
    from gateway.cli.output import say
    from gateway.core.policy.recorded import read_recording
    from gateway.runtime import audit

    recording = read_recording(audit.query(folder))
    if recording.calls:
        if recording.hidden:
            say(f"{folder}: {recording.hidden} calls have no argument values and are left out")
        return recording
    if not recording.hidden:
        raise UsageError(f"{folder}: no recorded calls: let agents work through the gateway first")
    raise UsageError(
        f"{folder}: {recording.hidden} calls, and none with its argument values: record in training mode, "
        "or with `audit: {arguments: plain}` in the policy or in gateway.yaml"
    )


def facts_for(recording: Recording, pack: str | None) -> PackFacts:
    """Return what is known of the toolpacks of the calls: the one given, else the bundled ones they name."""
    from gateway.cli.output import say
    from gateway.cli.policies import facts_of
    from gateway.core.policy import PackFacts
    from gateway.runtime.packs import bundled_packs, load_pack

    named = sorted({call.pack for call in recording.calls})
    bundled = bundled_packs()
    names: Sequence[str] = [pack] if pack else [name for name in named if name in bundled]
    if not names:
        say(
            f"no toolpack is known for these calls ({', '.join(named)}), "
            "so '@path' and the like name nothing: give --pack"
        )
    return facts_of([load_pack(name, to_serve=False) for name in names]) or PackFacts()
