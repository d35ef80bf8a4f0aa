"""Trajectories as training data: real episodes, exported, are the conversations that took place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UsageError
from gateway.training import AsyncEnv
from gateway.training.export import export_episode, export_files, trajectories_in
from tests.support.env_serving import env_server
from tests.support.terminal import sandgate


async def recorded(tmp_path: Path) -> Path:
    """Play an episode with a call, a denial, code, a listing and an answer; return its file."""
    async with env_server(tmp_path) as server, AsyncEnv(server.url) as env:
        await env.reset(task="fix-readme", seed=5)
        await env.tools()
        await env.call("echo", {"text": "hi"})
        await env.call("write", {"path": "/workspace/.env", "content": "x"})
        await env.step({"type": "code", "code": "echo(text='from code')"})
        await env.submit("done")
        await env.reset(task="be-good")
        await env.call("crash")
    [played] = [file for file in trajectories_in(tmp_path) if len(file.read_text().splitlines()) == 5]
    return played


async def test_an_episode_is_a_conversation_with_its_tools_and_what_it_was_worth(tmp_path: Path) -> None:
    file = await recorded(tmp_path)
    [row] = export_files([file])
    user, call, answer, refused, denial, coded, seen, end = rows_of(row["messages"])
    assert user == {"role": "user", "content": "Fix the typo in README.md and say done."}
    function = {"name": "echo", "arguments": {"text": "hi"}}
    asked = [{"type": "function", "function": function}]
    assert call == {"role": "assistant", "content": "", "tool_calls": asked}
    assert answer == {"role": "tool", "name": "echo", "content": "hi"}
    assert refused["tool_calls"][0]["function"]["arguments"]["path"] == "/workspace/.env"
    assert denial["name"] == "write"
    assert "secret files are never in scope" in denial["content"]
    assert coded["tool_calls"][0]["function"]["name"] == "code"
    assert json.loads(seen["content"])["result"] == "from code"
    assert end == {"role": "assistant", "content": "done"}
    assert row["step_rewards"] == [None, None, -0.25, None, 0.25]
    assert row["reward"] == pytest.approx(0.25 - 0.25)
    assert (row["done_reason"], row["truncated"], row["denials"]) == ("submitted", False, 1)
    assert (row["pack"], row["task"], row["seed"], row["trajectory"]) == ("echo", "fix-readme", 5, file.name)
    tools = {tool["function"]["name"]: tool["function"] for tool in rows_of(row["tools"])}
    assert {"echo", "write", "submit", "code"} <= tools.keys()
    assert "hidden" not in tools
    assert tools["write"]["parameters"]["required"] == ["path", "content"]


async def test_the_other_style_names_every_call_and_writes_arguments_as_text(tmp_path: Path) -> None:
    file = await recorded(tmp_path)
    [row] = export_files([file], "openai")
    _, call, answer, *_ = rows_of(row["messages"])
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"text": "hi"}
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"] == "call_2"


async def test_what_the_infrastructure_ended_has_no_reward_and_a_floor_leaves_it_out(tmp_path: Path) -> None:
    played = await recorded(tmp_path)
    rows = [export_episode(file.read_text(), str(file)) for file in trajectories_in(tmp_path)]
    crashed = next(row for row in rows if row["task"] == "be-good")
    assert (crashed["reward"], crashed["truncated"], crashed["done_reason"]) == (None, True, "server_failed")
    everything, scored = tmp_path / "all.jsonl", tmp_path / "scored.jsonl"
    assert sandgate("env", "export", str(tmp_path), "--out", str(everything)).code == 0
    assert sandgate("env", "export", str(tmp_path), "--out", str(scored), "--min-reward", "-1").code == 0
    assert len(everything.read_text().splitlines()) == 2
    assert [json.loads(line)["trajectory"] for line in scored.read_text().splitlines()] == [played.name]


async def test_an_episode_that_cannot_be_read_is_told_and_harms_no_other(tmp_path: Path) -> None:
    file = await recorded(tmp_path)
    lines = file.read_text().splitlines()
    (file.parent / "torn.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])
    (file.parent / "gap.jsonl").write_text(lines[0] + "\n" + lines[2] + "\n")
    ran = sandgate("env", "export", str(tmp_path))
    assert ran.code == 1
    assert len(ran.out.splitlines()) == 2
    assert "torn.jsonl:3:" in ran.err
    assert "gap.jsonl: steps are missing" in ran.err
    assert "2 of 4 episodes written, 2 cannot be read" in ran.err


async def test_a_trajectory_is_never_written_over(tmp_path: Path) -> None:
    file = await recorded(tmp_path)
    before = file.read_text()
    ran = sandgate("env", "export", str(tmp_path), "--out", str(file))
    assert (ran.code, "one of the trajectories" in ran.err) == (2, True)
    assert file.read_text() == before


def test_a_folder_without_trajectories_is_told_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="state folder of training mode"):
        trajectories_in(tmp_path)
    assert sandgate("env", "export", str(tmp_path)).code == 2


def rows_of(value: Any) -> list[dict[str, Any]]:
    return value
