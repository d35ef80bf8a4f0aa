"""`/ws` under peers that vanish, never read, or talk out of turn: told where it can be, no slot lost."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from anyio.abc import SocketStream
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from gateway.runtime.episodes import Episodes, EpisodeSettings
from tests.support.env_serving import EnvServer, env_server

RESET = {"type": "reset", "data": {"episode_id": "mine"}}


def step(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "step", "data": {"type": "call_tool", "tool_name": tool, "arguments": arguments}}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the server lose patience within a test's time."""
    monkeypatch.setattr("gateway.serve.socket_protocol.PING_SECONDS", 0.2)
    monkeypatch.setattr("gateway.serve.socket_protocol.PONG_SECONDS", 1.0)
    monkeypatch.setattr("gateway.serve.stalls.STALLED_SECONDS", 0.3)


class SilentPeer:
    """A WebSocket client that answers nothing by itself: no pong, no close, and reads only when told to."""

    def __init__(self, stream: SocketStream, server: EnvServer) -> None:
        self._stream = stream
        self._protocol = ClientProtocol(parse_uri(server.socket_url + "/ws"))

    async def open(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while not self._protocol.events_received():
            self._protocol.receive_data(await self._stream.receive())

    async def say(self, frame: dict[str, Any]) -> None:
        self._protocol.send_text(json.dumps(frame).encode())
        await self._flush()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            await self._stream.send(data)

    async def hear(self) -> bytes:
        return await self._stream.receive()


@asynccontextmanager
async def silent(server: EnvServer) -> AsyncGenerator[SilentPeer]:
    address = urlsplit(server.url)
    async with await anyio.connect_tcp(str(address.hostname), address.port or 0) as stream:
        peer = SilentPeer(stream, server)
        await peer.open()
        yield peer


async def sessions_left(server: EnvServer) -> int:
    """Return how many sessions are open once none is, or after ten seconds."""
    with anyio.move_on_after(10):
        while server.gateway.readiness().detail["sessions"]:  # noqa: ASYNC110 - the gateway tells nobody
            await anyio.sleep(0.02)
    left = server.gateway.readiness().detail["sessions"]
    assert isinstance(left, int)
    return left


@pytest.mark.usefixtures("hasty")
async def test_a_peer_that_vanishes_without_a_word_frees_its_slot_after_the_grace(tmp_path: Path) -> None:
    async with env_server(tmp_path, playing=EpisodeSettings(grace=0.2)) as server, silent(server) as peer:
        await peer.say(RESET)
        assert b"observation" in await peer.hear()
        assert server.gateway.readiness().detail["sessions"] == 1
        assert await sessions_left(server) == 0


@pytest.mark.usefixtures("hasty")
async def test_a_peer_that_never_reads_frees_its_slot(tmp_path: Path) -> None:
    async with env_server(tmp_path, playing=EpisodeSettings(grace=0.2)) as server, silent(server) as peer:
        await peer.say(RESET)
        assert b"observation" in await peer.hear()
        for _ in range(7):
            await peer.say(step("big", bytes=3_000_000))
        assert await sessions_left(server) == 0


@pytest.mark.usefixtures("hasty")
async def test_a_peer_that_talks_ahead_of_a_long_step_is_not_taken_for_gone(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, connect(server.socket_url + "/ws", proxy=None) as socket:
        await socket.send(json.dumps(step("sleep", seconds=2.5)))
        await socket.send(json.dumps(step("echo", text="after")))
        await socket.send(json.dumps({"type": "state"}))
        with anyio.fail_after(10):
            answers = [json.loads(await socket.recv()) for _ in range(3)]
    assert answers[0]["data"]["observation"]["result"]["data"] == "slept"
    assert answers[1]["data"]["observation"]["result"]["data"] == "after"
    assert answers[2]["data"]["step_count"] == 2


async def test_frames_sent_ahead_are_answered_one_each_in_their_order(tmp_path: Path) -> None:
    frames: list[Any] = [
        *({"type": "state"}, [], {"type": "step", "data": {"type": "list_tools"}}, {"type": "dance"}),
        *(RESET, {"type": "state"}, step("echo", text="x"), RESET, {"type": "step"}, {"type": "state"}),
    ]
    async with env_server(tmp_path) as server, connect(server.socket_url + "/ws", proxy=None) as socket:
        for frame in frames:
            await socket.send(json.dumps(frame))
        with anyio.fail_after(20):
            answers = [json.loads(await socket.recv()) for _ in frames]
    assert [answer["type"] for answer in answers] == [
        *("state", "error", "observation", "error"),
        *("observation", "state", "observation", "observation", "error", "state"),
    ]
    assert (answers[5]["data"]["step_count"], answers[9]["data"]["step_count"]) == (0, 0)


async def test_a_socket_that_ends_in_the_middle_of_a_step_frees_its_slot_with_the_grace(
    tmp_path: Path,
) -> None:
    async with env_server(tmp_path, playing=EpisodeSettings(grace=0.1)) as server:
        async with connect(server.socket_url + "/ws", proxy=None) as socket:
            await socket.send(json.dumps(RESET))
            await socket.recv()
            await socket.send(json.dumps(step("sleep", seconds=0.5)))
            socket.transport.abort()
        assert await sessions_left(server) == 0


@pytest.mark.parametrize(
    ("path", "body", "episodes"),
    [("/reset", "", 1), ("/reset", "{}", 1), ("/batch/reset", '{"episodes": [{}, {"seed": -1}, {}]}', 2)],
)
async def test_a_session_whose_id_nobody_heard_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, body: str, episodes: int
) -> None:
    """Its client leaves while the reset is on its way: the place would be held until it was idle too long."""
    begun, left, opened = anyio.Event(), anyio.Event(), list[Any]()
    run = Episodes.run

    async def begin(self: Episodes, *args: Any) -> Any:
        begun.set()
        await left.wait()
        opened.append(await run(self, *args))
        return opened[-1]

    monkeypatch.setattr(Episodes, "run", begin)
    async with env_server(tmp_path) as server, httpx2.AsyncClient(base_url=server.url) as another:
        address = urlsplit(server.url)
        async with await anyio.connect_tcp(address.hostname or "", address.port or 0) as client:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            with anyio.fail_after(30):
                await begun.wait()
        await another.get("/health")  # by now the server has seen the client leave
        left.set()
        with anyio.fail_after(60):
            while len(opened) < episodes:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert await sessions_left(server) == 0
