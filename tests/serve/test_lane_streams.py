"""What is said before an answer, in the lane and on the road: JSON until then, events from then on."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.serve import event_stream
from gateway.serve.app import GatewayApp, build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.mcp.quick import QuickCalls
from gateway.serve.security import HttpSecurity
from tests.support.gateways import served
from tests.support.http_serving import running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, modern_meta

ERAS = [LEGACY, MODERN]
FORMS: dict[str, Any] = {"elicitation": {}}
CAN = "io.modelcontextprotocol/clientCapabilities"
LEVEL = "io.modelcontextprotocol/logLevel"
ALICE = {"result": {"action": "accept", "content": {"name": "Alice"}}}


@dataclass
class Roads:
    """One gateway with the bridge pack behind two servers; `taken` are the calls that the lane took."""

    lane: RawMcp
    road: RawMcp
    gateway: Gateway
    taken: list[str]
    app: GatewayApp


@asynccontextmanager
async def both_roads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: GatewaySettings | None = None
) -> AsyncGenerator[Roads]:
    answer, taken = QuickCalls.answer, list[str]()

    async def noted(self: QuickCalls, quick: Any, stream: Any) -> Any:
        taken.append(quick.name)
        return await answer(self, quick, stream)

    monkeypatch.setattr(QuickCalls, "answer", noted)
    async with served(tmp_path, pack="bridge", settings=settings) as gateway:
        security = HttpSecurity.bound_to("127.0.0.1")
        fast = build_app(gateway, identity=LOCAL_IDENTITY, security=security)
        slow = build_app(gateway, identity=LOCAL_IDENTITY, security=security, lane=False)
        async with (
            running(fast, gateway) as lane,
            running(slow, gateway) as road,
            httpx2.AsyncClient(timeout=15) as http,
        ):
            yield Roads(RawMcp(http, lane + "/mcp"), RawMcp(http, road + "/mcp"), gateway, taken, fast)


async def warm(mcp: RawMcp, era: str, tool: str) -> None:
    """Open the session, and start the server: so far the road does it."""
    if era == LEGACY and mcp.session_id is None:
        await mcp.initialize()
    server = tool.split("_")[0]
    await mcp.send(era, "tools/call", {"name": f"{server}_seen", "arguments": {}, "_meta": {CAN: FORMS}})


async def call(
    mcp: RawMcp,
    era: str,
    tool: str,
    meta: dict[str, Any] | None = None,
    answer: dict[str, Any] | None = None,
    accept: str = "application/json, text/event-stream",
    leave_after: int | None = None,
) -> tuple[str, list[Any]]:
    """Call a tool; return the answer's type and all messages that came. Questions get `answer`."""
    meta = modern_meta(**(meta or {})) if era == MODERN else meta or {}
    params: dict[str, Any] = {"name": tool, "arguments": {}, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": next(mcp.ids), "method": "tools/call", "params": params}
    own = mcp.modern_headers("tools/call", params) if era == MODERN else mcp.legacy_headers()
    headers = {**own, "content-type": "application/json", "accept": accept}
    came: list[Any] = []
    async with mcp.http.stream("POST", mcp.url, json=body, headers=headers) as response:
        media = response.headers["content-type"].split(";")[0]
        assert response.headers.get("mcp-session-id") == (mcp.session_id if era == LEGACY else None)
        if media == "application/json":
            message = json.loads(await response.aread())
            lacks = message.get("error", {}).get("code") == -32021
            assert response.status_code == (400 if lacks else 200)
            return media, [message]
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            came.append(json.loads(line[5:]))
            if len(came) == leave_after:
                break
            if answer is not None and "id" in came[-1] and "method" in came[-1]:
                told = {"jsonrpc": "2.0", "id": came[-1]["id"], **answer}
                heard = await mcp.post(json.dumps(told).encode(), mcp.legacy_headers())
                assert (heard.status_code, heard.content) == (202, b"")
    return media, came


def told(came: tuple[str, list[Any]]) -> Any:
    """Return what came without ids, states and what else differs each time."""
    media, messages = came
    text = json.loads(
        re.sub(r'\\"id\\": \\"q\d+\\"', "", json.dumps(messages))
    )  # the server's count of all it heard
    for message in text:
        message.pop("id", None)
        result = message.get("result", {})
        result.pop("requestState", None)
        result.get("_meta", {}).get("sandgate/decision", {}).pop("call_id", None)
    return media, text


SCRIPTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "progress": (LEGACY, "_steps", {"progressToken": "mine"}),
    "progress by a number": (LEGACY, "_steps", {"progressToken": 7}),
    "logs of a session": (LEGACY, "_steps", {}),
    "nothing said": (LEGACY, "_seen", {"progressToken": "mine"}),
    "progress without a session": (MODERN, "_steps", {"progressToken": "mine"}),
    "a log level": (MODERN, "_steps", {LEVEL: "error"}),
    "both": (MODERN, "_steps", {LEVEL: "debug", "progressToken": 3}),
    "a level and nothing said": (MODERN, "_rich", {LEVEL: "debug"}),
    "a client that can be asked": (MODERN, "_rich", {CAN: {**FORMS, "sampling": {}, "roots": {}}}),
    "a question without a session": (MODERN, "_greet", {CAN: FORMS}),
    "a question that was not agreed": (MODERN, "_greet", {CAN: {"sampling": {}}}),
}


@pytest.mark.parametrize("what", SCRIPTS)
async def test_what_is_said_before_an_answer_comes_as_on_the_road(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    era, tool, meta = SCRIPTS[what]
    async with both_roads(tmp_path, monkeypatch) as roads:
        for server in ("old", "new"):
            for mcp in (roads.lane, roads.road):
                await warm(mcp, era, server + tool)
            roads.taken.clear()
            fast, slow = [await call(mcp, era, server + tool, meta) for mcp in (roads.lane, roads.road)]
            if tool == "_seen":  # counts what came before
                fast[1][0]["result"]["content"] = slow[1][0]["result"]["content"] = []
            assert told(fast) == told(slow), server
            assert roads.taken == [server + tool]
            assert (fast[0] == "text/event-stream") == (len(fast[1]) > 1)


@pytest.mark.parametrize("server", ["old", "new"])
@pytest.mark.parametrize(
    "answer",
    [
        ALICE,
        {"result": {"action": "decline"}},
        {"error": {"code": -32001, "message": "not now", "data": [1]}},
    ],
)
async def test_a_client_with_a_session_is_asked_on_the_stream_of_its_call(
    server: str, answer: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        came: list[Any] = []
        for mcp in (roads.lane, roads.road):
            mcp.capabilities = FORMS
            await warm(mcp, LEGACY, server + "_")
            roads.taken.clear()
            came.append(told(await call(mcp, LEGACY, server + "_greet", answer=answer)))
            if mcp is roads.lane:
                assert roads.taken == [server + "_greet"]
        assert came[0] == came[1]
        assert came[0][1][0]["method"] == "elicitation/create"


async def test_a_client_that_takes_no_streams_gets_the_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        for era in ERAS:
            for mcp in (roads.lane, roads.road):
                await warm(mcp, era, "old_steps")
            roads.taken.clear()
            fast, slow = [
                told(await call(mcp, era, "old_steps", {"progressToken": 1}, accept="application/json"))
                for mcp in (roads.lane, roads.road)
            ]
            assert fast == slow
            assert fast[0] == "application/json"
            assert roads.taken == ["old_steps"]


async def test_an_answer_that_nobody_asked_for_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        for mcp in (roads.lane, roads.road):
            await mcp.initialize()
            for answer in ({"id": "sandgate-1"}, {"id": 1}, {"id": None}):
                told = {"jsonrpc": "2.0", **answer, **ALICE}
                heard = await mcp.post(json.dumps(told).encode(), mcp.legacy_headers())
                assert heard.status_code in (202, 400)
        other = RawMcp(roads.lane.http, roads.lane.url, capabilities=FORMS)
        await warm(other, LEGACY, "old_greet")

        async def steal(mcp: RawMcp, question: dict[str, Any]) -> int:
            answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
            return (await mcp.post(json.dumps(answer).encode(), mcp.legacy_headers())).status_code

        params: dict[str, Any] = {"name": "old_greet", "arguments": {}}
        body = {"jsonrpc": "2.0", "id": 900, "method": "tools/call", "params": params}
        headers = {**other.legacy_headers(), "content-type": "application/json", "accept": "*/*"}
        async with other.http.stream("POST", other.url, json=body, headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:") and "method" in line:
                    question = json.loads(line[5:])
                    await steal(roads.lane, question)  # from a session of the same principal, even
                    told = {"jsonrpc": "2.0", "id": question["id"], **ALICE}
                    await other.post(json.dumps(told).encode(), other.legacy_headers())
                elif line.startswith("data:"):
                    assert "hello Alice" in line


async def test_a_modern_caller_that_leaves_its_stream_cancels_its_call_and_a_legacy_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        for era in ERAS:
            mcp = RawMcp(roads.lane.http, roads.lane.url, capabilities=FORMS)
            await warm(mcp, era, "old_steps")
            roads.taken.clear()
            _, came = await call(mcp, era, "old_steps", {"progressToken": 1}, leave_after=1)
            assert len(came) == 1
            assert roads.taken == ["old_steps"]
            with anyio.fail_after(8):
                while roads.gateway.in_flight:  # noqa: ASYNC110  nothing announces it
                    await anyio.sleep(0.01)
            assert (
                await mcp.send(era, "tools/call", {"name": "old_rich", "arguments": {}})
            ).status_code == 200


@pytest.mark.parametrize("tool", ["old_slow", "old_greet"])
async def test_a_cancelled_call_ends_its_stream_with_what_the_road_says(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        with anyio.fail_after(8):
            fast, slow = [await cancelled(mcp, tool, roads.gateway) for mcp in (roads.lane, roads.road)]
        assert fast == slow
        assert "error" in fast[1]
    assert roads.taken == [tool]


async def cancelled(mcp: RawMcp, tool: str, gateway: Gateway) -> tuple[str, Any]:
    """Call a tool, cancel the call while it runs; return the answer's type and the last that was said."""
    mcp.capabilities = FORMS
    await warm(mcp, LEGACY, "old_")
    params: dict[str, Any] = {"name": tool, "arguments": {}}
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": params}
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
    answers: list[httpx2.Response] = []

    async def ask() -> None:
        headers = {**mcp.legacy_headers(), "content-type": "application/json", "accept": "*/*"}
        answers.append(await mcp.http.post(mcp.url, json=body, headers=headers))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        while not gateway.in_flight:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        await anyio.sleep(0.2)
        await mcp.post(json.dumps(note).encode(), mcp.legacy_headers())
    lines = [line[5:] for line in answers[0].text.splitlines() if line.startswith("data:")]
    last = json.loads(lines[-1] if lines else answers[0].text)
    return answers[0].headers["content-type"].split(";")[0], last


async def test_a_call_that_takes_long_keeps_its_connection_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.2)
    async with both_roads(tmp_path, monkeypatch) as roads:
        mcp = roads.lane
        await warm(mcp, MODERN, "old_slow")
        meta = modern_meta(progressToken=1)
        params = {"name": "old_slow", "arguments": {}, "_meta": meta}
        answer = await mcp.modern("tools/call", params)
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.text.count(": ping") > 5
        last = [line[5:] for line in answer.text.splitlines() if line.startswith("data:")][-1]
        assert json.loads(last)["result"]["content"][0]["text"] == "slept"


async def test_a_stopping_gateway_ends_a_stream_that_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.1)
    async with both_roads(tmp_path, monkeypatch) as roads:
        mcp = roads.lane
        await warm(mcp, MODERN, "old_slow")
        params = {"name": "old_slow", "arguments": {}, "_meta": modern_meta(progressToken=1)}
        body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
        own = mcp.modern_headers("tools/call", params)
        headers = {**own, "content-type": "application/json", "accept": "application/json, text/event-stream"}
        with anyio.fail_after(3):
            async with mcp.http.stream("POST", mcp.url, json=body, headers=headers) as response:
                lines: list[str] = []
                async for line in response.aiter_lines():
                    if not lines:
                        roads.app.end_requests()  # as a second signal does
                    lines.append(line)
        assert not any(line.startswith("data:") for line in lines)
