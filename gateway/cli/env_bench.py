"""`sandgate env bench`: how long resets and steps of a pack take here, without a network between.

--format json prints {pack, task, episodes, sessions, seconds, steps, steps_per_second, reset_ms,
first_step_ms, step_ms, end_ms}, the last four each {p50, p95, max} or null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import (
    ConfigOption,
    FormatOption,
    NotIsolatedOption,
    PackArgument,
    PolicyOption,
    SandboxOption,
    StateOption,
)
from gateway.cli.output import Format, say, show

if TYPE_CHECKING:
    from gateway.cli.wiring import Plan
    from gateway.core.episode import Action
    from gateway.core.json_types import JsonObject
    from gateway.core.task_choice import ResetRequest
    from gateway.runtime.benching import Measured

__all__ = ["bench"]

_LISTINGS = 20
"""Steps of an episode where no actions are given."""


def bench(
    pack: PackArgument,
    actions: Annotated[
        Path | None,
        typer.Option("--actions", metavar="FILE", help="Play these: JSON Lines, one each [tool listings]."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="ID", help="The task [the first].")] = None,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many.")] = 20,
    sessions: Annotated[int, typer.Option("--sessions", min=1, help="How many at a time.")] = 1,
    policy: PolicyOption = None,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Measure resets and steps: sandbox, policy and ledger on, as in training."""
    import anyio

    from gateway.cli.action_files import actions_of, lines_of
    from gateway.cli.files import read_text
    from gateway.cli.wiring import make_plan
    from gateway.core.episode import ListTools
    from gateway.core.task_choice import ResetRequest

    played: list[Action] = [ListTools()] * _LISTINGS
    if actions is not None:
        played = actions_of(lines_of(read_text(actions), str(actions)), str(actions))
    flags = {"mode": "training", "policy": policy, "sandbox": sandbox, "state": state}
    plan = make_plan([pack], flags, config_file=config, not_isolated=not_isolated, warm=True, beside=True)
    measured = anyio.run(_bench, plan, ResetRequest(task=task), played, episodes, sessions)
    document = _document(plan.packs[0][0].name, task, episodes, sessions, measured)
    show(form, document, _text(document))


async def _bench(
    plan: Plan, wanted: ResetRequest, actions: Sequence[Action], episodes: int, sessions: int
) -> Measured:
    from gateway.cli.wiring import open_plan
    from gateway.runtime.benching import bench as measure

    async with open_plan(plan, say) as gateway:
        return await measure(
            gateway, wanted, actions, episodes=episodes, sessions=sessions, cache_dir=plan.config.cache
        )


def _document(pack: str, task: str | None, episodes: int, sessions: int, measured: Measured) -> JsonObject:
    steps = len(measured.first_steps) + len(measured.steps) + len(measured.ends)
    return {
        "pack": pack,
        "task": task,
        "episodes": episodes,
        "sessions": sessions,
        "seconds": round(measured.seconds, 3),
        "steps": steps,
        "steps_per_second": round(steps / measured.seconds, 1) if measured.seconds else None,
        "reset_ms": _spread(measured.resets),
        "first_step_ms": _spread(measured.first_steps),
        "step_ms": _spread(measured.steps),
        "end_ms": _spread(measured.ends),
    }


def _spread(seconds: Sequence[float]) -> JsonObject | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * part))] for name, part in _PARTS.items()}
    return {name: round(value * 1000, 3) for name, value in at.items()}


_PARTS = {"p50": 0.5, "p95": 0.95, "max": 1.0}


def _text(document: JsonObject) -> str:
    lines = [f"{'':<12}{'p50':>10}{'p95':>10}{'max':>10}  ms"]
    for name in ("reset_ms", "first_step_ms", "step_ms", "end_ms"):
        spread = document[name]
        if isinstance(spread, dict):
            shown = "".join(f"{value:>10.3f}" for value in spread.values() if isinstance(value, float))
            lines.append(f"{name.removesuffix('_ms').replace('_', ' '):<12}{shown}")
    lines.append(
        f"{document['steps']} steps of {document['episodes']} episodes, {document['sessions']} at a time, in "
        f"{document['seconds']} s: {document['steps_per_second']}/s"
    )
    return "\n".join(lines)
