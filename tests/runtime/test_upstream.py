"""One conversation with a server that misbehaves in every way seen in the field, in a real sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.upstream import Upstream, UpstreamFailure, UpstreamSettings, relaying
from gateway.sandbox.contract import WorkspaceSpec
from tests.support.sandboxes import bubblewrap, script_spec

SETTINGS = UpstreamSettings(startup_timeout=10, call_timeout=3, max_result=1_000_000)


@asynccontextmanager
async def conversation(
    tmp_path: Path, *, start: str = "", settings: UpstreamSettings = SETTINGS
) -> AsyncGenerator[Upstream]:
    async with bubblewrap(tmp_path) as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        sandbox = await driver.acquire(script_spec("hostile_server.py", start), workspace)
        upstream = Upstream("hostile", sandbox, settings)
        async with anyio.create_task_group() as tasks:
            try:
                await upstream.start(tasks)
                yield upstream
            finally:
                with anyio.CancelScope(shield=True):
                    await upstream.kill()


async def called(upstream: Upstream, tool: str, **arguments: JsonValue) -> JsonObject:
    return await upstream.request("tools/call", {"name": tool, "arguments": arguments})


async def text_of(upstream: Upstream, tool: str) -> str:
    result = await called(upstream, tool)
    assert isinstance(result["content"], list)
    block = result["content"][0]
    assert isinstance(block, dict)
    return str(block["text"])


ANSWERED = {
    "fine": "fine",
    "garbage": "after garbage",
    "batch": "after batch",
    "twice": "first",
    "wrong_id": "yours",
    "string_id": "yours",
    "log_first": "logged",
    "stderr_flood": "flooded",
}


async def test_noise_around_an_answer_never_harms_it(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        for tool, said in ANSWERED.items():
            assert await text_of(upstream, tool) == said
        assert await text_of(upstream, "count") == str(len(ANSWERED) + 1)


FLOODS = {
    "flood_words": (FailureKind.PROTOCOL, "no answer"),
    "flood_objects": (FailureKind.PROTOCOL, "no answer"),
    "flood_blanks": (FailureKind.PROTOCOL, "no answer"),
    "flood_line": (FailureKind.TOO_LARGE, "without an end"),
}


@pytest.mark.parametrize("tool", FLOODS)
async def test_a_server_that_prints_without_end_is_ended_and_named(tmp_path: Path, tool: str) -> None:
    kind, said = FLOODS[tool]
    async with conversation(tmp_path, settings=replace(SETTINGS, call_timeout=120)) as upstream:
        with pytest.raises(UpstreamFailure, match=said) as caught:
            await called(upstream, tool)
        assert caught.value.kind == kind
        assert upstream.ended is caught.value
        assert (await upstream.sandbox.wait()).code != 0


REFUSED = [
    ("invalid_utf8", FailureKind.PROTOCOL),
    ("duplicate_keys", FailureKind.PROTOCOL),
    ("nan", FailureKind.PROTOCOL),
    ("no_result", FailureKind.PROTOCOL),
    ("not_an_object", FailureKind.PROTOCOL),
    ("big_line", FailureKind.TOO_LARGE),
    ("endless", FailureKind.TOO_LARGE),
    ("silent", FailureKind.TIMEOUT),
]


async def test_an_unacceptable_answer_fails_its_call_and_the_conversation_goes_on(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        for tool, kind in REFUSED:
            with pytest.raises(UpstreamFailure) as caught:
                await called(upstream, tool)
            assert (tool, caught.value.kind) == (tool, kind)
            assert await text_of(upstream, "fine") == "fine"


@pytest.mark.parametrize("tool", ["crash", "exit"])
async def test_a_server_that_dies_fails_every_call_it_had(tmp_path: Path, tool: str) -> None:
    kinds: list[FailureKind] = []

    async def call(name: str) -> None:
        with pytest.raises(UpstreamFailure) as caught:
            await called(upstream, name)
        kinds.append(caught.value.kind)

    async with conversation(tmp_path) as upstream:
        async with anyio.create_task_group() as calls:
            calls.start_soon(call, "silent")
            await anyio.wait_all_tasks_blocked()
            calls.start_soon(call, tool)
        assert kinds == [FailureKind.CRASHED] * 2
        await call("fine")
        assert kinds[-1] is FailureKind.CRASHED


@pytest.mark.parametrize("start", ["exit", "silent", "old"])
async def test_a_server_that_does_not_start_says_so_by_name(tmp_path: Path, start: str) -> None:
    settings = UpstreamSettings(startup_timeout=1, call_timeout=1)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with conversation(tmp_path, start=start, settings=settings):
            pass
    (failure,) = caught.value.exceptions
    assert isinstance(failure, UpstreamFailure)
    assert failure.kind is FailureKind.START_FAILED
    assert "server 'hostile' did not start" in failure.message


async def test_the_servers_own_error_arrives_unchanged(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        with pytest.raises(UpstreamFailure) as caught:
            await called(upstream, "rpc_error")
        assert caught.value.error == ServerError(-32050, "server says no", {"why": [1, 2]})


async def test_integers_of_any_length_survive(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        assert (await called(upstream, "huge_int"))["n"] == 123456789012345678901


async def test_a_server_is_answered_its_pings_and_refused_what_it_was_not_offered(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        answers = await text_of(upstream, "ping_first")
        assert '"result": {}' in answers
        assert "-32601" in answers


async def test_a_change_of_tools_is_noticed(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        before: list[JsonObject] = await upstream.list_tools()
        await called(upstream, "change_tools")
        assert upstream.stale
        after = await upstream.list_tools()
        assert (before[0]["description"], after[0]["description"]) == ("as listed", "changed")
        assert not upstream.stale


async def test_an_endless_listing_is_refused_and_stays_unknown(tmp_path: Path) -> None:
    async with conversation(tmp_path, start="endless_list") as upstream:
        with pytest.raises(UpstreamFailure, match="lists more than 100 pages") as caught:
            await upstream.list_tools()
        assert caught.value.kind is FailureKind.PROTOCOL
        assert upstream.stale


async def test_a_server_that_stops_reading_holds_up_nobody_beyond_the_deadline(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        await called(upstream, "stop_reading")
        with anyio.fail_after(6), pytest.raises(UpstreamFailure) as caught:
            await called(upstream, "fine", filler="x" * 2_000_000)
        assert caught.value.kind in {FailureKind.TIMEOUT, FailureKind.CRASHED}


class Wordy:
    """A client that answers each question at length."""

    defers = False
    log_level: str | None = None

    def __init__(self) -> None:
        self.capabilities: JsonObject = {"roots": {}}
        self.progress_token: JsonValue = None

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """Answer."""
        return {"roots": [], "more": "x" * 2_000_000}

    async def notify(self, method: str, params: JsonObject) -> None:
        """Hear, and do nothing."""


async def test_a_server_that_asks_and_does_not_read_the_answer_holds_up_nobody_beyond_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "_PUT_SECONDS", 1_000)
    async with conversation(tmp_path) as upstream:
        with anyio.fail_after(60), pytest.raises(UpstreamFailure) as caught:
            await upstream.request("tools/call", {"name": "ask_and_stop_reading", "arguments": {}}, Wordy())
        assert caught.value.kind is FailureKind.CRASHED


async def test_a_caller_that_leaves_takes_nothing_with_it(tmp_path: Path) -> None:
    async with conversation(tmp_path) as upstream:
        for _ in range(20):
            with anyio.move_on_after(0.01):
                await called(upstream, "silent")
        assert await text_of(upstream, "fine") == "fine"
        assert await text_of(upstream, "count") == "22"


async def test_sixteen_callers_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    texts: list[str] = []

    async def call() -> None:
        texts.append(await text_of(upstream, "count"))

    async with conversation(tmp_path) as upstream:
        async with anyio.create_task_group() as calls:
            for _ in range(16):
                calls.start_soon(call)
        assert sorted(texts, key=int) == [str(n) for n in range(1, 17)]
