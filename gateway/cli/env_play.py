"""`sandgate env play`: a person steps an episode in the terminal, and sees what an agent would see.

A tool is called by its name or number: its arguments are asked for one by one, as its schema says.
`NAME {"json": …}` gives them at once. The words beside tools are below; where a tool has such a name,
a colon before the word means the word.

    tools  show TOOL  code [TEXT]  submit [ANSWER]  state  help  quit

Answers may come from a pipe; its end is `quit`. --format json prints at the end
{pack, task, seed, trajectory, steps: [{step, action, observation, reward, done, metadata}], reward, done}.
"""

from __future__ import annotations

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
    from gateway.core.json_types import JsonObject
    from gateway.core.task_choice import ResetRequest

__all__ = ["play"]

TaskOption = Annotated[str | None, typer.Option("--task", metavar="ID", help="The task [the first].")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="The seed [the task's].")]


def play(
    pack: PackArgument,
    task: TaskOption = None,
    seed: SeedOption = None,
    policy: PolicyOption = None,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Step an episode by hand: forms for the tools' arguments, and every decision shown."""
    from gateway.cli.wiring import make_plan
    from gateway.core.task_choice import ResetRequest

    flags = {"mode": "training", "policy": policy, "sandbox": sandbox, "state": state}
    plan = make_plan([pack], flags, config_file=config, not_isolated=not_isolated, beside=True)
    document = _played(plan, ResetRequest(task=task, seed=seed), form)
    if form is Format.JSON:
        show(form, document, "")


def _played(plan: Plan, wanted: ResetRequest, form: Format) -> JsonObject:
    """Play in this thread while the gateway runs in another: a person's thinking holds nobody up."""
    from anyio.from_thread import start_blocking_portal

    from gateway.cli.hand import Hand
    from gateway.cli.wiring import open_plan
    from gateway.core.calls import LOCAL
    from gateway.runtime.episodes import Episodes
    from gateway.runtime.playing import NotedTrajectory
    from gateway.runtime.trajectories import TrajectoryFolder

    folder = TrajectoryFolder(plan.config.state / "trajectories")
    noted = NotedTrajectory(folder)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_plan(plan, say)) as gateway,
    ):
        episodes = Episodes(gateway, cache_dir=plan.config.cache, trajectories=noted)
        name = next(iter(gateway.packs))
        with portal.wrap_async_context_manager(episodes.held(name, LOCAL, None)) as session:
            hand = Hand(portal, session, portal.call(session.reset, wanted), form)
            hand.play()
    path = str(folder.path(noted.name)) if noted.name else None
    return hand.document(name, path)
