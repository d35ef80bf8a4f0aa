"""The batch endpoints, served for real: many episodes in one request, each its own affair."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.env_serving import TRAINING, EnvServer, env_server, people

ECHO = {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "hi"}}


@asynccontextmanager
async def serving(tmp_path: Path, **more: Any) -> AsyncGenerator[tuple[httpx2.AsyncClient, EnvServer]]:
    async with (
        env_server(tmp_path, **more) as server,
        httpx2.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        yield http, server


async def results(http: httpx2.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def write(name: str) -> dict[str, Any]:
    return {"type": "call_tool", "tool_name": "write", "arguments": {"path": "mine", "content": name}}


READ = {"type": "call_tool", "tool_name": "read", "arguments": {"path": "mine"}}


async def test_episodes_run_side_by_side_and_keep_their_order_and_files_apart(tmp_path: Path) -> None:
    wanted = [{"task": "fix-readme", "seed": 3}, {"task": "be-good"}, {"split": "train", "index": 0}]
    async with serving(tmp_path) as (http, _):
        started = await results(http, "/batch/reset", episodes=wanted)
        assert [entry["metadata"]["task"] for entry in started] == ["fix-readme", "be-good", "fix-readme"]
        assert (started[0]["metadata"]["seed"], started[0]["reward"], started[0]["done"]) == (3, None, False)
        ids = [entry["session_id"] for entry in started]
        assert len(set(ids)) == 3
        steps = [{"session_id": id, "action": write(id)} for id in ids]
        await results(http, "/batch/step", steps=steps)
        read = await results(
            http, "/packs/echo/batch/step", steps=[{"session_id": i, "action": READ} for i in ids]
        )
        assert [entry["observation"]["result"]["data"] for entry in read] == ids
        assert [entry["session_id"] for entry in read] == ids


async def test_a_bad_entry_is_an_error_in_its_place_and_harms_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, server):
        bad: list[Any] = [{"task": "no-such-task"}, {"task": "be-good"}, 7, {"seed": -1}, {"session_id": "x"}]
        started = await results(http, "/batch/reset", episodes=bad)
        codes = [entry.get("error", {}).get("code") for entry in started]
        assert codes == ["VALIDATION_ERROR", None, "VALIDATION_ERROR", "VALIDATION_ERROR", "EXECUTION_ERROR"]
        assert "there are: be-good" in started[0]["error"]["message"]
        assert server.gateway.readiness().detail["sessions"] == 1
        own = started[1]["session_id"]
        steps = [
            {"session_id": "nobody-s", "action": ECHO},
            {"session_id": own, "action": ECHO},
            {"session_id": own, "action": {"type": "dance"}},
            {"action": ECHO},
            {"session_id": own, "action": ECHO},
        ]
        taken = await results(http, "/batch/step", steps=steps)
        assert [entry.get("metadata", {}).get("step") for entry in taken] == [None, 1, None, None, 2]
        assert taken[0]["error"]["message"].startswith("no session")


async def test_an_entry_may_reset_its_session_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, server):
        [first] = await results(http, "/batch/reset", episodes=[{}])
        [second] = await results(http, "/batch/reset", episodes=[{"session_id": first["session_id"]}])
        assert second["session_id"] == first["session_id"]
        assert second["metadata"]["episode_id"] != first["metadata"]["episode_id"]
        assert server.gateway.readiness().detail["sessions"] == 1


async def test_what_goes_beyond_capacity_is_told_entry_by_entry(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=replace(TRAINING, max_sessions=2)) as (http, _):
        started = await results(http, "/batch/reset", episodes=[{}, {}, {}])
        assert [("error" in entry) for entry in started] == [False, False, True]
        assert started[2]["error"]["code"] == "CAPACITY_REACHED"


async def test_a_fault_of_ours_in_one_entry_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as (http, server):
        opened = server.gateway.open_session
        broken: list[bool] = [True]

        async def open_session(*args: Any, **more: Any) -> Any:
            if broken.pop() if broken else False:
                raise RuntimeError("the inside of the gateway")
            return await opened(*args, **more)

        monkeypatch.setattr(server.gateway, "open_session", open_session)
        started = await results(http, "/batch/reset", episodes=[{}, {}])
        assert started[0]["error"] == {"message": "internal error", "code": "SESSION_ERROR"}
        assert started[1]["done"] is False


OTHER_SHAPES: list[dict[str, Any]] = [{}, {"episodes": {}}, {"episodes": [{}] * 1001}]


@pytest.mark.parametrize("body", OTHER_SHAPES)
async def test_a_body_of_another_shape_is_refused_as_a_whole(tmp_path: Path, body: dict[str, Any]) -> None:
    async with serving(tmp_path) as (http, server):
        assert (await http.post("/batch/reset", json=body)).status_code == 422
        assert server.gateway.readiness().detail["sessions"] == 0


async def test_agents_have_no_batches(tmp_path: Path) -> None:
    async with serving(tmp_path, identity=people(bot="agent")) as (http, _):
        answer = await http.post(
            "/batch/reset", json={"episodes": []}, headers={"Authorization": "Bearer bot"}
        )
        assert answer.status_code == 403
