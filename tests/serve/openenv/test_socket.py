"""`/ws`, served for real: one answer per frame, whatever the frame, and no silent end."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as blocking_connect

from gateway.errors import SandboxError
from gateway.runtime.episodes import EpisodeSettings
from gateway.runtime.gateway import GatewaySettings
from tests.support.env_serving import TRAINING, EnvServer, env_server, people

ECHO = {"type": "step", "data": {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "hi"}}}
STATE = {"type": "state"}


def dial(server: EnvServer, path: str = "/ws", token: str | None = None) -> connect:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return connect(server.socket_url + path, additional_headers=headers, proxy=None)


@asynccontextmanager
async def dialled(tmp_path: Path, **more: Any) -> AsyncGenerator[ClientConnection]:
    async with env_server(tmp_path, **more) as server, dial(server) as socket:
        yield socket


async def ask(socket: ClientConnection, frame: Any) -> dict[str, Any]:
    await socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))
    with anyio.fail_after(10):
        return json.loads(await socket.recv())


async def closed(socket: ClientConnection) -> tuple[int, str]:
    with anyio.fail_after(10), pytest.raises(ConnectionClosed) as end:
        await socket.recv()
    assert end.value.rcvd is not None
    return end.value.rcvd.code, end.value.rcvd.reason


async def test_an_episode_is_played_frame_by_frame(tmp_path: Path) -> None:
    async with dialled(tmp_path) as socket:
        start = await ask(socket, {"type": "reset", "data": {"task": "fix-readme", "episode_id": "mine"}})
        assert start["type"] == "observation"
        assert start["data"]["observation"]["prompt"].startswith("Fix the typo")
        echoed = await ask(socket, ECHO)
        assert echoed["data"]["observation"]["result"]["data"] == "hi"
        assert (echoed["data"]["reward"], echoed["data"]["done"]) == (None, False)
        state = await ask(socket, STATE)
        assert (state["type"], state["data"]["episode_id"], state["data"]["step_count"]) == (
            "state",
            "mine",
            1,
        )
        end = await ask(socket, {"type": "step", "data": {"type": "submit", "answer": "done"}})
        assert (end["data"]["done"], end["data"]["reward"]) == (True, 0.25)
        over = await ask(socket, ECHO)
        assert over["data"]["code"] == "EXECUTION_ERROR"
        assert (await ask(socket, {"type": "reset"}))["data"]["done"] is False


async def test_tools_may_be_listed_before_any_reset(tmp_path: Path) -> None:
    async with dialled(tmp_path) as socket:
        listed = await ask(socket, {"type": "step", "data": {"type": "list_tools"}})
        tools = listed["data"]["observation"]["tools"]
        assert {"name", "description", "input_schema"} == set(tools[0])


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "INVALID_JSON"),
        (b'{"type": "state"}', "INVALID_JSON"),
        (b"\xff\x00", "INVALID_JSON"),
        ('{"type": "reset", "data": {"seed": NaN}}', "INVALID_JSON"),
        ('{"type": "state", "type": "close"}', "INVALID_JSON"),
        ([], "VALIDATION_ERROR"),
        ([{"type": "state"}], "VALIDATION_ERROR"),
        ({"type": "dance"}, "UNKNOWN_TYPE"),
        ({}, "UNKNOWN_TYPE"),
        ({"type": "step", "data": {"type": "call_tool"}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"task": "no-such-task"}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"snapshot": "snap_nobody_took"}}, "VALIDATION_ERROR"),
    ],
)
async def test_a_frame_that_does_not_fit_is_told_and_the_session_goes_on(
    tmp_path: Path, frame: Any, code: str
) -> None:
    async with dialled(tmp_path) as socket:
        await ask(socket, {"type": "reset", "data": {"episode_id": "mine"}})
        told = await ask(socket, frame)
        assert (told["type"], told["data"]["code"]) == ("error", code)
        assert told["data"]["message"]
        assert (await ask(socket, STATE))["data"]["episode_id"] == "mine"


async def test_a_giant_frame_closes_readably_and_harms_nobody_else(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, dial(server) as other, dial(server) as socket:
        await ask(other, {"type": "reset", "data": {"episode_id": "mine"}})
        with anyio.fail_after(20):
            try:
                await socket.send("x" * 100_000_000)
            except ConnectionClosed:
                await anyio.lowlevel.checkpoint()  # told while still sending: the close says so
            code, reason = await closed(socket)
        assert code == 1009
        assert reason
        assert (await ask(other, STATE))["data"]["episode_id"] == "mine"


def send_giant(url: str, frame: str | bytes) -> tuple[str, int]:
    """Send as clients do that listen in one thread and send in another; return the session and the code."""
    with blocking_connect(f"{url}/ws") as socket:
        socket.send(json.dumps({"type": "reset"}))
        session: str = json.loads(socket.recv())["data"]["metadata"]["session_id"]
        with suppress(ConnectionClosed):  # told while still sending: the next line says so
            socket.send(frame)
        with pytest.raises(ConnectionClosed) as told:
            socket.recv(timeout=20)
        return session, told.value.rcvd.code if told.value.rcvd else 0


@pytest.mark.parametrize("frame", ["x" * 100_000_000, bytes(100_000_000)], ids=["text", "binary"])
async def test_the_session_of_a_giant_frame_waits_for_its_client(tmp_path: Path, frame: str | bytes) -> None:
    async with env_server(tmp_path) as server:
        session, code = await anyio.to_thread.run_sync(send_giant, server.socket_url, frame)
        assert code == 1009
        async with dial(server, f"/ws?session_id={session}") as again:
            assert (await ask(again, STATE))["data"]["metadata"]["session_id"] == session


async def test_json_rpc_in_a_frame_is_of_the_sockets_own_session(tmp_path: Path) -> None:
    def rpc(method: str, **params: Any) -> dict[str, Any]:
        return {"type": "mcp", "data": {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}}

    async with dialled(tmp_path) as socket:
        listed = await ask(socket, rpc("tools/list"))
        assert (listed["type"], listed["data"]["id"]) == ("mcp", 1)
        assert "inputSchema" in listed["data"]["result"]["tools"][0]
        called = await ask(socket, rpc("tools/call", name="echo", arguments={"text": "hi"}))
        assert called["data"]["result"]["data"] == "hi"
        assert (await ask(socket, STATE))["data"]["step_count"] == 1
        assert (await ask(socket, rpc("dance")))["data"]["error"]["code"] == -32601
        assert (await ask(socket, {"type": "mcp", "data": {}}))["data"]["error"]["code"] == -32600


async def test_closing_ends_the_session_and_its_sandboxes(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        async with dial(server) as socket:
            await ask(socket, ECHO)
            await socket.send(json.dumps({"type": "close"}))
            assert (await closed(socket))[0] == 1000
        assert server.gateway.readiness().detail["sessions"] == 0


async def dropped(server: EnvServer) -> str:
    """Start an episode on a socket, take a step, drop the connection; return the session's id."""
    async with dial(server) as socket:
        start = await ask(socket, {"type": "reset", "data": {"episode_id": "mine"}})
        await ask(socket, ECHO)
        socket.transport.abort()
        return start["data"]["metadata"]["session_id"]


async def test_a_dropped_connection_keeps_its_session_for_whoever_comes_back_with_its_id(
    tmp_path: Path,
) -> None:
    async with env_server(tmp_path) as server:
        session_id = await dropped(server)
        async with dial(server, f"/ws?session_id={session_id}") as socket:
            state = (await ask(socket, STATE))["data"]
            assert (state["episode_id"], state["step_count"]) == ("mine", 1)
            assert (await ask(socket, ECHO))["data"]["metadata"]["step"] == 2
            await socket.send(json.dumps({"type": "close"}))
            await closed(socket)
        with anyio.fail_after(5):
            await none_left(server)


@pytest.mark.parametrize("grace", [0.0, 0.1])
async def test_a_dropped_session_that_nobody_comes_back_for_ends(tmp_path: Path, grace: float) -> None:
    async with env_server(tmp_path, playing=EpisodeSettings(grace=grace)) as server:
        session_id = await dropped(server)
        with anyio.fail_after(5):
            await none_left(server)
        async with dial(server, f"/ws?session_id={session_id}") as socket:
            assert json.loads(await socket.recv())["data"]["code"] == "SESSION_ERROR"


async def test_an_orderly_end_leaves_nothing_behind(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        async with dial(server) as socket:
            await ask(socket, ECHO)
        with anyio.fail_after(5):
            await none_left(server)
        assert server.gateway.readiness().detail["sessions"] == 0


async def none_left(server: EnvServer) -> None:
    """Return once no session is open; the caller bounds it."""
    while server.gateway.readiness().detail["sessions"]:  # noqa: ASYNC110 - the gateway tells nobody
        await anyio.sleep(0.01)


ONE = replace(TRAINING, max_sessions=1)


async def test_at_capacity_a_socket_waits_for_its_turn(tmp_path: Path) -> None:
    async with (
        env_server(tmp_path, settings=ONE) as server,
        dial(server) as first,
        dial(server) as second,
    ):
        await ask(first, ECHO)
        await second.send(json.dumps(ECHO))
        await first.send(json.dumps({"type": "close"}))
        await closed(first)
        with anyio.fail_after(10):
            assert json.loads(await second.recv())["type"] == "observation"


async def test_who_leaves_the_line_takes_no_place(tmp_path: Path) -> None:
    playing = EpisodeSettings(queue=1)
    async with env_server(tmp_path, settings=ONE, playing=playing) as server, dial(server) as first:
        await ask(first, ECHO)
        async with dial(server):
            await anyio.lowlevel.checkpoint()
        async with dial(server) as third:  # the line has one place, and it is free again
            await first.send(json.dumps({"type": "close"}))
            assert (await ask(third, ECHO))["type"] == "observation"


async def test_the_wait_for_a_place_is_bounded(tmp_path: Path) -> None:
    playing = EpisodeSettings(queue_seconds=0.05)
    async with (
        env_server(tmp_path, settings=ONE, playing=playing) as server,
        dial(server) as first,
        dial(server) as second,
    ):
        assert json.loads(await second.recv())["data"]["code"] == "CAPACITY_REACHED"
        assert (await ask(first, ECHO))["type"] == "observation"


async def test_a_full_gateway_with_a_full_line_says_so_and_closes(tmp_path: Path) -> None:
    async with (
        env_server(tmp_path, settings=ONE, playing=EpisodeSettings(queue=0)) as server,
        dial(server) as first,
        dial(server) as second,
    ):
        told = json.loads(await second.recv())
        assert told["data"]["code"] == "CAPACITY_REACHED"
        assert (await closed(second))[0] == 1013
        assert (await ask(first, ECHO))["type"] == "observation"


async def test_a_session_that_cannot_be_made_is_a_factory_error_and_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with env_server(tmp_path) as server, dial(server) as socket:

        async def no_workspace(_: Any) -> Any:
            raise SandboxError("no room for a workspace")

        monkeypatch.setattr(server.gateway.driver, "open_workspace", no_workspace)
        told = await ask(socket, {"type": "reset"})
        assert told["data"] == {"message": "no room for a workspace", "code": "FACTORY_ERROR"}
        assert (await closed(socket))[0] == 1011


async def test_a_fault_of_ours_is_told_without_its_inside_and_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with env_server(tmp_path) as server, dial(server) as socket:

        async def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("the inside of the gateway")

        monkeypatch.setattr(server.gateway, "open_session", broken)
        told = await ask(socket, {"type": "reset"})
        assert told["data"] == {"message": "internal error", "code": "SESSION_ERROR"}
        code, reason = await closed(socket)
        assert code == 1011
        assert "inside" not in reason


# -- attaching


async def started(server: EnvServer, token: str | None = None) -> str:
    """Start an episode over HTTP, which stays, and return its session id."""
    import httpx2

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers) as http:
        return (await http.post("/reset", json={"episode_id": "mine"})).headers["x-session-id"]


async def test_a_socket_attaches_to_an_open_session_alone_and_leaves_it_behind(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        session_id = await started(server)
        for steps in (1, 2):
            async with dial(server, f"/ws?session_id={session_id}") as socket:
                await ask(socket, ECHO)
                assert (await ask(socket, STATE))["data"]["step_count"] == steps
                async with dial(server, f"/ws?session_id={session_id}") as second:
                    assert json.loads(await second.recv())["data"]["code"] == "SESSION_ERROR"
                await socket.send(json.dumps({"type": "close"}))
                await closed(socket)
        assert server.gateway.readiness().detail["sessions"] == 1


@pytest.mark.parametrize("whose", ["mallory", "nobody"])
async def test_somebody_elses_session_does_not_exist(tmp_path: Path, whose: str) -> None:
    identity = people(alice="orchestrator", mallory="orchestrator")
    async with env_server(tmp_path, identity=identity) as server:
        session_id = await started(server, "alice") if whose == "mallory" else "0" * 32
        async with dial(server, f"/ws?session_id={session_id}", "mallory") as socket:
            told = json.loads(await socket.recv())
            assert told["data"]["code"] == "SESSION_ERROR"
            assert "no session" in told["data"]["message"]
            assert (await closed(socket))[0] == 1008


@pytest.mark.parametrize("token", [None, "bot"])
async def test_strangers_and_agents_get_no_socket(tmp_path: Path, token: str | None) -> None:
    async with env_server(tmp_path, identity=people(bot="agent")) as server:
        with pytest.raises(InvalidStatus) as refused:
            await dial(server, token=token)
        assert refused.value.response.status_code == (401 if token is None else 403)


async def test_a_page_of_another_origin_gets_no_socket(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.socket_url + "/ws", origin="https://evil.example", proxy=None)  # pyright: ignore[reportArgumentType]
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("path", ["/ws", "/packs/echo/ws"])
async def test_deployment_has_no_socket(tmp_path: Path, path: str) -> None:
    async with env_server(tmp_path, settings=GatewaySettings(mode="deployment")) as server:
        with pytest.raises(InvalidStatus) as refused:
            await dial(server, path)
        assert refused.value.response.status_code in {403, 404}


async def test_many_sockets_keep_their_episodes_apart(tmp_path: Path) -> None:
    async def play(server: EnvServer, name: str) -> None:
        async with dial(server) as socket:
            await ask(socket, {"type": "reset", "data": {"episode_id": name}})
            step = {"type": "call_tool", "tool_name": "write", "arguments": {"path": "mine", "content": name}}
            await ask(socket, {"type": "step", "data": step})
            read = {"type": "call_tool", "tool_name": "read", "arguments": {"path": "mine"}}
            seen[name] = (await ask(socket, {"type": "step", "data": read}))["data"]["observation"]["result"][
                "data"
            ]

    seen: dict[str, str] = {}
    names = [os.urandom(4).hex() for _ in range(6)]
    async with env_server(tmp_path) as server, anyio.create_task_group() as group:
        for name in names:
            group.start_soon(play, server, name)
    assert seen == {name: name for name in names}
