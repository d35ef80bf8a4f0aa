"""The Task API, served for real."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.env_serving import env_server, people

GOOD = {
    "id": "be-good",
    "split": "test",
    "index": 0,
    "prompt": "Call echo once, without being denied anything.",
    "seed": 0,
}


@asynccontextmanager
async def serving(tmp_path: Path, **more: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    async with (
        env_server(tmp_path, **more) as server,
        httpx2.AsyncClient(base_url=server.url, timeout=20) as http,
    ):
        yield http


@pytest.mark.parametrize("prefix", ["", "/packs/echo"])
async def test_tasks_are_told_by_split_and_index_without_their_rubric(tmp_path: Path, prefix: str) -> None:
    async with serving(tmp_path) as http:
        assert (await http.get(f"{prefix}/list_environments")).json() == ["echo"]
        splits = (await http.get(f"{prefix}/echo/splits")).json()
        assert splits == [{"name": "test", "type": "test"}, {"name": "train", "type": "train"}]
        env, split = f"{prefix}/Echo", {"split": "test"}
        told = (await http.post(f"{env}/tasks", json=split)).json()
        assert told == {"tasks": [GOOD], "env_name": "echo"}
        assert (await http.post(f"{env}/num_tasks", json=split)).json() == {"num_tasks": 1}
        assert (await http.post(f"{env}/task", json={**split, "index": 0})).json() == {"task": GOOD}
        for bounds in ({}, {"start": 0}, {"stop": 1}, {"start": 0, "stop": None}):
            assert (await http.post(f"{env}/task_range", json=split | bounds)).json() == {"tasks": [GOOD]}
        assert (await http.post(f"{env}/task_range", json=split | {"start": 1})).json() == {"tasks": []}


async def test_a_task_of_the_listing_is_what_a_reset_to_it_starts(tmp_path: Path) -> None:
    async with serving(tmp_path) as http:
        told = (await http.post("/echo/task", json={"split": "train", "index": 0})).json()["task"]
        start = (await http.post("/reset", json={"split": "train", "index": told["index"]})).json()
        assert start["observation"]["task"] == told["id"]
        assert start["observation"]["prompt"] == told["prompt"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nope/tasks", {"split": "test"}, 404),
        ("/nope/task", {"split": "test", "index": 0}, 404),
        ("/echo/task", {"split": "test", "index": 1}, 400),
        ("/echo/task", {"split": "test", "index": -1}, 400),
        ("/echo/task", {"split": "nope", "index": 0}, 400),
        ("/echo/task_range", {"split": "test", "stop": 2}, 400),
        ("/echo/task_range", {"split": "test", "start": -1}, 400),
        ("/echo/task_range", {"split": "test", "start": 1, "stop": 0}, 400),
        ("/echo/task", {"split": "test", "index": "0"}, 422),
        ("/echo/task", {"split": "test"}, 422),
        ("/echo/tasks", {}, 422),
    ],
)
async def test_what_is_not_there_is_refused_readably(
    tmp_path: Path, path: str, body: dict[str, Any], status: int
) -> None:
    async with serving(tmp_path) as http:
        answer = await http.post(path, json=body)
        assert answer.status_code == status
        assert answer.json()["message"]


async def test_splits_of_an_unknown_environment_are_404(tmp_path: Path) -> None:
    async with serving(tmp_path) as http:
        unknown = await http.get("/nope/splits")
        assert (unknown.status_code, unknown.json()["error"]) == (404, "unknown_environment")


async def test_several_packs_are_several_environments_at_the_root(tmp_path: Path) -> None:
    async with serving(tmp_path, packs=("one", "two")) as http:
        assert (await http.get("/list_environments")).json() == ["one", "two"]
        assert (await http.post("/two/num_tasks", json={"split": "test"})).json() == {"num_tasks": 1}
        assert (await http.get("/packs/one/list_environments")).json() == ["one"]
        assert (await http.get("/packs/one/two/splits")).status_code == 404


async def test_agents_are_not_told(tmp_path: Path) -> None:
    async with serving(tmp_path, identity=people(bot="agent")) as http:
        answer = await http.get("/list_environments", headers={"Authorization": "Bearer bot"})
        assert answer.status_code == 403
