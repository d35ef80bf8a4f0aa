"""`AsyncEnv` and `Env` against a real gateway, and against peers that break the contract.

One script plays both: the blocking client runs in a thread behind the face of the awaiting one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from gateway.runtime.episodes import EpisodeSettings
from gateway.runtime.gateway import GatewaySettings
from gateway.training import (
    AnswerLate,
    AsyncEnv,
    CapacityReached,
    ConnectionLost,
    DoneReason,
    Env,
    EpisodeUnavailable,
    InvalidRequest,
    NotAllowed,
    ProtocolBroken,
    ServerFailed,
)
from tests.support.env_serving import EnvServer, env_server, people
from tests.support.peers import peer
from tests.support.relay import Relay, relay


class Threaded:
    """`Env` with the methods of `AsyncEnv`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._env = Env(*args, **kwargs)

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._env.close)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._env, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await anyio.to_thread.run_sync(partial(method, *args, **kwargs))

        return call


BOTH = pytest.mark.parametrize("client", [AsyncEnv, Threaded], ids=["async", "sync"])


def sessions(server: EnvServer) -> object:
    return server.gateway.readiness().detail["sessions"]


@BOTH
async def test_an_episode_is_played_to_its_reward(client: Any, tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        async with client(server.url) as env:
            start = await env.reset(task="fix-readme", seed=7, episode_id="mine")
            assert start.prompt == "Fix the typo in README.md and say done."
            assert (start.task, start.seed, start.episode_id) == ("fix-readme", 7, "mine")
            assert start.workspace_digest == (await env.state()).workspace_digest
            assert {"echo", "write", "submit"} <= {tool.name for tool in await env.tools()}
            echoed = await env.call("echo", {"text": "hi"})
            assert (echoed.text, echoed.reward, echoed.denied) == ("hi", None, False)
            denied = await env.call("write", {"path": "/workspace/.env", "content": "x"})
            assert denied.denied
            assert denied.decision is not None
            assert (denied.decision.rule, denied.decision.line) == ("no-secret-files", 10)
            assert denied.reward == -0.25
            assert denied.text == denied.decision.sentence()
            await env.step({"tool_name": "write", "arguments": {"path": "README.md", "content": "The."}})
            status = await env.state()
            assert (status.episode_id, status.step_count, status.denials) == ("mine", 4, 1)
            assert status.workspace_digest != start.workspace_digest
            end = await env.submit("done")
            assert (end.reward, end.done, end.truncated, end.done_reason) == (
                1.0,
                True,
                False,
                DoneReason.SUBMITTED,
            )
            assert [component["score"] for component in end.rubric] == [1.0, 1.0, 1.0]
        assert sessions(server) == 0


@BOTH
async def test_code_is_a_step_whose_calls_are_told(client: Any, tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, client(server.url) as env:
        await env.reset()
        ran = await env.code("echo(text='hi')")
        assert (ran.observation["result"], ran.denied, ran.error) == ("hi", False, None)
        assert [(call.tool, call.outcome, call.effect) for call in ran.calls] == [
            ("echo", "answered", "allow")
        ]
        refused = await env.code("write(path='/workspace/.env', content='x')")
        assert (refused.denied, refused.calls[0].arguments["content"]) == (True, "x")
        assert refused.error.error_type == "execution_error"
        assert (await env.call("echo", {"text": "hi"})).calls == ()


@BOTH
async def test_an_episode_starts_from_a_snapshot_of_another(client: Any, tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, client(server.url) as env:
        await env.reset(task="fix-readme")
        await env.call("write", {"path": "README.md", "content": "The."})
        kept = await env.snapshot()
        await env.call("write", {"path": "README.md", "content": "later"})
        forked = await env.reset(snapshot=kept)
        assert forked.task == "fix-readme"
        assert (await env.call("read", {"path": "README.md"})).text == "The."
        with pytest.raises(InvalidRequest, match="no-such-snapshot"):
            await env.reset(snapshot="no-such-snapshot")
        assert (await env.call("read", {"path": "README.md"})).text == "The."


@BOTH
async def test_an_episode_goes_on_over_a_new_connection_where_the_network_fails(
    client: Any, tmp_path: Path
) -> None:
    async with env_server(tmp_path) as server, relay(server.url) as network, client(network.url) as env:
        start = await env.reset(task="fix-readme")
        await env.call("write", {"path": "README.md", "content": "The."})
        network.cut()
        await noticed(env)
        assert (await env.call("read", {"path": "README.md"})).text == "The."
        state = await env.state()
        assert (state.episode_id, state.step_count) == (start.episode_id, 2)
        network.cut()
        again = await env.reset(task="be-good")
        assert again.session_id == start.session_id
        assert sessions(server) == 1


@BOTH
async def test_a_step_whose_answer_was_lost_is_never_taken_twice(client: Any, tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, relay(server.url) as network, client(network.url) as env:
        await env.reset()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut_when_it_is_called, server, network)
            with pytest.raises(ConnectionLost, match=r"state\(\) connects again"):
                await env.call("sleep", {"seconds": 0.5})
        assert (await env.state()).step_count == 1
        assert (await env.call("echo", {"text": "hi"})).metadata["step"] == 2


@BOTH
async def test_an_episode_that_was_given_up_meanwhile_is_told_so(client: Any, tmp_path: Path) -> None:
    playing = EpisodeSettings(grace=0)
    async with (
        env_server(tmp_path, playing=playing) as server,
        relay(server.url) as network,
        client(network.url) as env,
    ):
        await env.reset()
        network.cut()
        await come_true(lambda: sessions(server) == 0)
        await noticed(env)
        with pytest.raises(EpisodeUnavailable, match=r"given up meanwhile.*reset"):
            await env.call("echo", {"text": "hi"})
        with pytest.raises(EpisodeUnavailable, match="reset first"):
            await env.state()
        await env.reset()


async def come_true(condition: Callable[[], bool]) -> None:
    """Wait until something is so that nothing announces."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def noticed(env: Any) -> None:
    """Wait until a client's connection knows that it was cut."""
    client = getattr(env, "_env", env)
    await come_true(lambda: client._connection is None or client._connection.state is not State.OPEN)


async def cut_when_it_is_called(server: EnvServer, network: Relay) -> None:
    await come_true(lambda: server.gateway.in_flight > 0)
    network.cut()


@BOTH
async def test_a_mistake_is_told_and_harms_no_episode(client: Any, tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, client(server.url, "echo") as env:
        with pytest.raises(EpisodeUnavailable, match="reset first"):
            await env.call("echo", {"text": "hi"})
        with pytest.raises(InvalidRequest, match="no task 'nope'; there are: be-good, fix-readme"):
            await env.reset(task="nope")
        with pytest.raises(EpisodeUnavailable, match="reset first"):
            await env.state()
        await env.reset()
        with pytest.raises(InvalidRequest, match="no action of type 'dance'"):
            await env.step({"type": "dance"})
        with pytest.raises(InvalidRequest, match="is JSON"):
            await env.call("echo", {"text": float("inf")})
        with pytest.raises(InvalidRequest, match="no task 'nope'"):
            await env.reset(task="nope")
        assert (await env.call("echo", {"text": "still here"})).text == "still here"
        assert (await env.call("nothing", {})).error.error_type == "tool_not_found"
        await env.submit()
        with pytest.raises(EpisodeUnavailable, match=r"over \(submitted\): reset"):
            await env.submit()


@BOTH
async def test_a_lost_server_truncates_the_episode_without_a_reward(client: Any, tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, client(server.url) as env:
        await env.reset()
        end = await env.call("crash", {})
        assert (end.done, end.truncated, end.done_reason) == (True, True, DoneReason.SERVER_FAILED)
        assert end.reward is None
        assert (await env.reset()).prompt is not None


@BOTH
async def test_a_full_server_says_so_and_a_later_reset_gets_the_place(client: Any, tmp_path: Path) -> None:
    one = GatewaySettings(mode="training", max_sessions=1)
    hurried = EpisodeSettings(queue=0)
    async with env_server(tmp_path, settings=one, playing=hurried) as server, client(server.url) as late:
        async with AsyncEnv(server.url) as first:
            await first.reset()
            with pytest.raises(CapacityReached, match="already has 1 sessions") as full:
                await late.reset()
            assert full.value.retry_after > 0
        assert (await late.reset()).task == "be-good"


@BOTH
async def test_who_may_not_train_is_told_so(client: Any, tmp_path: Path) -> None:
    who = people(trainer="orchestrator", worker="agent")
    async with env_server(tmp_path, identity=who) as server:
        for token in (None, "unknown", "worker"):
            async with client(server.url, token=token) as env:
                with pytest.raises(NotAllowed, match="orchestrator"):
                    await env.reset()
        async with client(server.url, token="trainer") as env:
            assert (await env.reset()).task == "be-good"


@BOTH
async def test_no_server_and_no_such_pack_are_told_apart(client: Any, tmp_path: Path) -> None:
    async with env_server(tmp_path, packs=("a", "b")) as server:
        for pack in (None, "c"):
            async with client(server.url, pack) as env:
                with pytest.raises(ConnectionLost, match=r"no environment at .*--mode training"):
                    await env.reset()
        async with client(server.url, "b") as env:
            assert (await env.reset()).task == "be-good"
    async with client(server.url, "b", timeout=5) as env:
        with pytest.raises(ConnectionLost, match="cannot talk to"):
            await env.reset()


RESET = '{"type":"observation","data":{"observation":{},"reward":null,"done":false,"metadata":{}}}'


@asynccontextmanager
async def answering(*answers: str | bytes | None, **options: Any) -> AsyncGenerator[str]:
    """A peer that answers each frame of a connection with the next of `answers`; `None` closes it."""

    async def script(connection: ServerConnection) -> None:
        for answer in answers:
            await connection.recv()
            if answer is None:
                return
            await connection.send(answer)
        await connection.wait_closed()

    async with peer(script) as url:
        yield url


@BOTH
@pytest.mark.parametrize("garbage", ["", "[]", b"\xff\x00", RESET.replace("false", '"no"')])
async def test_a_peer_that_is_no_environment_is_blamed_and_left(client: Any, garbage: Any) -> None:
    async with answering(RESET, garbage) as url, client(url) as env:
        await env.reset()
        with pytest.raises(ProtocolBroken, match="the server's answer"):
            await env.call("echo")
        with pytest.raises(EpisodeUnavailable):
            await env.call("echo")


@BOTH
async def test_a_broken_connection_loses_the_episode_and_a_reset_opens_the_next(client: Any) -> None:
    async with answering(RESET, None) as url, client(url) as env:
        await env.reset()
        with pytest.raises(ConnectionLost, match="closed the connection"):
            await env.call("echo")
        with pytest.raises(EpisodeUnavailable):
            await env.call("echo")
        assert (await env.reset()).episode_id == ""


@BOTH
async def test_a_reset_connects_again_where_the_old_connection_died_unnoticed(client: Any) -> None:
    async with answering(RESET, None) as url, client(url) as env:
        await env.reset()
        await env.reset()
        assert (await env.reset()).observation == {}


@BOTH
async def test_a_late_answer_is_never_taken_for_the_next_one(client: Any) -> None:
    async def script(connection: ServerConnection) -> None:
        async for frame in connection:
            if '"close"' in str(frame):
                return
            if '"reset"' in str(frame):
                await connection.send(RESET)

    async with peer(script) as url, client(url, timeout=0.2) as env:
        await env.reset()
        with pytest.raises(AnswerLate, match=r"within 0.2 s"):
            await env.call("echo")
        with pytest.raises(EpisodeUnavailable):
            await env.state()
        assert (await env.reset()).observation == {}


@BOTH
async def test_a_server_that_gives_up_is_told_and_left(client: Any) -> None:
    failed = '{"type":"error","data":{"message":"no sandbox","code":"FACTORY_ERROR"}}'
    async with answering(failed) as url, client(url) as env:
        with pytest.raises(ServerFailed, match="no sandbox"):
            await env.reset()


async def test_a_cancelled_step_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server, AsyncEnv(server.url) as env:
        await env.reset()
        with anyio.move_on_after(0.1) as cut:
            await env.call("sleep", {"seconds": 3})
        assert cut.cancelled_caught
        with pytest.raises(EpisodeUnavailable):
            await env.call("echo", {"text": "hi"})
        await env.reset()
        assert (await env.call("echo", {"text": "next"})).text == "next"


async def test_calls_at_the_same_time_queue_and_get_their_own_answers(tmp_path: Path) -> None:
    texts: dict[int, str] = {}
    async with env_server(tmp_path) as server, AsyncEnv(server.url) as env:
        await env.reset()

        async def call(number: int) -> None:
            texts[number] = (await env.call("echo", {"text": str(number)})).text

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(call, number)
    assert texts == {number: str(number) for number in range(5)}
