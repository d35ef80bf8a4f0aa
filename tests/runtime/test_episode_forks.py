"""Snapshots for real: episodes that start where another one was, and whose snapshots those are."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.calls import LOCAL
from gateway.core.episode import CallTool, Code, Snapshot, Submit
from gateway.core.json_types import JsonObject
from gateway.core.task_choice import ResetRequest
from gateway.runtime.episodes import Episodes, EpisodeSession, EpisodeSettings
from gateway.runtime.gateway import GatewaySettings
from gateway.runtime.snapshots import UnknownSnapshot
from tests.support.gateways import served
from tests.support.process_table import descendants

POLICY = """
version: 1
rules:
  - {id: read, allow: echo.read}
  - {id: write, allow: echo.write, limit: {calls: 3}}
  - {id: talk, allow: echo.echo}
  - {id: told, allow: echo.structured, args: {value: {from: [tool:echo.read]}}}
  - {id: after-write, allow: echo.env, when: "session.calls['echo.write'] > 1"}
  - {id: tainted-are-silent, deny: echo.echo, if_labels: {any: [tainted]}}
labels:
  - {tool: echo.read, args: {path: {glob: "**/README.md"}}, adds: [tainted]}
"""


@asynccontextmanager
async def episodes(tmp_path: Path, policy: str | None = None, **more: Any) -> AsyncGenerator[Episodes]:
    async with served(tmp_path, policy=policy, settings=GatewaySettings(mode="training")) as gateway:
        yield Episodes(gateway, cache_dir=tmp_path / "cache", settings=EpisodeSettings(**more))


@asynccontextmanager
async def playing(tmp_path: Path, policy: str | None = None, **more: Any) -> AsyncGenerator[EpisodeSession]:
    async with episodes(tmp_path, policy, **more) as held, held.held("echo", LOCAL, None) as session:
        yield session


async def write(session: EpisodeSession, text: str) -> None:
    step = await session.step(CallTool("write", {"path": "note.txt", "content": text}))
    assert step.observation["error"] is None


async def note(session: EpisodeSession) -> Any:
    result: Any = (await session.step(CallTool("read", {"path": "note.txt"}))).observation["result"]
    return result["data"]


async def taken(session: EpisodeSession) -> tuple[str, Any]:
    step = await session.step(Snapshot())
    assert step.observation["error"] is None
    return str(step.observation["snapshot_id"]), step.metadata["workspace_digest"]


async def test_an_episode_starts_from_a_snapshot_as_often_as_one_likes(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        first = await session.reset(ResetRequest(task="fix-readme", seed=7))
        await write(session, "kept")
        await session.step(Code("gone = 1"))
        snapshot, digest = await taken(session)
        await write(session, "later")
        for _ in range(2):
            fork = await session.reset(ResetRequest(snapshot=snapshot))
            told = fork.metadata
            assert (told["task"], told["seed"], told["workspace_digest"]) == ("fix-readme", 7, digest)
            assert told["episode_id"] != first.metadata["episode_id"]
            assert isinstance(told["origin"], dict)
            assert told["origin"]["step"] == 3
            assert await note(session) == "kept"
            missing = await session.step(Code("gone"))
            assert isinstance(missing.observation["error"], dict)
            await write(session, "by the fork")
        assert (await session.reset()).metadata["workspace_digest"] == first.metadata["workspace_digest"]


async def decided(session: EpisodeSession, tool: str, **arguments: Any) -> str:
    """Call a tool and return the code of the decision."""
    policy: Any = (await session.step(CallTool(tool, arguments))).metadata["policy"]
    return str(policy["code"])


async def test_a_label_is_not_lost_by_going_on_from_a_snapshot(tmp_path: Path) -> None:
    async with playing(tmp_path, POLICY) as session:
        clean, _ = await taken(session)
        assert await decided(session, "echo", text="before") == "rule_allow"
        assert await decided(session, "read", path="README.md") == "rule_allow"
        assert await decided(session, "echo", text="after") == "label_deny"
        tainted, _ = await taken(session)
        for _ in range(2):
            await session.reset(ResetRequest(snapshot=tainted))
            assert await decided(session, "echo", text="after") == "label_deny"
        again, _ = await taken(session)
        await session.reset(ResetRequest(snapshot=again, task="be-good"))
        assert await decided(session, "echo", text="a fork's fork") == "label_deny"
        await session.reset(ResetRequest(snapshot=clean))
        assert await decided(session, "echo", text="its files are from before") == "rule_allow"
        await session.reset()
        assert await decided(session, "echo", text="nothing of it is left") == "rule_allow"


async def test_a_limit_goes_on_in_each_fork_and_in_no_fork_by_what_others_did(tmp_path: Path) -> None:
    one: dict[str, Any] = {"path": "note.txt", "content": "x"}
    async with playing(tmp_path, POLICY) as session:
        for _ in range(2):
            assert await decided(session, "write", **one) == "rule_allow"
        snapshot, _ = await taken(session)
        assert await decided(session, "write", **one) == "rule_allow"
        assert await decided(session, "write", **one) == "limit_exceeded"
        for _ in range(2):
            await session.reset(ResetRequest(snapshot=snapshot))
            assert await decided(session, "write", **one) == "rule_allow"
            assert await decided(session, "write", **one) == "limit_exceeded"


async def test_what_calls_were_made_and_what_they_showed_is_known_in_a_fork(tmp_path: Path) -> None:
    async with playing(tmp_path, POLICY) as session:
        for content in ("first", "it is 4711"):
            assert await decided(session, "write", path="note.txt", content=content) == "rule_allow"
        early, _ = await taken(session)
        assert await decided(session, "read", path="note.txt") == "rule_allow"
        late, _ = await taken(session)
        for snapshot, known in ((early, "no_match"), (late, "rule_allow")):
            await session.reset(ResetRequest(snapshot=snapshot))
            assert await decided(session, "structured", value=4711) == known
            assert await decided(session, "env", name="HOME") == "rule_allow"
        await session.reset()
        assert await decided(session, "env", name="HOME") == "no_match"


async def test_a_fork_may_play_another_task_and_is_scored_by_it(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="be-good"))
        fixed: JsonObject = {"path": "README.md", "content": "The echo pack's workspace.\n"}
        await session.step(CallTool("write", fixed))
        snapshot, _ = await taken(session)
        start = await session.reset(ResetRequest(snapshot=snapshot, task="fix-readme", seed=3))
        assert (start.metadata["task"], start.metadata["seed"]) == ("fix-readme", 3)
        assert (await session.step(Submit("done"))).reward == 1.0


async def test_any_session_of_the_principal_may_fork_and_nobody_elses(tmp_path: Path) -> None:
    mallory = replace(LOCAL, name="mallory")
    async with episodes(tmp_path) as held, held.held("echo", LOCAL, None) as one:
        await write(one, "shared")
        snapshot, _ = await taken(one)
        async with held.held("echo", LOCAL, None) as other, held.held("echo", mallory, None) as stranger:
            await other.reset(ResetRequest(snapshot=snapshot))
            assert await note(other) == "shared"
            await stranger.reset(ResetRequest(episode_id="mine"))
            with pytest.raises(UnknownSnapshot):
                await stranger.reset(ResetRequest(snapshot=snapshot))
            assert (await stranger.state())["episode_id"] == "mine"


async def test_a_snapshot_goes_with_the_session_that_took_it(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held:
        async with held.held("echo", LOCAL, None) as one:
            await write(one, "x")
            snapshot, _ = await taken(one)
        async with held.held("echo", LOCAL, None) as other:
            with pytest.raises(UnknownSnapshot, match="take another"):
                await other.reset(ResetRequest(snapshot=snapshot))


async def test_the_snapshot_used_longest_ago_makes_room(tmp_path: Path) -> None:
    async with playing(tmp_path, snapshots=2) as session:
        first, _ = await taken(session)
        second, _ = await taken(session)
        await session.reset(ResetRequest(snapshot=first))
        third, _ = await taken(session)
        for kept in (first, third):
            assert (await session.reset(ResetRequest(snapshot=kept))).done is False
        with pytest.raises(UnknownSnapshot):
            await session.reset(ResetRequest(snapshot=second))


async def test_a_workspace_nested_beyond_reading_is_told_and_the_episode_goes_on(tmp_path: Path) -> None:
    nest = "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\nos.chdir('/workspace')"
    async with playing(tmp_path) as session:
        await session.step(Code(nest))
        step = await session.step(Snapshot())
        assert step.observation["snapshot_id"] is None
        error = step.observation["error"]
        assert isinstance(error, dict)
        assert "nested" in str(error["message"])
        state: Any = await session.state()
        assert state["metadata"]["workspace_digest"] is None
        assert (await session.step(CallTool("echo", {"text": "on"}))).observation["error"] is None


async def test_code_and_snapshots_leave_no_descriptor_and_no_process_behind(tmp_path: Path) -> None:
    async def play(held: Episodes) -> None:
        async with held.held("echo", LOCAL, None) as session:
            await session.step(Code("import subprocess; subprocess.Popen(['sleep', '60']); echo('x')"))
            snapshot, _ = await taken(session)
            await session.step(Code("import os; os._exit(1)"))
            await session.reset(ResetRequest(snapshot=snapshot))
            await session.step(Code("while True: pass"), 0.1)

    async with episodes(tmp_path) as held:
        await play(held)
        before, below = len(list(Path("/proc/self/fd").iterdir())), len(descendants(os.getpid()))
        for _ in range(4):
            await play(held)
        with anyio.move_on_after(5):
            while len(descendants(os.getpid())) > below:  # noqa: ASYNC110 - the kernel tells nobody
                await anyio.sleep(0.02)
        assert len(descendants(os.getpid())) <= below
        assert len(list(Path("/proc/self/fd").iterdir())) <= before
