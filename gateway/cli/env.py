"""`sandgate env run`: an episode from a file of actions, or a recorded one once more and compared.

    --actions FILE  JSON Lines, an action each: {"type": "call_tool", "tool_name": "…", "arguments": {}}
                    -> {pack, task, seed, trajectory, steps: [{step, action, observation, reward, done,
                        metadata}], unused, reward, done}
    --replay FILE   a trajectory
                    -> {steps, differences: [{step, field, recorded, now}],
                        policy_changes: [{step, tool, before, after}]}

A replay plays under the policy the episode was recorded with where that is at hand. `before` and `after`
are effects: without --policy those of the recorded call and of the one made now, with it those of the
two policies judging the recorded calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.action_files import actions_of, lines_of
from gateway.cli.env_bench import bench
from gateway.cli.env_export import export
from gateway.cli.env_play import play
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
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.cli.wiring import Plan
    from gateway.core.episode import Action, StepResult
    from gateway.core.json_types import JsonObject
    from gateway.core.policy import CompiledPolicy
    from gateway.core.replay import Difference, RecordedEpisode
    from gateway.core.replay_policy import PolicyChange
    from gateway.core.task_choice import ResetRequest
    from gateway.runtime.playing import Leg, Played
    from gateway.runtime.trajectories import TrajectoryFolder

__all__ = ["app"]

app = typer.Typer(name="env", help="Play episodes from the terminal.", no_args_is_help=True)
app.command()(play)
app.command()(export)
app.command()(bench)

ActionsOption = Annotated[
    Path | None, typer.Option("--actions", metavar="FILE", help="Play these actions: JSON Lines, one each.")
]
ReplayOption = Annotated[
    Path | None, typer.Option("--replay", metavar="FILE", help="Play this trajectory again and compare.")
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="ID", help="The task, with --actions [the first].")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="The seed, with --actions [the task's].")
]


@app.command()
def run(
    pack: PackArgument,
    actions: ActionsOption = None,
    replay: ReplayOption = None,
    task: TaskOption = None,
    seed: SeedOption = None,
    policy: PolicyOption = None,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Play an episode in training mode: --actions FILE, or --replay FILE to compare with a recording.

    A replay exits with 1 if anything came out otherwise, or if --policy changes a decision.
    """
    from gateway.cli.wiring import make_plan

    if (actions is None) == (replay is None):
        raise UsageError("give --actions FILE or --replay FILE, one of them")
    if replay is not None and (task is not None or seed is not None):
        raise UsageError("a replay has task and seed from the trajectory: leave out --task and --seed")
    own = policy if actions is not None else None
    flags = {"mode": "training", "policy": own, "sandbox": sandbox, "state": state}
    plan = make_plan([pack], flags, config_file=config, not_isolated=not_isolated, beside=True)
    if actions is not None:
        _run_actions(plan, actions, task, seed, form)
    elif replay is not None:
        _run_replay(plan, replay, policy, form)


# -- from a file of actions


def _run_actions(plan: Plan, file: Path, task: str | None, seed: int | None, form: Format) -> None:
    from gateway.cli.files import read_text
    from gateway.core.task_choice import ResetRequest
    from gateway.runtime.trajectories import TrajectoryFolder

    written = lines_of(read_text(file), str(file))
    actions = actions_of(written, str(file))
    folder = TrajectoryFolder(plan.config.state / "trajectories")
    played = _played(plan, ResetRequest(task=task, seed=seed), actions, folder)
    last = played.steps[-1] if played.steps else played.start
    document = {
        "pack": played.pack.name,
        "task": played.start.metadata["task"],
        "seed": played.start.metadata["seed"],
        "trajectory": str(folder.path(played.trajectory)) if played.trajectory else None,
        "steps": [
            {"step": number, "action": action, **result.wire()}
            for number, ((_, action), result) in enumerate(zip(written, played.steps, strict=False), 1)
        ],
        "unused": len(written) - len(played.steps),
        "reward": last.reward,
        "done": last.done,
    }
    show(form, document, "\n".join(_told(played, len(written))))


def _told(played: Played, written: int) -> list[str]:
    lines = [f"task {played.start.metadata['task']}, seed {played.start.metadata['seed']}"]
    lines += [f"{number:>3}  {_step_line(step)}" for number, step in enumerate(played.steps, 1)]
    if written > len(played.steps):
        lines.append(f"{written - len(played.steps)} actions are left: the episode is over")
    return lines


def _step_line(step: StepResult) -> str:
    error = step.observation.get("error")
    said = f"{_done_by(step.observation)}: {error.get('message') if isinstance(error, dict) else 'ok'}"
    reward = "" if step.reward is None else f"  reward {step.reward:g}"
    return f"{said}{reward}  done: {step.metadata.get('done_reason')}" if step.done else f"{said}{reward}"


def _done_by(observation: JsonObject) -> str:
    """Return what a step did, as its observation shows it."""
    match observation:
        case {"tool_name": str() as tool}:
            return tool
        case {"calls": list() as calls}:
            return f"code, {len(calls)} calls"
        case {"snapshot_id": snapshot}:
            return f"snapshot {snapshot or 'failed'}"
        case _:
            return "no call"


# -- from a trajectory


def _run_replay(plan: Plan, file: Path, policy: Path | None, form: Format) -> None:
    from gateway.cli.files import read_text
    from gateway.cli.policies import policies_of
    from gateway.core.replay import all_differences, read_trajectory

    recorded = read_trajectory(read_text(file), str(file))
    (pack, own), *_ = plan.packs
    if recorded.pack != pack.name:
        raise UsageError(f"{file} was recorded with pack {recorded.pack!r}, not {pack.name!r}")
    new = policies_of([pack], policy)[0][1] if policy else None
    judging = _as_recorded(recorded, own, new)
    played = _played_again(replace(plan, packs=((pack, judging),)), recorded, file)
    if recorded.lock_sha256 not in (None, played.pack.lock_sha256):
        say("the episode was recorded with another tools.lock.json: its tools may answer otherwise for that")
    now = [step.wire() for step in played.steps]
    found = all_differences(recorded, now)
    changes = _changes(recorded, played, now, judging, new)
    _report(form, len(now), found, changes)


def _as_recorded(
    recorded: RecordedEpisode, own: CompiledPolicy, new: CompiledPolicy | None
) -> CompiledPolicy:
    """Return the policy the episode was recorded under, if it is one of these; else the pack's."""
    for policy in [own, *([new] if new else [])]:
        if policy.sha256 == recorded.policy_sha256:
            return policy
    say("the episode was recorded under another policy than the pack's: decisions may differ for that")
    return own


def _played_again(plan: Plan, recorded: RecordedEpisode, file: Path) -> Played:
    from gateway.cli.origins import episodes_before

    before = [_leg(episode, str(file)) for episode in episodes_before(recorded, file)]
    again = _leg(recorded, str(file))
    return _played(plan, again.wanted, again.actions, None, before)


def _leg(recorded: RecordedEpisode, file: str) -> Leg:
    from gateway.core.task_choice import ResetRequest
    from gateway.runtime.playing import Leg

    actions = actions_of([(step.number, step.action) for step in recorded.steps], file)
    return Leg(ResetRequest(task=recorded.task, seed=recorded.seed), actions)


def _changes(
    recorded: RecordedEpisode,
    played: Played,
    now: Sequence[JsonObject],
    judging: CompiledPolicy,
    new: CompiledPolicy | None,
) -> list[PolicyChange]:
    from gateway.cli.policies import facts_of
    from gateway.core.policy import PackFacts
    from gateway.core.replay_policy import changes_by_policy, changes_when_played

    if new is None:
        return changes_when_played(recorded, now)
    facts = facts_of([played.pack.pack]) or PackFacts()
    return changes_by_policy(judging, new, recorded, played.pack.catalog.tools, facts)


def _report(form: Format, steps: int, found: Sequence[Difference], changes: Sequence[PolicyChange]) -> None:
    """Show what a replay found, the first difference in words; exits with 1 if anything."""
    from gateway.core.strict_json import dumps

    lines = [f"{steps} steps, {len(found)} differences, {len(changes)} decisions changed"]
    for first in found[:1]:
        lines.append(f"first at step {first.step}: {first.field}")
        lines += [f"  was {dumps(first.recorded).decode()}", f"  is  {dumps(first.now).decode()}"]
    lines += [f"step {c.step} {c.tool}: {c.before} -> {c.after}" for c in changes]
    document = {
        "steps": steps,
        "differences": [difference.wire() for difference in found],
        "policy_changes": [change.wire() for change in changes],
    }
    show(form, document, "\n".join(lines))
    if found or changes:
        raise typer.Exit(1)


# -- both


def _played(
    plan: Plan,
    wanted: ResetRequest,
    actions: Sequence[Action],
    folder: TrajectoryFolder | None,
    before: Sequence[Leg] = (),
) -> Played:
    import anyio

    return anyio.run(_play, plan, wanted, actions, folder, before)


async def _play(
    plan: Plan,
    wanted: ResetRequest,
    actions: Sequence[Action],
    folder: TrajectoryFolder | None,
    before: Sequence[Leg],
) -> Played:
    from gateway.cli.wiring import open_plan
    from gateway.runtime.playing import play

    async with open_plan(plan, say) as gateway:
        return await play(gateway, wanted, actions, cache_dir=plan.config.cache, writer=folder, before=before)
