"""The training front of two workers: an episode is played by the worker that has it, over any connection."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from gateway.core.json_types import JsonObject
from gateway.runtime.audit import query, verify
from gateway.training import AsyncEnv, InvalidRequest
from tests.serve.workers.test_sessions import chains_of, connections
from tests.support.gateways import copy_pack
from tests.support.processes import Served, serving

CREATE: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create", "params": {}}
CALL = {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "x"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("episodes")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    pack = str(copy_pack("echo", folder).folder)
    config = folder / "gateway.yaml"
    config.write_text("limits: {max_sessions: 40, queue: 4}\n")
    with serving(
        *(pack, "--mode", "training", "--workers", "2", "--state", str(folder / "state")),
        *("--config", str(config)),
    ) as running:
        yield running


def write(text: str) -> dict[str, Any]:
    arguments = {"path": "/workspace/note.txt", "content": text}
    return {"type": "call_tool", "tool_name": "write", "arguments": arguments}


READ = {"type": "call_tool", "tool_name": "read", "arguments": {"path": "/workspace/note.txt"}}


async def test_an_episode_goes_on_over_any_connection_however_it_is_named(
    served: Served, folder: Path
) -> None:
    sessions: list[str] = []
    async with connections(4) as https:
        for number, http in enumerate(https):
            reset = await http.post(f"{served.url}/reset", json={"seed": number})
            assert reset.status_code == 200, reset.text
            sessions.append(reset.headers["x-session-id"])
        for session_id in sessions:
            for step, http in enumerate(https):
                if step % 2:
                    taken = await http.post(
                        f"{served.url}/step", json={"action": CALL}, headers={"x-session-id": session_id}
                    )
                else:
                    body = {"action": CALL, "session_id": session_id}
                    taken = await http.post(f"{served.url}/packs/echo/step", json=body)
                assert taken.status_code == 200, taken.text
            for http in https:
                state = await http.get(f"{served.url}/state?session_id={session_id}")
                assert state.json()["step_count"] == 4
            gone = await https[0].post(f"{served.url}/step", json={"action": CALL, "session_id": "0" * 32})
            assert gone.status_code == 404
    owners = [chains_of(folder, session_id) for session_id in sessions]
    assert all(len(owner) == 1 for owner in owners)
    assert set[str]().union(*owners) == {"1", "2"}


async def test_the_dialect_finds_its_session_too(served: Served) -> None:
    async with connections(4) as https:
        made = (await https[0].post(f"{served.url}/mcp", json=CREATE)).json()
        session_id = made["result"]["session_id"]
        for http in https:
            params = {"session_id": session_id, "name": "echo", "arguments": {"text": "x"}}
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
            answer = (await http.post(f"{served.url}/mcp", json=call)).json()
            assert answer["result"]["data"] == "x"
        close = {"jsonrpc": "2.0", "id": 3, "method": "openenv/session/close"}
        closed = await https[-1].post(
            f"{served.url}/mcp", json={**close, "params": {"session_id": session_id}}
        )
        assert closed.json()["result"]["closed"] is True


async def test_a_socket_comes_to_the_worker_of_its_session(served: Served) -> None:
    address = served.url.replace("http://", "ws://") + "/ws"

    async def ask(socket: Any, frame: dict[str, Any]) -> dict[str, Any]:
        await socket.send(json.dumps(frame))
        return json.loads(await socket.recv())["data"]

    async with connections(4) as https:
        for http in https:
            made = (await http.post(f"{served.url}/mcp", json=CREATE)).json()
            session_id = made["result"]["session_id"]
            for round_number in range(1, 4):  # dropped each time, and taken up over another connection
                async with connect(f"{address}?session_id={session_id}") as socket:
                    if round_number == 1:
                        await ask(socket, {"type": "reset", "data": {}})
                    await ask(socket, {"type": "step", "data": CALL})
                    state = await ask(socket, {"type": "state"})
                    assert state["step_count"] == round_number
                    socket.transport.abort()


async def test_a_batch_is_played_by_all_workers_and_answered_in_order(served: Served, folder: Path) -> None:
    async with connections(2) as https:
        episodes = [{"seed": number} for number in range(6)]
        reset = await https[0].post(f"{served.url}/batch/reset", json={"episodes": episodes})
        sessions = [result["session_id"] for result in reset.json()["results"]]
        assert len(set(sessions)) == 6
        for http in https:
            steps: list[dict[str, Any]] = [
                {"session_id": session, "action": write(session)} for session in sessions
            ]
            steps.insert(3, {"session_id": "nobody", "action": CALL})
            results = (await http.post(f"{served.url}/batch/step", json={"steps": steps})).json()["results"]
            assert [result["session_id"] for result in results] == [step["session_id"] for step in steps]
            assert [index for index, result in enumerate(results) if "error" in result] == [3]
            reads = [{"session_id": session, "action": READ} for session in sessions]
            results = (await http.post(f"{served.url}/batch/step", json={"steps": reads})).json()["results"]
            assert [result["observation"]["result"]["data"] for result in results] == sessions
        assert (await https[0].post(f"{served.url}/batch/step", json={"steps": 3})).status_code == 422
    owners = Counter(chains_of(folder, session).pop() for session in sessions)
    assert owners == {"1": 3, "2": 3}


async def test_an_episode_starts_from_a_snapshot_that_another_worker_has(served: Served) -> None:
    async with connections(4) as https:
        reset = await https[0].post(f"{served.url}/reset", json={})
        named = {"x-session-id": reset.headers["x-session-id"]}
        await https[0].post(f"{served.url}/step", json={"action": write("kept")}, headers=named)
        taken = await https[0].post(
            f"{served.url}/step", json={"action": {"type": "snapshot"}}, headers=named
        )
        snapshot = taken.json()["observation"]["snapshot_id"]
        for http in https[1:]:
            forked = await http.post(f"{served.url}/reset", json={"snapshot": snapshot})
            assert forked.status_code == 200, forked.text
            own = {"x-session-id": forked.headers["x-session-id"]}
            read = await http.post(f"{served.url}/step", json={"action": READ}, headers=own)
            assert read.json()["observation"]["result"]["data"] == "kept"
        entries = [{"snapshot": snapshot}] * 3
        batch = await https[1].post(f"{served.url}/batch/reset", json={"episodes": entries})
        assert all("error" not in result for result in batch.json()["results"])
        near = served.url.replace("http://", "ws://") + f"/ws?snapshot={snapshot}"
        for _ in range(3):
            async with connect(near) as socket:
                await socket.send(json.dumps({"type": "reset", "data": {"snapshot": snapshot}}))
                assert json.loads(await socket.recv())["type"] == "observation"


async def test_a_client_forks_wherever_it_happens_to_be_connected(served: Served) -> None:
    note: JsonObject = {"path": "/workspace/note.txt"}
    moved = 0
    async with AsyncEnv(served.url) as trunk:
        await trunk.reset()
        await trunk.call("write", {**note, "content": "kept"})
        snapshot = await trunk.snapshot()
        for _ in range(2):
            async with AsyncEnv(served.url) as connected, AsyncEnv(served.url) as fresh:
                before = await connected.reset()
                after = await connected.reset(snapshot=snapshot)
                moved += before.session_id != after.session_id
                await fresh.reset(snapshot=snapshot)
                for fork in (connected, fresh):
                    assert "kept" in str((await fork.call("read", note)).observation)
        assert moved, "every connection was given to the worker that has the snapshot already"
        with pytest.raises(InvalidRequest, match="no snapshot"):
            await trunk.reset(snapshot="snap_of_nobody")
        assert "kept" in str((await trunk.call("read", note)).observation)


async def test_sockets_wait_in_line_for_a_place_of_any_worker(tmp_path: Path) -> None:
    pack = str(copy_pack("echo", tmp_path).folder)
    (tmp_path / "gateway.yaml").write_text("limits: {max_sessions: 2, queue: 2}\n")
    options = ("--mode", "training", "--workers", "2", "--state", str(tmp_path / "state"))
    with serving(pack, *options, "--config", str(tmp_path / "gateway.yaml")) as served:
        address = served.url.replace("http://", "ws://") + "/ws"
        holding = [await connect(address), await connect(address)]
        for socket in holding:
            await socket.send('{"type":"reset"}')
            assert '"observation"' in str(await socket.recv())
        waiting = [await connect(address), await connect(address)]  # one with each worker
        for socket in waiting:
            await socket.send('{"type":"reset"}')
        await holding[0].close()
        async with asyncio.timeout(20):
            done, _ = await asyncio.wait(
                [asyncio.ensure_future(socket.recv()) for socket in waiting], return_when="FIRST_COMPLETED"
            )
            assert '"observation"' in str(done.pop().result())
        for socket in (*holding, *waiting):
            await socket.close()


def test_what_was_recorded_verifies_and_is_whole(served: Served, folder: Path) -> None:
    report = verify(folder / "state")
    assert (report.ok, report.problems) == (True, ())
    episodes = {str(record["episode"]) for record in query(folder / "state") if record.get("episode")}
    trajectories = list((folder / "state" / "trajectories").glob("*.jsonl"))
    assert len(trajectories) >= len(episodes) > 10
