"""Callers and servers of different eras, and what has to survive between them: raw on both sides."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.runtime.announcements import MOST_LISTENERS
from gateway.runtime.audit import query
from gateway.runtime.gateway import Gateway
from gateway.sandbox.contract import SandboxSpec
from gateway.serve.mcp import peers
from tests.support.bridging import ALICE, FORMS, modern, serving, streamed
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, modern_meta, texts

ERAS = [LEGACY, MODERN]
SERVERS = ["old", "new"]
BIG = 123456789012345678901
GONE = SandboxSpec(name="gone", argv=("/no/such/program",))


# -- questions across eras


@pytest.mark.parametrize("server", SERVERS)
async def test_a_caller_without_a_session_is_asked_by_the_result_whatever_the_server_speaks(
    tmp_path: Path, server: str
) -> None:
    async with serving(tmp_path) as (mcp, _):
        asked = (await modern(mcp, f"{server}_greet", FORMS))["result"]
        assert asked["resultType"] == "input_required"
        ((key, request),) = asked["inputRequests"].items()
        assert request["method"] == "elicitation/create"
        assert request["params"]["requestedSchema"]["x-unknown"] == BIG
        assert request["params"]["unknownField"] == [BIG]
        state = asked["requestState"]
        answers = {key: ALICE}

        other = await modern(mcp, f"{server}_seen", FORMS, requestState=state, inputResponses=answers)
        assert other["error"]["code"] == -32602
        forged = ("B" if state[0] == "A" else "A") + state[1:]
        refused = await modern(mcp, f"{server}_greet", FORMS, requestState=forged, inputResponses=answers)
        assert "error" in refused, refused
        assert refused["error"]["code"] == -32602

        done = await modern(mcp, f"{server}_greet", FORMS, requestState=state, inputResponses=answers)
        assert done["result"]["resultType"] == "complete"
        assert done["result"]["content"][0]["text"].startswith("hello Alice")
    records = [r for r in query(tmp_path / "state") if r["tool"] == "greet"]
    assert [record["event"] for record in records] == ["decision", "outcome"] * 2


@pytest.mark.parametrize("server", SERVERS)
async def test_a_caller_with_a_session_is_asked_on_its_stream_whatever_the_server_speaks(
    tmp_path: Path, server: str
) -> None:
    async with serving(tmp_path) as (mcp, _):
        mcp.capabilities = FORMS
        question, result = await streamed(mcp, f"{server}_greet", ALICE)
        assert question["method"] == "elicitation/create"
        assert question["params"]["unknownField"] == [BIG]
        assert result["result"]["content"][0]["text"].startswith("hello Alice")
        assert "resultType" not in result["result"]


async def test_a_server_that_asks_without_end_or_twice_by_one_id_is_refused_and_its_call_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as (mcp, _):
        mcp.capabilities = FORMS
        *questions, result = await streamed(mcp, "old_pester", answer=None)
        asked = [question["params"]["message"] for question in questions if "id" in question]
        assert asked == [f"p{number}" for number in range(16)]
        refused = json.loads(result["result"]["content"][0]["text"])
        assert refused == sorted(["p0", *(f"p{number}" for number in range(16, 40))])
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_client_that_declared_nothing_is_asked_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        (legacy,) = await streamed(mcp, "old_greet")
        assert "-32601" in legacy["result"]["content"][0]["text"]
        assert "-32601" in (await modern(mcp, "old_greet"))["result"]["content"][0]["text"]


@pytest.mark.parametrize("declared", [{}, {"sampling": {}}, {"elicitation": {"url": {}}}])
async def test_a_question_that_a_caller_did_not_declare_becomes_the_protocols_own_refusal(
    tmp_path: Path, declared: dict[str, Any]
) -> None:
    lacks: dict[str, Any] = {"form": {}} if "elicitation" in declared else {}
    data = {"requiredCapabilities": {"elicitation": lacks}}
    async with serving(tmp_path) as (mcp, _):
        params: dict[str, Any] = {"name": "new_greet", "arguments": {}}
        meta = {"io.modelcontextprotocol/clientCapabilities": declared, "progressToken": 1}
        answers = [await mcp.modern("tools/call", {**params, "_meta": meta}) for _ in range(2)]
        client = RawMcp(mcp.http, mcp.url, capabilities=declared)
        legacy = await client.call(LEGACY, "new_greet")
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["data"]) == (400, -32021, data)
    assert legacy.json()["error"]["data"] == data


@pytest.mark.parametrize("server", SERVERS)
async def test_a_caller_that_takes_no_streams_is_asked_where_it_listens_or_told_that_it_is_not(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_LISTENING_SECONDS", 0.2)
    async with serving(tmp_path) as (mcp, _):
        mcp.capabilities = FORMS
        await mcp.initialize()
        call: dict[str, Any] = {"name": f"{server}_greet", "arguments": {}}
        calls: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        session = {"mcp-session-id": mcp.session_id or "", "accept": "application/json"}
        early = {**session, "mcp-protocol-version": "2025-03-26", "accept": "*/*"}
        with anyio.fail_after(20):
            alone = await mcp.post(json.dumps(calls).encode(), session)
            batch = await mcp.post(json.dumps([calls]).encode(), early)
        for answer in (alone.json(), batch.json()[0]):
            assert "no stream on which it could be asked" in json.dumps(answer)


async def test_a_server_is_told_exactly_what_its_own_caller_can_do(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        roots = {"roots": {"listChanged": True}}
        for capabilities in (FORMS, roots, {}):
            client = RawMcp(mcp.http, mcp.url, capabilities=capabilities)
            for tool in ("old_can", "new_can"):
                assert json.loads(texts(await client.call(LEGACY, tool))) == capabilities
            told = await modern(client, "new_can", capabilities)
            assert json.loads(told["result"]["content"][0]["text"]) == capabilities


# -- what survives


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", SERVERS)
async def test_what_no_library_knows_comes_through(tmp_path: Path, era: str, server: str) -> None:
    async with serving(tmp_path) as (mcp, _):
        result = (await mcp.call(era, f"{server}_rich")).json()["result"]
        assert result["content"] == [{"type": "hologram", "frames": [BIG], "annotations": {"x": 1.5}}]
        assert result["structuredContent"] == {"n": BIG}
        assert result["extra"] == {"deep": [None, BIG]}
        assert result["_meta"]["a/b"] == BIG
        tools = (await mcp.send(era, "tools/list")).json()["result"]["tools"]
        tool = next(each for each in tools if each["name"] == f"{server}_rich")
        assert tool["inputSchema"]["$defs"] == {"x": {"const": BIG}}
        assert tool["unknownField"] == {"n": BIG}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", SERVERS)
async def test_trace_context_travels_and_the_hops_own_words_do_not(
    tmp_path: Path, era: str, server: str
) -> None:
    async with serving(tmp_path) as (mcp, _):
        meta = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "com.example/x": BIG}
        params = {"name": f"{server}_trace", "arguments": {}, "_meta": meta}
        got = json.loads(texts(await mcp.send(era, "tools/call", params)))
        assert meta.items() <= got.items()
        client = got.get("io.modelcontextprotocol/clientInfo", {"name": "sandgate"})
        assert client["name"] == "sandgate"


@pytest.mark.parametrize("server", SERVERS)
async def test_progress_comes_under_the_callers_token_and_logs_by_its_level(
    tmp_path: Path, server: str
) -> None:
    async with serving(tmp_path) as (mcp, _):
        *said, result = await streamed(mcp, f"{server}_steps", progressToken="mine")
        progress = [each["params"] for each in said if each["method"] == "notifications/progress"]
        assert [each["progress"] for each in progress] == [1, 2, 3]
        assert {each["progressToken"] for each in progress} == {"mine"}
        assert {each["y"] for each in progress} == {BIG}
        assert len([each for each in said if each["method"] == "notifications/message"]) == 3
        assert result["result"]["content"][0]["text"] == "done"
        await mcp.legacy("logging/setLevel", {"level": "error"})
        *said, _ = await streamed(mcp, f"{server}_steps")
        assert [each["params"]["level"] for each in said] == ["error", "error"]


@pytest.mark.parametrize(
    ("era", "server", "code"),
    [(LEGACY, "legacy", -32002), (LEGACY, "modern", -32602), (MODERN, "legacy", -32602)],
)
async def test_a_resource_that_is_not_there_is_told_as_the_callers_era_has_it(
    tmp_path: Path, era: str, server: str, code: int
) -> None:
    async with serving(tmp_path) as (mcp, _):
        uri = f"doc://{server}/gone/x"
        error = (await mcp.send(era, "resources/read", {"uri": uri})).json()["error"]
    assert (error["code"], error["data"]) == (code, {"uri": uri})


@pytest.mark.parametrize("era", ERAS)
async def test_resources_of_two_servers_are_listed_together_and_a_shared_uri_is_the_firsts(
    tmp_path: Path, era: str
) -> None:
    async with serving(tmp_path) as (mcp, _):
        listed = (await mcp.send(era, "resources/list")).json()["result"]["resources"]
        assert [each["uri"] for each in listed] == ["doc://legacy/a", "doc://shared/b", "doc://modern/a"]
        assert {each["unknownField"] for each in listed} == {BIG}
        for uri, by in (("doc://shared/b", "legacy"), ("doc://modern/a", "modern")):
            answer = await mcp.send(era, "resources/read", {"uri": uri})
            (content,) = answer.json()["result"]["contents"]
            assert (content["text"], content["unknownField"]) == (by, BIG)
        denied = (await mcp.send(era, "resources/read", {"uri": "doc://secret/c"})).json()["error"]
        assert "secrets are not read" in denied["message"]
        assert not -32768 <= denied["code"] <= -32000
        absent = (await mcp.send(era, "resources/read", {"uri": "doc://nowhere/x"})).json()["error"]
        assert (absent["code"], absent["data"]["uri"]) == (-32602, "doc://nowhere/x")
        for name, by in (("old_hello", "legacy"), ("new_hello", "modern")):
            got = (await mcp.send(era, "prompts/get", {"name": name})).json()["result"]
            assert (got["messages"][0]["content"]["text"], got["unknownField"]) == (by, BIG)
    records = [r for r in query(tmp_path / "state") if str(r["tool"]).startswith("resource:")]
    assert [r["event"] for r in records] == ["decision", "outcome"] * 4


@pytest.mark.parametrize("era", ERAS)
async def test_a_completion_is_judged_as_its_prompt_and_its_server_gets_what_was_judged(
    tmp_path: Path, era: str
) -> None:
    async with serving(tmp_path) as (mcp, _):

        async def complete(ref: dict[str, Any], value: str) -> dict[str, Any]:
            params = {
                "ref": ref,
                "argument": {"name": "file", "value": value},
                "context": {"arguments": {"other": "./x"}},
            }
            return (await mcp.send(era, "completion/complete", params)).json()

        prompt = {"type": "ref/prompt", "name": "old_hello"}
        answer = (await complete(prompt, "docs/../notes"))["result"]["completion"]
        assert answer["unknownField"] == BIG
        assert json.loads(answer["values"][0]) == {
            "ref": {"type": "ref/prompt", "name": "hello"},
            "argument": {"name": "file", "value": "/workspace/notes"},
            "context": {"arguments": {"other": "./x"}},
        }
        assert "drafts are not completed" in (await complete(prompt, "docs/../drafts/a"))["error"]["message"]
        doc = {"type": "ref/resource", "uri": "doc://legacy/a"}
        (came,) = (await complete(doc, "docs/../drafts"))["result"]["completion"]["values"]
        assert json.loads(came)["argument"] == {"name": "file", "value": "docs/../drafts"}
        secret = await complete({"type": "ref/resource", "uri": "doc://secret/c"}, "x")
        assert "secrets are not read" in secret["error"]["message"]
        odd = await complete({"type": "ref/Prompt", "uri": "doc://legacy/a", "name": "hello"}, "x")
        assert odd["error"]["code"] == -32602
    records = [r for r in query(tmp_path / "state") if r["event"] == "decision"]
    assert [r["tool"] for r in records] == ["prompt:hello"] * 2 + [
        "resource:doc://legacy/a",
        "resource:doc://secret/c",
    ]


# -- change notices


async def test_a_stream_of_changes_tells_what_was_asked_for_and_streams_are_limited(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await modern(mcp, "old_seen")
        (session,) = gateway._sessions  # pyright: ignore[reportPrivateUsage]
        wanted = {"toolsListChanged": True}
        params = {"notifications": wanted, "_meta": modern_meta()}
        body = {"jsonrpc": "2.0", "id": "sub", "method": "subscriptions/listen", "params": params}
        headers = {
            **mcp.modern_headers("subscriptions/listen", {}),
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        async with mcp.http.stream("POST", mcp.url, json=body, headers=headers) as response:
            lines = response.aiter_lines()
            told = await event(lines)
            assert told["method"] == "notifications/subscriptions/acknowledged"
            assert told["params"]["notifications"] == wanted
            session.announcements.publish("notifications/prompts/list_changed", {})
            session.announcements.publish("notifications/tools/list_changed", {"x": BIG})
            told = await event(lines)
            assert told["method"] == "notifications/tools/list_changed"
            assert told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "sub"
            assert told["params"]["x"] == BIG
            with ExitStack() as others:
                for _ in range(MOST_LISTENERS - 1):
                    others.enter_context(session.announcements.listening())
                refused = await mcp.post(json.dumps({**body, "id": "more"}).encode(), headers)
                assert refused.status_code == 429
        await until(lambda: not session.announcements._listeners)  # pyright: ignore[reportPrivateUsage]


async def event(lines: AsyncIterator[str]) -> Any:
    async for line in lines:
        if line.startswith("data:"):
            return json.loads(line[5:])
    raise AssertionError("the stream ended")


async def test_a_server_that_cannot_list_is_named_and_hides_nothing_of_the_others(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await modern(mcp, "old_seen")
        await modern(mcp, "new_seen")
        (session,) = gateway._sessions  # pyright: ignore[reportPrivateUsage]
        broken = await session.lease.server("old")
        await broken.kill()
        served = dict(session.lease._plans)  # pyright: ignore[reportPrivateUsage]
        session.lease._plans = {**served, "old": replace(served["old"], spec=GONE)}  # pyright: ignore[reportPrivateUsage]
        listed = (await mcp.modern("resources/list")).json()["result"]
        assert [each["uri"] for each in listed["resources"]] == ["doc://shared/b", "doc://modern/a"][::-1]
        assert listed["_meta"]["sandgate/unavailable"] == ["bridge.old"]


# -- cancellation


async def test_a_cancelled_call_is_cancelled_at_its_server_in_both_eras(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await mcp.call(LEGACY, "old_seen")
        slow = {"jsonrpc": "2.0", "id": "s", "method": "tools/call"}
        slow["params"] = {"name": "old_slow", "arguments": {}}  # type: ignore[assignment]
        notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "s"}}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mcp.post, json.dumps(slow).encode(), mcp.legacy_headers())
            asked = 1
            while texts(await mcp.call(LEGACY, "old_seen")).count("tools/call") < asked + 2:
                asked += 1  # a call that its server has not heard of is not cancelled there
            await mcp.post(json.dumps(notice).encode(), mcp.legacy_headers())
        await until(lambda: busy(gateway) == 0)
        assert "notifications/cancelled" in texts(await mcp.call(LEGACY, "old_seen"))

        await modern(mcp, "new_seen")
        with anyio.move_on_after(0.5):
            await modern(mcp, "new_slow")
        await until(lambda: busy(gateway) == 0)
        told = await modern(mcp, "new_seen")
        assert "notifications/cancelled" in told["result"]["content"][0]["text"]


async def test_many_random_cancels_leave_nothing_behind(tmp_path: Path) -> None:
    chance = random.Random(1)
    async with serving(tmp_path) as (mcp, gateway):
        await modern(mcp, "new_seen")
        await modern(mcp, "old_seen")
        before = len(anyio_tasks())

        async def one() -> None:
            with anyio.move_on_after(chance.random() * 0.2):
                await modern(mcp, chance.choice(["old_slow", "new_slow", "old_steps", "new_greet"]), FORMS)

        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(one)
        await until(lambda: busy(gateway) == 0)
        assert "method" not in json.dumps(await modern(mcp, "new_rich"))
        await until(lambda: len(anyio_tasks()) <= before + 2)
    records = list(query(tmp_path / "state"))
    events = [record["event"] for record in records]
    assert events.count("decision") == events.count("outcome")


def anyio_tasks() -> list[Any]:
    return [task for task in anyio.get_running_tasks() if task.name and "gateway" in task.name]


def busy(gateway: Gateway) -> int:
    return sum(session.in_flight for session in gateway._sessions)  # pyright: ignore[reportPrivateUsage]


async def until(holds: Any) -> None:
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - what is waited for is in the gateway and says nothing
            await anyio.sleep(0.01)
