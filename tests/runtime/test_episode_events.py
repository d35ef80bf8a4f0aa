"""A task's events for real: the workspace changes between steps, through nothing an agent left in the way."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.core.calls import LOCAL
from gateway.core.episode import CallTool, Code, ListTools, Snapshot, StepResult, Submit
from gateway.core.task_choice import ResetRequest
from gateway.runtime.episodes import Episodes, EpisodeSession
from gateway.runtime.gateway import GatewaySettings
from gateway.runtime.trajectories import TrajectoryFolder
from gateway.sandbox.process import ProcessDriver
from tests.support.gateways import copy_pack, served

TASK = """
id: news
split: train
prompt: "Read what comes in (${seed})."
rubric: [{check: {answer_equals: "secret ${seed}"}}]
events:
"""


@asynccontextmanager
async def playing(tmp_path: Path, *events: str) -> AsyncGenerator[EpisodeSession]:
    folder = copy_pack("echo", tmp_path).folder
    text = TASK + "".join(f"  - {event}\n" for event in events)
    (folder / "tasks" / "news.yaml").write_text(text)
    async with served(tmp_path, settings=GatewaySettings(mode="training")) as gateway:
        writer = TrajectoryFolder(tmp_path / "trajectories")
        held = Episodes(gateway, cache_dir=tmp_path / "cache", trajectories=writer)
        async with held.held("echo", LOCAL, None) as session:
            await session.reset(ResetRequest(task="news", seed=5))
            yield session


async def read(session: EpisodeSession, path: str) -> Any:
    result: Any = (await session.step(CallTool("read", {"path": path}))).observation["result"]
    return "no such file" if result["is_error"] else result["data"]


def happened(step: StepResult) -> list[tuple[Any, ...]]:
    events: Any = step.metadata.get("events", [])
    return [(e["event"], e["kind"], e["path"], e["applied"]) for e in events]


async def test_events_happen_before_the_step_they_name(tmp_path: Path) -> None:
    async with playing(
        tmp_path,
        '{at_step: 2, write: {path: inbox/a.txt, text: "for ${seed}"}}',
        '{at_step: 3, append: {path: inbox/a.txt, text: "!"}}',
        "{at_step: 3, append: {path: new.txt, text: n}}",
        "{at_step: 4, delete: inbox}",
        "{at_step: 4, copy: {from: fixtures/start/docs, to: docs2}}",
        "{at_step: 4, copy: {from: fixtures/start/README.md, to: README2.md}}",
    ) as session:
        assert await read(session, "inbox/a.txt") == "no such file"
        assert await read(session, "inbox/a.txt") == "for 5"
        step = await session.step(CallTool("read", {"path": "inbox/a.txt"}))
        assert happened(step) == [(2, "append", "inbox/a.txt", True), (3, "append", "new.txt", True)]
        assert "for 5!" in json.dumps(step.observation)
        assert await read(session, "inbox/a.txt") == "no such file"
        assert (await read(session, "docs2/kept.txt"), await read(session, "new.txt")) == ("kept\n", "n")
        end = await session.step(Submit("secret 5"))
        assert end.reward == 1.0


async def test_code_events_and_forks_work_on_a_machine_that_isolates_nothing(tmp_path: Path) -> None:
    folder = copy_pack("echo", tmp_path).folder
    (folder / "tasks" / "news.yaml").write_text(
        TASK + "  - {at_step: 2, copy: {from: fixtures/start/docs/kept.txt, to: a/b.txt}}\n"
    )
    training = GatewaySettings(mode="training")
    async with served(tmp_path, settings=training, sandbox=ProcessDriver()) as gateway:
        held = Episodes(gateway, cache_dir=tmp_path / "cache")
        async with held.held("echo", LOCAL, None) as session:
            await session.reset(ResetRequest(task="news", seed=5))
            wrote = await session.step(Code("open('c.txt', 'w').write(echo(text='x')); open('c.txt').read()"))
            assert wrote.observation["result"] == "x"
            assert (await session.step(Code("open('a/b.txt').read()"))).observation["result"] == "kept\n"
            snapshot = (await session.step(Snapshot())).observation["snapshot_id"]
            await session.reset(ResetRequest(snapshot=str(snapshot)))
            assert (await session.step(Code("open('c.txt').read()"))).observation["result"] == "x"


async def test_an_event_follows_the_first_answer_of_its_tool_once(tmp_path: Path) -> None:
    async with playing(tmp_path, "{after_tool: echo, append: {path: log.txt, text: x}}") as session:
        await session.step(ListTools())
        await session.step(CallTool("echo", {"text": "forbidden"}))
        assert await read(session, "log.txt") == "no such file"
        await session.step(Code("echo('hi')"))
        assert await read(session, "log.txt") == "x"
        await session.step(CallTool("echo", {"text": "again"}))
        assert await read(session, "log.txt") == "x"


async def test_events_are_in_the_ledger_and_in_the_trajectory(tmp_path: Path) -> None:
    async with playing(tmp_path, "{at_step: 1, write: {path: a, text: b}}") as session:
        step = await session.step(ListTools())
        assert happened(step) == [(1, "write", "a", True)]
    files = (tmp_path / "state" / "audit").glob("*.jsonl")
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    (change,) = [record for record in records if record["event"] == "change"]
    assert (change["step"], change["session"], change["principal"]) == (1, session.id, "local")
    told = {"event": 1, "kind": "write", "path": "a", "applied": True, "reason": ""}
    assert change["change"] == told
    (line,) = next((tmp_path / "trajectories").iterdir()).read_text().splitlines()
    assert json.loads(line)["metadata"]["events"] == [told]


MISCHIEF = """
import os
os.symlink("README.md", "file-link")
os.symlink("docs", "folder-link")
os.mkfifo("pipe")
os.mkdir("in-the-way")
os.symlink("/etc", "out")
"""


async def test_no_link_pipe_or_folder_leads_a_change_astray(tmp_path: Path) -> None:
    async with playing(
        tmp_path,
        "{at_step: 2, write: {path: file-link, text: written}}",
        "{at_step: 2, append: {path: folder-link/kept.txt, text: written}}",
        "{at_step: 2, append: {path: pipe, text: written}}",
        "{at_step: 2, write: {path: in-the-way, text: written}}",
        "{at_step: 2, write: {path: out/passwd, text: written}}",
        "{at_step: 2, delete: folder-link}",
        "{at_step: 2, write: {path: fine.txt, text: written}}",
    ) as session:
        assert (await session.step(Code(MISCHIEF))).observation["error"] is None
        applied = [entry[-1] for entry in happened(await session.step(ListTools()))]
        assert applied == [True, False, False, False, False, True, True]
        assert "written" not in await read(session, "README.md")
        assert await read(session, "file-link") == "written"
        assert await read(session, "docs/kept.txt") == "kept\n"
