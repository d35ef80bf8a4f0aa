"""The HTTP routes of the environment contract, served for real."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import httpx2
import jsonschema_rs
import pytest

from gateway.runtime.gateway import GatewaySettings
from gateway.serve.gate import GateLimits
from tests.support.env_serving import TRAINING, EnvServer, env_server, people

ORCHESTRATION_PATHS = (
    "/reset",
    "/step",
    "/state",
    "/ws",
    "/batch/reset",
    "/batch/step",
    "/list_environments",
    "/echo/splits",
    "/echo/tasks",
)
ECHO = {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "hi"}}


@asynccontextmanager
async def serving(tmp_path: Path, **more: Any) -> AsyncGenerator[tuple[httpx2.AsyncClient, EnvServer]]:
    async with env_server(tmp_path, **more) as server, client(server) as http:
        yield http, server


def client(server: EnvServer, token: str | None = None) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(base_url=server.url, timeout=20, headers=headers)


async def reset(http: httpx2.AsyncClient, **wanted: Any) -> tuple[str, dict[str, Any]]:
    answer = await http.post("/reset", json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-session-id"], answer.json()


# -- what the environment says of itself


async def test_health_metadata_and_schema_answer_at_the_root_and_under_the_pack(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, _):
        for prefix in ("", "/packs/echo"):
            assert (await http.get(f"{prefix}/health")).json() == {"status": "healthy"}
            told = (await http.get(f"{prefix}/metadata")).json()
            assert told["name"] == "echo"
            assert told["description"].startswith("A tiny server for tests")
            assert told["version"] == "1.0.0"
            schema = (await http.get(f"{prefix}/schema")).json()
            assert schema["action"]["title"] == "CallToolAction"
            for part in ("action", "observation", "reset_observation", "state"):
                jsonschema_rs.validator_for(schema[part])


@pytest.mark.parametrize(("mode", "playable"), [("training", True), ("deployment", False)])
async def test_the_openapi_document_lists_episodes_exactly_where_they_can_be_played(
    tmp_path: Path, mode: Any, playable: bool
) -> None:
    async with serving(tmp_path, settings=GatewaySettings(mode=mode)) as (http, _):
        for prefix in ("", "/packs/echo"):
            told = (await http.get(f"{prefix}/openapi.json")).json()
            assert told["info"]["title"] == "echo"
            assert told["info"]["version"].startswith("1.")
            assert told["servers"] == [{"url": prefix or "/"}]
            for path in ("/reset", "/step", "/state", "/batch/reset", "/batch/step", "/{env}/task"):
                assert (path in told["paths"]) is playable
            assert {"/health", "/metadata", "/schema", "/mcp"} <= told["paths"].keys()
            for path in ("metadata", "schema", "health"):
                assert (await http.get(f"{prefix}/{path}")).status_code == 200


async def test_every_reference_in_the_openapi_document_leads_somewhere(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, _):
        text = (await http.get("/openapi.json")).text
    parts = json.loads(text)["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert named <= parts.keys()


async def test_with_two_packs_the_root_describes_none_of_them(tmp_path: Path) -> None:
    async with serving(tmp_path, packs=("one", "two")) as (http, _):
        assert (await http.get("/openapi.json")).status_code == 404
        assert (await http.get("/packs/two/openapi.json")).json()["info"]["title"] == "two"


async def test_everything_that_is_observed_fits_the_told_schemas(tmp_path: Path) -> None:
    actions: list[dict[str, Any]] = [
        {"type": "list_tools"},
        ECHO,
        {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "forbidden"}},
        {"type": "call_tool", "tool_name": "structured", "arguments": {"value": 3}},
        {"type": "call_tool", "tool_name": "nope"},
        {"type": "submit", "answer": "done"},
    ]
    async with serving(tmp_path) as (http, _):
        schema = (await http.get("/schema")).json()
        observation = jsonschema_rs.validator_for(schema["observation"])
        action = jsonschema_rs.validator_for(schema["action"])
        session_id, start = await reset(http)
        observation.validate(start["observation"])
        headers = {"X-Session-ID": session_id}
        for wanted in actions:
            action.validate(wanted)
            answer = (await http.post("/step", json={"action": wanted}, headers=headers)).json()
            observation.validate(answer["observation"])
        state = (await http.get("/state", headers=headers)).json()
        jsonschema_rs.validator_for(schema["state"]).validate(state)
        assert not action.is_valid({"type": "call_tool"})


# -- episodes over HTTP


async def test_an_episode_is_played_by_header_and_by_field(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, _):
        session_id, start = await reset(http, task="fix-readme", episode_id="mine", seed=3)
        assert start["metadata"]["session_id"] == session_id
        assert (start["reward"], start["done"]) == (None, False)
        assert start["observation"]["prompt"].startswith("Fix the typo")
        headers = {"X-Session-ID": session_id}
        echoed = (await http.post("/step", json={"action": ECHO}, headers=headers)).json()
        assert echoed["observation"]["result"]["data"] == "hi"
        again = (await http.post("/step", json={"action": ECHO, "session_id": session_id})).json()
        assert again["metadata"]["step"] == 2
        assert (await http.get("/state", params={"session_id": session_id})).json()["step_count"] == 2
        end = (await http.post("/step", json={"action": {"type": "submit"}}, headers=headers)).json()
        assert (end["done"], end["reward"], end["metadata"]["done_reason"]) == (True, 0.0, "submitted")
        over = await http.post("/step", json={"action": ECHO}, headers=headers)
        assert over.status_code == 409
        assert "reset" in over.json()["message"]


async def test_a_reset_with_a_session_id_starts_the_next_episode_of_that_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, server):
        session_id, first = await reset(http)
        headers = {"X-Session-ID": session_id}
        await http.post("/step", json={"action": ECHO}, headers=headers)
        answer = await http.post("/reset", headers=headers)
        assert answer.headers["x-session-id"] == session_id
        second = answer.json()
        assert second["metadata"]["episode_id"] != first["metadata"]["episode_id"]
        assert second["metadata"]["workspace_digest"] == first["metadata"]["workspace_digest"]
        assert server.gateway.readiness().detail["sessions"] == 1


async def test_without_a_session_a_step_is_a_one_shot_that_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, server):
        for _ in range(2):
            answer = await http.post("/step", json={"action": ECHO})
            assert answer.json()["metadata"]["step"] == 1
            assert "x-session-id" not in answer.headers
        assert (await http.get("/state")).json() == {"episode_id": None, "step_count": 0}
        assert server.gateway.readiness().detail["sessions"] == 0


async def test_a_step_over_http_may_bring_its_own_deadline(tmp_path: Path) -> None:
    sleep = {"type": "call_tool", "tool_name": "sleep", "arguments": {"seconds": 30}}
    async with serving(tmp_path) as (http, _):
        answer = (await http.post("/step", json={"action": sleep, "timeout_s": 0.5})).json()
        assert answer["observation"]["error"]["error_type"] == "timeout"


# -- what is refused


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/step", b"{}", 422),
        ("/step", b'{"action": {"type": "code", "code": 1}}', 422),
        ("/step", b'{"action": {"tool_name": "echo"}, "session_id": 7}', 422),
        ("/step", b"", 422),
        ("/step", b"[]", 422),
        ("/reset", b"null", 422),
        ("/reset", b'{"seed": -1}', 422),
        ("/reset", b'{"task": "no-such-task"}', 400),
        ("/reset", b'{"split": "train", "index": 9}', 400),
        ("/reset", b'{"seed": NaN}', 400),
        ("/reset", b'{"seed": 1, "seed": 2}', 400),
        ("/step", b'{"action": {"tool_name": "echo"}, "session_id": "nobody-s"}', 404),
        ("/reset", b'{"session_id": "nobody-s"}', 404),
    ],
)
async def test_what_does_not_fit_is_refused_readably_and_opens_nothing(
    tmp_path: Path, path: str, body: bytes, status: int
) -> None:
    async with serving(tmp_path) as (http, server):
        answer = await http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        told = answer.json()
        assert {"error", "message", "detail"} <= told.keys()
        assert server.gateway.readiness().detail["sessions"] == 0


async def test_a_body_that_is_no_json_or_too_large_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=GateLimits(max_body=1000)) as (http, _):
        form = await http.post("/reset", content=b"seed=1", headers={"Content-Type": "text/plain"})
        assert form.status_code == 415
        huge = await http.post(
            "/step", json={"action": {"tool_name": "echo", "arguments": {"text": "x" * 2000}}}
        )
        assert huge.status_code == 413
        assert huge.json()["error"] == "body_too_large"
        assert huge.json()["detail"] == huge.json()["message"] == "the body is larger than 1000 bytes"


def send_giant(url: str) -> tuple[int, Any]:
    """POST as clients do that send all they have before they listen."""
    host = urlsplit(url)
    sending = HTTPConnection(host.hostname or "", host.port, timeout=60)
    with closing(sending):
        sending.request("POST", "/reset", bytes(100_000_000), {"Content-Type": "application/json"})
        answer = sending.getresponse()
        return answer.status, json.loads(answer.read())


async def test_who_sends_far_too_much_gets_to_read_why(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        status, told = await anyio.to_thread.run_sync(send_giant, server.url)
        assert (status, told["error"]) == (413, "body_too_large")


async def test_two_session_ids_in_one_request_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, _):
        session_id, _start = await reset(http)
        body = {"action": ECHO, "session_id": "another"}
        answer = await http.post("/step", json=body, headers={"X-Session-ID": session_id})
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/reset"), ("GET", "/step"), ("POST", "/state"), ("DELETE", "/reset")]
)
async def test_other_methods_are_405(tmp_path: Path, method: str, path: str) -> None:
    async with serving(tmp_path) as (http, _):
        assert (await http.request(method, path)).status_code == 405


async def test_a_full_gateway_says_when_to_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=replace(TRAINING, max_sessions=1)) as (http, _):
        await reset(http)
        refused = await http.post("/reset")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "1 sessions" in refused.json()["message"]


# -- whose it is, and where it is at all


async def test_somebody_elses_session_does_not_exist(tmp_path: Path) -> None:
    identity = people(alice="orchestrator", mallory="orchestrator")
    async with (
        env_server(tmp_path, identity=identity) as server,
        client(server, "alice") as alice,
        client(server, "mallory") as mallory,
    ):
        session_id, _start = await reset(alice)
        headers = {"X-Session-ID": session_id}
        for attempt in (
            mallory.post("/step", json={"action": ECHO}, headers=headers),
            mallory.post("/reset", headers=headers),
            mallory.get("/state", headers=headers),
        ):
            assert (await attempt).status_code == 404
        assert (await alice.get("/state", headers=headers)).json()["step_count"] == 0


async def test_an_agent_may_not_reset_step_or_look(tmp_path: Path) -> None:
    async with env_server(tmp_path, identity=people(bot="agent")) as server, client(server, "bot") as bot:
        for answer in (
            await bot.post("/reset"),
            await bot.post("/step", json={"action": ECHO}),
            await bot.get("/state"),
        ):
            assert answer.status_code == 403
        assert server.gateway.readiness().detail["sessions"] == 0


@pytest.mark.parametrize("prefix", ["", "/packs/echo"])
async def test_deployment_has_none_of_it_by_any_route(tmp_path: Path, prefix: str) -> None:
    async with serving(tmp_path, settings=GatewaySettings(mode="deployment")) as (http, server):
        for path in ORCHESTRATION_PATHS:
            for method in ("GET", "POST"):
                assert (await http.request(method, prefix + path)).status_code == 404
        assert server.gateway.readiness().detail["sessions"] == 0


async def test_deployment_with_orchestration_has_it_for_that_role_alone(tmp_path: Path) -> None:
    settings = GatewaySettings(mode="deployment")
    identity = people(trainer="orchestrator", bot="agent")
    async with (
        env_server(tmp_path, identity=identity, settings=settings, orchestration=True) as server,
        client(server, "trainer") as trainer,
        client(server, "bot") as bot,
    ):
        assert (await reset(trainer))[1]["done"] is False
        assert (await bot.post("/reset")).status_code == 403


async def test_with_two_packs_each_has_its_own_routes_and_the_root_has_none(tmp_path: Path) -> None:
    async with serving(tmp_path, packs=("one", "two")) as (http, _):
        assert (await http.post("/reset")).status_code == 404
        assert (await http.get("/packs/two/metadata")).json()["name"] == "two"
        answer = await http.post("/packs/one/reset")
        headers = {"X-Session-ID": answer.headers["x-session-id"]}
        assert (await http.get("/packs/one/state", headers=headers)).status_code == 200
        assert (await http.get("/packs/two/state", headers=headers)).status_code == 404


async def test_big_integers_survive_the_way_there_and_back(tmp_path: Path) -> None:
    number = 2**70 + 1
    action = {"type": "call_tool", "tool_name": "structured", "arguments": {"value": number}}
    async with serving(tmp_path) as (http, _):
        answer = await http.post("/step", json={"action": action})
        assert json.loads(answer.content)["observation"]["result"]["data"] == {"value": number}
