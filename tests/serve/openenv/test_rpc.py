"""The JSON-RPC dialect of stock environment clients on `/mcp`, beside real MCP, served for real."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.runtime.audit import query
from gateway.runtime.gateway import GatewaySettings
from tests.support.env_serving import TRAINING, EnvServer, env_server, people
from tests.support.mcp_http import LEGACY, MODERN, RawMcp

DEPLOYMENT = GatewaySettings(mode="deployment")


class Caller:
    """Speaks the dialect over HTTP, as the stock client does: JSON and no header of MCP."""

    def __init__(self, http: httpx2.AsyncClient, path: str = "/mcp") -> None:
        self.http, self.path = http, path

    async def post(self, message: Any) -> httpx2.Response:
        return await self.http.post(self.path, json=message)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        answer = await self.post({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["jsonrpc"], told["id"]) == ("2.0", 7)
        return told

    async def create(self) -> str:
        return (await self.ask("openenv/session/create"))["result"]["session_id"]

    async def call(self, session_id: str, name: str, **arguments: Any) -> dict[str, Any]:
        return await self.ask("tools/call", session_id=session_id, name=name, arguments=arguments)


@asynccontextmanager
async def calling(tmp_path: Path, **more: Any) -> AsyncGenerator[tuple[Caller, EnvServer]]:
    async with env_server(tmp_path, **more) as server, client(server) as http:
        yield Caller(http), server


def client(server: EnvServer, token: str | None = None) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(base_url=server.url, timeout=20, headers=headers)


@pytest.mark.parametrize("path", ["/mcp", "/packs/echo/mcp"])
async def test_an_empty_object_is_answered_200_with_a_json_rpc_error(tmp_path: Path, path: str) -> None:
    async with calling(tmp_path) as (caller, _):
        answer = await caller.http.post(path, json={})
        assert answer.status_code == 200
        assert (answer.json()["jsonrpc"], answer.json()["id"]) == ("2.0", None)
        assert answer.json()["error"]["code"] == -32600


async def test_a_session_is_created_used_and_closed(tmp_path: Path) -> None:
    async with calling(tmp_path) as (caller, server):
        session_id = await caller.create()
        tools = (await caller.ask("tools/list", session_id=session_id))["result"]["tools"]
        assert {"echo", "write", "submit"} <= {tool["name"] for tool in tools}
        assert tools[0]["inputSchema"]["type"] == "object"
        result = (await caller.call(session_id, "echo", text="hi"))["result"]
        assert (result["data"], result["is_error"]) == ("hi", False)
        assert result["meta"]["sandgate/decision"]["effect"] == "allow"
        assert result["meta"]["sandgate/step"]["metadata"]["step"] == 1
        closed = await caller.ask("openenv/session/close", session_id=session_id)
        assert closed["result"] == {"session_id": session_id, "closed": True}
        assert server.gateway.readiness().detail["sessions"] == 0
        gone = await caller.ask("tools/list", session_id=session_id)
        assert gone["error"]["code"] == -32602


async def test_a_denied_call_is_a_result_that_says_why_and_counts_as_a_step(tmp_path: Path) -> None:
    async with calling(tmp_path) as (caller, _):
        session_id = await caller.create()
        result = (await caller.call(session_id, "echo", text="forbidden"))["result"]
        assert result["is_error"] is True
        assert "no-forbidden-words" in result["data"]
        assert result["meta"]["sandgate/decision"]["code"] == "rule_deny"
        assert result["meta"]["sandgate/step"]["reward"] == -0.25
        state = (await caller.http.get("/state", params={"session_id": session_id})).json()
        assert (state["step_count"], state["denials"]) == (1, 1)


async def test_a_tool_that_no_server_has_is_an_error_and_a_fault_of_the_tool_is_a_result(
    tmp_path: Path,
) -> None:
    async with calling(tmp_path) as (caller, _):
        session_id = await caller.create()
        unknown = await caller.call(session_id, "no_such_tool")
        assert unknown["error"]["code"] == -32602
        assert unknown["error"]["data"]["sandgate/decision"]["code"] == "unknown_tool"
        failed = (await caller.call(session_id, "fail", message="as asked"))["result"]
        assert (failed["is_error"], failed["data"]) == (True, "as asked")


async def test_a_call_takes_the_one_path_and_ends_with_the_episode(tmp_path: Path) -> None:
    async with calling(tmp_path) as (caller, _):
        session_id = await caller.create()
        await caller.call(session_id, "echo", text="hi")
        end = (await caller.call(session_id, "submit", answer="done"))["result"]
        assert end["meta"]["sandgate/step"]["done"] is True
        over = await caller.call(session_id, "echo", text="hi")
        assert over["error"]["code"] == -32000
        assert "reset" in over["error"]["message"]
    records = list(query(tmp_path / "state", session=session_id))
    assert [(r["event"], r["front"], r["tool"], r["step"]) for r in records] == [
        ("decision", "env", "echo", 1),
        ("outcome", "env", "echo", 1),
    ]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("openenv/dance", {}, -32601),
        ("openenv/session/close", {}, -32602),
        ("openenv/session/close", {"session_id": "nobody-s"}, -32602),
        ("tools/call", {"session_id": "nobody-s", "name": "echo"}, -32602),
        ("tools/list", {"session_id": 7}, -32602),
    ],
)
async def test_what_does_not_fit_is_a_json_rpc_error(
    tmp_path: Path, method: str, params: dict[str, Any], code: int
) -> None:
    async with calling(tmp_path) as (caller, server):
        assert (await caller.ask(method, **params))["error"]["code"] == code
        assert server.gateway.readiness().detail["sessions"] == 0


async def test_a_full_gateway_is_a_json_rpc_error_that_says_when_to_come_back(tmp_path: Path) -> None:
    async with calling(tmp_path, settings=replace(TRAINING, max_sessions=1)) as (caller, _):
        await caller.create()
        error = (await caller.ask("openenv/session/create"))["error"]
        assert (error["code"], error["data"]["retry_after"] > 0) == (-32000, True)


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_real_mcp_is_served_beside_it(tmp_path: Path, era: str) -> None:
    async with calling(tmp_path) as (caller, _):
        answer = await RawMcp(caller.http, "/mcp").call(era, "echo", text="hi")
        assert "hi" in answer.text


async def test_real_mcp_without_a_session_is_still_refused_as_mcp_refuses_it(tmp_path: Path) -> None:
    async with calling(tmp_path) as (caller, _):
        answer = await caller.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert answer.status_code == 400


# -- beside a socket


async def test_a_socket_attaches_to_a_created_session_and_both_play_one_episode(tmp_path: Path) -> None:
    async with calling(tmp_path) as (caller, server):
        session_id = await caller.create()
        async with connect(f"{server.socket_url}/ws?session_id={session_id}", proxy=None) as socket:
            await socket.send(json.dumps({"type": "reset", "data": {"task": "fix-readme"}}))
            start = json.loads(await socket.recv())["data"]
            assert start["metadata"]["session_id"] == session_id
            await caller.call(session_id, "echo", text="hi")
            await socket.send(json.dumps({"type": "state"}))
            assert json.loads(await socket.recv())["data"]["step_count"] == 1
            closing = await caller.ask("openenv/session/close", session_id=session_id)
            assert closing["result"]["closing"] is True
        with anyio.fail_after(5):
            while server.gateway.readiness().detail["sessions"]:  # noqa: ASYNC110 - nobody is told
                await anyio.sleep(0.01)


async def test_over_a_socket_the_session_is_the_connections_own(tmp_path: Path) -> None:
    async def ask(text: Any) -> dict[str, Any]:
        await socket.send(text if isinstance(text, str | bytes) else json.dumps(text))
        with anyio.fail_after(10):
            return json.loads(await socket.recv())

    def rpc(method: str, **params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}

    async with calling(tmp_path) as (_, server), connect(f"{server.socket_url}/mcp", proxy=None) as socket:
        assert (await ask(rpc("tools/list")))["result"]["tools"]
        called = await ask(rpc("tools/call", name="echo", arguments={"text": "hi"}))
        assert called["result"]["data"] == "hi"
        session_id = (await ask(rpc("openenv/session/create")))["result"]["session_id"]
        closed = await ask(rpc("openenv/session/close", session_id=session_id))
        assert closed["error"]["code"] == -32600
        assert (await ask("{"))["error"]["code"] == -32700
        assert (await ask(b"{}"))["error"]["code"] == -32600
        assert (await ask([]))["error"]["code"] == -32600
        assert (await ask(rpc("tools/call", name="echo", arguments={"text": "on"})))["result"]["data"] == "on"


# -- whose it is, and where it is at all


async def test_somebody_elses_session_does_not_exist(tmp_path: Path) -> None:
    identity = people(alice="orchestrator", mallory="orchestrator")
    async with (
        env_server(tmp_path, identity=identity) as server,
        client(server, "alice") as alice,
        client(server, "mallory") as mallory,
    ):
        session_id = await Caller(alice).create()
        for told in (
            await Caller(mallory).ask("tools/list", session_id=session_id),
            await Caller(mallory).call(session_id, "echo", text="hi"),
            await Caller(mallory).ask("openenv/session/close", session_id=session_id),
        ):
            assert told["error"]["code"] == -32602
        assert (await Caller(alice).call(session_id, "echo", text="hi"))["result"]["data"] == "hi"


async def test_an_agent_has_mcp_and_none_of_the_dialect(tmp_path: Path) -> None:
    create = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"}
    async with env_server(tmp_path, identity=people(bot="agent")) as server, client(server, "bot") as bot:
        assert (await Caller(bot).post(create)).status_code == 400
        await check_probe(Caller(bot), "/mcp")
        assert server.gateway.readiness().detail["sessions"] == 0
        assert "hi" in (await RawMcp(bot, "/mcp").call(MODERN, "echo", text="hi")).text
        with pytest.raises(InvalidStatus) as refused:
            await connect(
                f"{server.socket_url}/mcp", proxy=None, additional_headers={"Authorization": "Bearer bot"}
            )
        assert refused.value.response.status_code == 403


async def check_probe(caller: Caller, path: str) -> None:
    """An empty object, which the stock validator sends in any mode, is a JSON-RPC error and nothing else."""
    probed = await caller.http.post(path, json={})
    assert (probed.status_code, probed.json()["error"]["code"]) == (200, -32600)
    assert (await caller.http.post(path, json=[])).status_code == 400


@pytest.mark.parametrize("path", ["/mcp", "/packs/echo/mcp"])
async def test_deployment_has_none_of_it(tmp_path: Path, path: str) -> None:
    async with calling(tmp_path, settings=DEPLOYMENT) as (caller, server):
        create = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"}
        assert (await caller.http.post(path, json=create)).status_code == 400
        await check_probe(caller, path)
        with pytest.raises(InvalidStatus):
            await connect(f"{server.socket_url}{path}", proxy=None)
        assert server.gateway.readiness().detail["sessions"] == 0
