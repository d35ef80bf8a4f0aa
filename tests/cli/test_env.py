"""`sandgate env run`, as a user runs it: actions from a file, and recorded episodes once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from gateway.core.calls import LOCAL
from gateway.core.episode import CallTool, Snapshot
from gateway.core.task_choice import ResetRequest
from gateway.runtime.episodes import Episodes
from gateway.runtime.gateway import GatewaySettings
from gateway.runtime.trajectories import TrajectoryFolder
from tests.support.gateways import copy_pack, served
from tests.support.processes import run_sandgate

ACTIONS: list[dict[str, Any]] = [
    {"type": "list_tools"},
    {"tool_name": "echo", "arguments": {"text": "hi"}},
    {"tool_name": "echo", "arguments": {"text": "forbidden"}},
    {"tool_name": "write", "arguments": {"path": "README.md", "content": "The"}},
    {"tool_name": "no_such_tool"},
    {"type": "submit", "answer": "done"},
]


def written(tmp_path: Path, *actions: Any) -> Path:
    file = tmp_path / "actions.jsonl"
    file.write_text("".join(json.dumps(action) + "\n" for action in actions))
    return file


def env_run(tmp_path: Path, *args: str) -> tuple[int, dict[str, Any]]:
    pack = str(copy_pack("echo", tmp_path).folder)
    done = run_sandgate("env", "run", pack, *args, "--state", str(tmp_path / "state"), "--format", "json")
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def record(tmp_path: Path, *actions: Any) -> dict[str, Any]:
    code, told = env_run(
        tmp_path, "--actions", str(written(tmp_path, *actions)), "--task", "fix-readme", "--seed", "4"
    )
    assert code == 0
    return told


def policy_with(tmp_path: Path, old: str, new: str) -> Path:
    text = (tmp_path / "packs" / "echo" / "policy.yaml").read_text()
    assert old in text
    file = tmp_path / "new.yaml"
    file.write_text(text.replace(old, new))
    return file


def test_a_file_of_actions_is_played_to_its_reward(tmp_path: Path) -> None:
    told = record(tmp_path, *ACTIONS, {"type": "list_tools"})
    assert (told["pack"], told["task"], told["seed"]) == ("echo", "fix-readme", 4)
    assert (told["reward"], told["done"], told["unused"]) == (1.0, True, 1)
    assert [step["reward"] for step in told["steps"]] == [None, None, -0.25, None, None, 1.0]
    assert told["steps"][1]["observation"]["result"]["data"] == "hi"
    assert len(Path(told["trajectory"]).read_text().splitlines()) == 6


def test_a_replay_reports_no_difference_and_a_policy_exactly_the_steps_it_changes(tmp_path: Path) -> None:
    trajectory = record(tmp_path, *ACTIONS)["trajectory"]
    code, told = env_run(tmp_path, "--replay", trajectory)
    assert (code, told) == (0, {"steps": 6, "differences": [], "policy_changes": []})
    new = policy_with(tmp_path, '"*forbidden*"', '"hi"')
    code, told = env_run(tmp_path, "--replay", trajectory, "--policy", str(new))
    assert (code, told["steps"], told["differences"]) == (1, 6, [])
    assert told["policy_changes"] == [
        {"step": 2, "tool": "echo", "before": "allow", "after": "deny"},
        {"step": 3, "tool": "echo", "before": "deny", "after": "allow"},
    ]


CODE = """
for word in ("hi", "forbidden"):
    try: print(echo(text=word))
    except ToolDenied as denied: print(denied.decision["rule"])
write(path="README.md", content="by code")
"""


def test_code_is_replayed_and_its_calls_are_held_against_a_policy(tmp_path: Path) -> None:
    trajectory = record(tmp_path, {"type": "code", "code": CODE}, {"type": "snapshot"})["trajectory"]
    code, told = env_run(tmp_path, "--replay", trajectory)
    assert (code, told) == (0, {"steps": 2, "differences": [], "policy_changes": []})
    new = policy_with(tmp_path, '"*forbidden*"', '"hi"')
    code, told = env_run(tmp_path, "--replay", trajectory, "--policy", str(new))
    assert told["policy_changes"] == [
        {"step": 1, "tool": "echo", "before": "allow", "after": "deny"},
        {"step": 1, "tool": "echo", "before": "deny", "after": "allow"},
    ]


async def forked(tmp_path: Path) -> tuple[Path, Path]:
    """Play an episode and one from its snapshot; return their trajectories."""
    folder = tmp_path / "trajectories"
    async with served(tmp_path, settings=GatewaySettings(mode="training")) as gateway:
        held = Episodes(gateway, cache_dir=tmp_path / "cache", trajectories=TrajectoryFolder(folder))
        async with held.held("echo", LOCAL, None) as session:
            await session.reset(ResetRequest(task="fix-readme", seed=4))
            await session.step(CallTool("write", {"path": "made.txt", "content": "before the fork"}))
            snapshot = (await session.step(Snapshot())).observation["snapshot_id"]
            (parent,) = folder.iterdir()
            await session.step(CallTool("write", {"path": "made.txt", "content": "after it"}))
            await session.reset(ResetRequest(snapshot=str(snapshot)))
            await session.step(CallTool("read", {"path": "made.txt"}))
    (fork,) = set(folder.iterdir()) - {parent}
    return parent, fork


async def test_a_fork_is_replayed_from_what_was_played_before_it(tmp_path: Path) -> None:
    parent, fork = await forked(tmp_path)
    assert "before the fork" in fork.read_text()
    code, told = await anyio.to_thread.run_sync(env_run, tmp_path, "--replay", str(fork))
    assert (code, told) == (0, {"steps": 1, "differences": [], "policy_changes": []})
    parent.unlink()
    pack = str(tmp_path / "packs" / "echo")
    done = await anyio.to_thread.run_sync(run_sandgate, "env", "run", pack, "--replay", str(fork))
    assert done.returncode == 2
    assert f"{parent.name}: put that file beside it" in done.stderr


def test_a_replay_of_a_pack_that_changed_names_step_and_field(tmp_path: Path) -> None:
    trajectory = record(tmp_path, ACTIONS[1], {"tool_name": "read", "arguments": {"path": "README.md"}})
    readme = tmp_path / "packs" / "echo" / "fixtures" / "start" / "README.md"
    readme.write_text("something else")
    code, told = env_run(tmp_path, "--replay", trajectory["trajectory"])
    assert code == 1
    assert [(entry["step"], entry["field"]) for entry in told["differences"]] == [(2, "observation")]
    assert told["differences"][0]["now"]["result"]["data"] == "something else"
    assert told["policy_changes"] == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--actions FILE or --replay FILE"),
        (["--actions", "a", "--replay", "b"], "one of them"),
        (["--replay", "a", "--seed", "1"], "leave out"),
        (["--actions", "no-such-file"], "no-such-file"),
    ],
)
def test_a_mistaken_command_line_is_told_and_starts_nothing(
    tmp_path: Path, args: list[str], said: str
) -> None:
    done = run_sandgate("env", "run", "files", *args, "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "state").exists()


def test_an_action_that_does_not_fit_is_told_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, ACTIONS[0], {"type": "dance"})
    done = run_sandgate("env", "run", "files", "--actions", str(file), "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    assert f"{file}:2:" in done.stderr


def test_a_trajectory_of_another_pack_is_refused(tmp_path: Path) -> None:
    trajectory = record(tmp_path, ACTIONS[0])["trajectory"]
    done = run_sandgate("env", "run", "files", "--replay", trajectory, "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    assert "'echo'" in done.stderr
