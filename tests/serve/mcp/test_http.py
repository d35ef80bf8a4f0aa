"""MCP over HTTP against a really served pack: what is on the wire, in both eras."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from gateway.core.calls import LOCAL
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.serve.app import build_app
from gateway.serve.gate import GateLimits
from gateway.serve.identity import LOCAL_IDENTITY, Identity, load_identity
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, rule_line, running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, modern_meta, texts

ERAS = [LEGACY, MODERN]
TWO_PEOPLE = f"""\
version: 1
tokens:
  - {{sha256: "{hashlib.sha256(b"a").hexdigest()}", principal: alice, groups: [leads], roles: [agent]}}
  - {{sha256: "{hashlib.sha256(b"a2").hexdigest()}", principal: alice, roles: [agent]}}
  - {{sha256: "{hashlib.sha256(b"b").hexdigest()}", principal: bob, roles: [agent]}}
  - {{sha256: "{hashlib.sha256(b"o").hexdigest()}", principal: trainer, roles: [orchestrator]}}
"""


@asynccontextmanager
async def serving(
    tmp_path: Path,
    *,
    packs: tuple[str, ...] = ("echo",),
    identity: Identity = LOCAL_IDENTITY,
    settings: GatewaySettings | None = None,
    limits: GateLimits | None = None,
) -> AsyncGenerator[tuple[RawMcp, Gateway]]:
    async with open_echo_packs(tmp_path, *packs, settings=settings) as gateway:
        security = HttpSecurity.bound_to("127.0.0.1")
        app = build_app(gateway, identity=identity, security=security, limits=limits)
        async with running(app, gateway) as url, httpx2.AsyncClient(timeout=10) as http:
            yield RawMcp(http, url + "/mcp"), gateway


def sessions(gateway: Gateway) -> Any:
    return gateway.readiness().detail["sessions"]


async def received(mcp: RawMcp, era: str, tool: str) -> list[dict[str, Any]]:
    """Return the calls of `tool` that reached the server, as the server itself logged them."""
    log = [json.loads(line) for line in texts(await mcp.call(era, "log")).splitlines()]
    return [m["params"] for m in log if m["method"] == "tools/call" and m["params"]["name"] == tool]


# -- the main road


async def test_tools_are_listed_in_the_servers_order_without_those_the_policy_never_grants(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            tools = (await mcp.send(era, "tools/list")).json()["result"]["tools"]
            names = [tool["name"] for tool in tools]
            assert names[:3] == ["echo", "structured", "write"]
            assert "hidden" not in names
            assert tools[0]["inputSchema"]["additionalProperties"] is False


async def test_a_result_comes_through_whole_with_the_decision_added(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            answer = await mcp.call(era, "structured", value=123456789012345678901)
            result = answer.json()["result"]
            assert answer.headers["content-type"] == "application/json"
            assert result["structuredContent"] == {"value": 123456789012345678901}
            assert result["unknownField"] == [1]
            assert result["_meta"]["echo/extra"] == 1
            assert result["_meta"]["sandgate/decision"]["rule"] == "talk"


async def test_a_modern_result_says_that_it_is_complete_and_who_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        called = (await mcp.call(MODERN, "echo", text="x")).json()["result"]
        listed = (await mcp.modern("tools/list")).json()["result"]
    assert called["resultType"] == listed["resultType"] == "complete"
    assert called["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "sandgate"
    assert listed["cacheScope"] == "private"
    assert "ttlMs" in listed
    assert "ttlMs" not in called


async def test_a_denial_is_a_tool_error_that_names_rule_and_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            answer = await mcp.call(era, "echo", text="a forbidden word")
            reached = await received(mcp, era, "echo")
            result = answer.json()["result"]
            assert (answer.status_code, result["isError"]) == (200, True)
            line = rule_line("no-forbidden-words")
            assert f"'no-forbidden-words': that word is never said (policy.yaml:{line})" in texts(answer)
            assert result["_meta"]["sandgate/decision"] | {"call_id": "", "policy_sha256": ""} == {
                "effect": "deny",
                "code": "rule_deny",
                "rule": "no-forbidden-words",
                "reason": "that word is never said",
                "policy": "policy.yaml",
                "line": line,
                "policy_sha256": "",
                "call_id": "",
            }
            assert reached == []


async def test_a_tool_hidden_by_policy_is_denied_and_not_unknown(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            result = (await mcp.call(era, "hidden", text="x")).json()["result"]
            assert result["_meta"]["sandgate/decision"]["code"] == "no_match"


async def test_an_unknown_tool_is_a_protocol_error_with_its_decision(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            error = (await mcp.call(era, "nope")).json()["error"]
            assert (error["code"], error["message"]) == (-32602, "Unknown tool: nope")
            assert error["data"]["sandgate/decision"]["code"] == "unknown_tool"


async def test_a_servers_own_json_rpc_error_comes_through_unchanged(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            error = (await mcp.call(era, "rpc_error", code=-32051)).json()["error"]
            assert error == {"code": -32051, "message": "the server says no", "data": {"hint": "as asked"}}


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_has_no_say_in_how_its_caller_goes_on_with_the_gateway(
    tmp_path: Path, era: str
) -> None:
    async with serving(tmp_path) as (mcp, _):
        for code in (-32020, -32022):
            for _ in range(2):  # the first call of a session, and those the lane takes
                error = (await mcp.call(era, "rpc_error", code=code)).json()["error"]
                assert error == {
                    "code": -32603,
                    "message": "the tool server did not take the request: the server says no",
                }


async def test_trace_context_travels_on_and_what_belongs_to_one_hop_does_not(tmp_path: Path) -> None:
    meta = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "example.com/n": 123456789012345678901,
        "progressToken": 7,
        "sandgate/decision": {"effect": "allow"},
    }
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            params = {"name": "echo", "arguments": {"text": "x"}, "_meta": meta}
            await mcp.send(era, "tools/call", params)
            (call,) = await received(mcp, era, "echo")
            kept = {key: value for key, value in call["_meta"].items() if key != "progressToken"}
            assert kept == {"traceparent": meta["traceparent"], "example.com/n": 123456789012345678901}
            assert call["_meta"].get("progressToken") != 7


async def test_absent_arguments_are_an_empty_object(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        for era in ERAS:
            answer = await mcp.send(era, "tools/call", {"name": "log"})
            assert answer.json()["result"]["isError"] is False


async def test_malformed_call_parameters_are_a_protocol_error(tmp_path: Path) -> None:
    malformed: tuple[dict[str, Any], ...] = (
        {},
        {"name": 1},
        {"name": "echo", "arguments": []},
        {"name": ["echo"]},
        {"name": None},
    )
    async with serving(tmp_path) as (mcp, _):
        for params in malformed:
            legacy, modern = [(await mcp.send(era, "tools/call", params)).json()["error"] for era in ERAS]
            assert legacy["code"] == -32602
            # Modern: a name that no header can mirror is a mismatch before it is anything else.
            assert modern["code"] in {-32602, -32020}


async def test_only_tools_are_announced_and_everything_else_is_an_unknown_method(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        opened = (await mcp.initialize()).json()["result"]
        discovered = (await mcp.modern("server/discover")).json()["result"]
        legacy = await mcp.legacy("resources/list")
        modern = await mcp.modern("prompts/list")
        ping = await mcp.legacy("ping")
    assert list(opened["capabilities"]) == list(discovered["capabilities"]) == ["tools"]
    assert opened["serverInfo"]["name"] == "sandgate"
    assert legacy.json()["error"]["code"] == modern.json()["error"]["code"] == -32601
    assert modern.status_code == 404
    assert ping.json()["result"] == {}


# -- what is refused before anything happens


AMBIGUOUS = [
    b'{"text":"a","text":"b"}',
    b'{"text":NaN}',
    b'{"text":"a","Text":"b"}',
    b'{"text":"\\ud800"}',
    b'{"text":"a"',
]


@pytest.mark.parametrize("era", ERAS)
async def test_ambiguous_json_is_a_parse_error_and_nothing_reaches_the_server(
    tmp_path: Path, era: str
) -> None:
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":%s}}'
    async with serving(tmp_path) as (mcp, _):
        await mcp.initialize()
        headers = (
            mcp.legacy_headers() if era == LEGACY else mcp.modern_headers("tools/call", {"name": "echo"})
        )
        for arguments in AMBIGUOUS:
            answer = await mcp.post(call % arguments, headers)
            error = answer.json()
            assert (answer.status_code, error["error"]["code"], error["id"]) == (400, -32700, None)
        assert await received(mcp, era, "echo") == []


async def test_a_body_over_the_limit_is_told_so_readably(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=GateLimits(max_body=100_000)) as (mcp, _):
        answer = await mcp.post(b'{"x":"' + b"x" * 1_000_000 + b'"}', mcp.legacy_headers())
    assert answer.status_code == 413
    assert "100000 bytes" in answer.json()["error"]["message"]


async def test_a_foreign_host_or_page_gets_403(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            answer = await mcp.post(b"{}", headers)
            health = await mcp.http.get(mcp.url.replace("/mcp", "/health"), headers=headers)
            assert answer.status_code == health.status_code == 403


async def test_a_body_of_another_type_is_not_looked_at(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        assert (await mcp.post(b"{}", {"content-type": "text/plain"})).status_code == 415


async def test_a_modern_header_that_disagrees_with_the_body_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        params = {"name": "echo", "arguments": {"text": "x"}}
        answer = await mcp.modern("tools/call", params, headers={"mcp-name": "log"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize("stated", [None, LEGACY, "2025-03-26"])
@pytest.mark.parametrize("within", [False, True])
async def test_a_modern_body_under_a_header_of_the_other_era_is_refused_and_opens_nothing(
    tmp_path: Path, stated: str | None, *, within: bool
) -> None:
    async with serving(tmp_path) as (mcp, _):
        await mcp.initialize()
        headers = {"mcp-session-id": mcp.session_id or ""} if within else {}
        if stated is not None:
            headers["mcp-protocol-version"] = stated
        for method, params in (
            ("tools/list", {}),
            ("tools/call", {"name": "echo", "arguments": {"text": "x"}}),
        ):
            body = {
                "jsonrpc": "2.0",
                "id": "a",
                "method": method,
                "params": {**params, "_meta": modern_meta()},
            }
            answer = await mcp.post(json.dumps(body).encode(), headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
            assert answer.json()["id"] == "a"
            assert "mcp-session-id" not in answer.headers
        assert await received(mcp, LEGACY, "echo") == []


async def test_an_envelope_of_a_version_that_begins_with_initialize_is_told_which_need_none(
    tmp_path: Path,
) -> None:
    meta = modern_meta(**{"io.modelcontextprotocol/protocolVersion": LEGACY})
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {"_meta": meta}}
    async with serving(tmp_path) as (mcp, _):
        answer = await mcp.post(json.dumps(body).encode(), {"mcp-protocol-version": LEGACY})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, -32022)
    assert error["data"] == {"supported": [MODERN], "requested": LEGACY}


@pytest.mark.parametrize("method", ["tools/list", "tools/call"])
async def test_capabilities_that_are_no_object_are_an_invalid_envelope(tmp_path: Path, method: str) -> None:
    meta: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": []}
    async with serving(tmp_path) as (mcp, _):
        answer = await mcp.modern(method, {"name": "echo", "arguments": {"text": "x"}, "_meta": meta})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


NO_MESSAGES = [
    b"5",
    b'"tools/list"',
    b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":[1],"method":"tools/list"}',
    b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
    b'{"id":1,"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":1,"method":5}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}',
    b'{"jsonrpc":"2.0","id":1}',
    b'{"jsonrpc":"2.0","id":null,"result":{}}',
    b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
]


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_no_message_is_an_invalid_request_and_never_a_notification(
    tmp_path: Path, era: str
) -> None:
    async with serving(tmp_path) as (mcp, _):
        await mcp.initialize()
        headers = mcp.legacy_headers() if era == LEGACY else mcp.modern_headers("tools/list", {})
        for body in NO_MESSAGES:
            answer = await mcp.post(body, headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600), body
            assert "pydantic" not in answer.text


# -- sessions and who may use them


async def test_a_session_that_nobody_opened_is_unknown_and_a_missing_one_is_a_bad_request(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (mcp, _):
        missing = await mcp.post(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}', {})
        listening = await mcp.http.get(mcp.url, headers={"accept": "text/event-stream"})
        other_verb = await mcp.http.put(mcp.url)
        mcp.session_id = "0" * 32
        unknown = await mcp.legacy("tools/list")
        deleted = await mcp.http.delete(mcp.url, headers=mcp.legacy_headers())
    assert missing.status_code == listening.status_code == 400
    assert (other_verb.status_code, other_verb.headers["allow"]) == (405, "GET, POST, DELETE")
    assert not any("mcp-session-id" in answer.headers for answer in (missing, listening, other_verb))
    assert unknown.status_code == deleted.status_code == 404


async def test_calls_at_once_share_one_session_and_its_files(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await mcp.initialize()
        assert sessions(gateway) == 0
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(mcp.call, LEGACY, "echo")
        assert sessions(gateway) == 1
        await mcp.call(LEGACY, "write", path="a.txt", content="kept")
        assert texts(await mcp.call(LEGACY, "read", path="a.txt")) == "kept"


async def test_deleting_a_session_ends_it_and_its_sandboxes(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await mcp.initialize()
        await mcp.call(LEGACY, "echo", text="x")
        session = gateway.session("echo", mcp.session_id or "", LOCAL)
        deleted = await mcp.http.delete(mcp.url, headers=mcp.legacy_headers())
        again = await mcp.call(LEGACY, "echo", text="x")
    assert (deleted.status_code, again.status_code) == (200, 404)
    assert session.closed


async def test_a_session_that_ended_for_idleness_is_unknown_from_then_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await mcp.initialize()
        await mcp.call(LEGACY, "echo", text="x")
        await gateway.close_session(gateway.session("echo", mcp.session_id or "", LOCAL))
        first, second = await mcp.call(LEGACY, "echo", text="x"), await mcp.legacy("ping")
        assert first.status_code == second.status_code == 404
        assert (await mcp.initialize()).status_code == 200
        assert texts(await mcp.call(LEGACY, "echo", text="x")) == "x"


async def test_a_session_belongs_to_the_very_principal_that_opened_it(tmp_path: Path) -> None:
    async with serving(tmp_path, identity=load_identity(TWO_PEOPLE, "auth.yaml")) as (alice, _):
        alice.token = "a"
        await alice.initialize()
        for token in ("b", "a2"):
            other = RawMcp(alice.http, alice.url, token, alice.session_id)
            assert (await other.call(LEGACY, "echo", text="x")).status_code == 404
            assert (await other.http.delete(other.url, headers=_bearer(other))).status_code == 404
        assert texts(await alice.call(LEGACY, "echo", text="x")) == "x"


def _bearer(mcp: RawMcp) -> dict[str, str]:
    return {**mcp.legacy_headers(), "authorization": f"Bearer {mcp.token}"}


async def test_without_a_token_or_the_role_of_an_agent_nothing_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, identity=load_identity(TWO_PEOPLE, "auth.yaml")) as (mcp, _):
        nobody = await mcp.call(MODERN, "echo", text="x")
        mcp.token = "o"
        trainer = await mcp.call(MODERN, "echo", text="x")
        ready = await mcp.http.get(mcp.url.replace("/mcp", "/ready"))
    assert (nobody.status_code, trainer.status_code) == (401, 403)
    assert nobody.headers["www-authenticate"].startswith("Bearer")
    assert ready.json() == {"ready": True}


async def test_a_named_session_is_its_principals_own(tmp_path: Path) -> None:
    async with serving(tmp_path, identity=load_identity(TWO_PEOPLE, "auth.yaml")) as (alice, gateway):
        alice.token = "a"
        bob = RawMcp(alice.http, alice.url, "b")
        write = {"name": "write", "arguments": {"path": "a.txt", "content": "alice's"}}
        read = {"name": "read", "arguments": {"path": "a.txt"}}
        job = {"sandgate-session": "job-1"}
        await alice.modern("tools/call", write, headers=job)
        assert texts(await alice.modern("tools/call", read, headers=job)) == "alice's"
        for foreign in (
            await bob.modern("tools/call", read, headers=job),
            await alice.modern("tools/call", read),
            await alice.modern("tools/call", read, headers={"sandgate-session": "job-2"}),
        ):
            assert foreign.json()["result"]["isError"] is True
        assert sessions(gateway) == 4


async def test_a_named_session_is_not_shared_with_a_token_of_other_groups(tmp_path: Path) -> None:
    async with serving(tmp_path, identity=load_identity(TWO_PEOPLE, "auth.yaml")) as (leader, gateway):
        leader.token = "a"
        other = RawMcp(leader.http, leader.url, "a2")
        call = {"name": "echo", "arguments": {"text": "x"}}
        job = {"sandgate-session": "job-1"}
        assert texts(await leader.modern("tools/call", call, headers=job)) == "x"
        assert texts(await other.modern("tools/call", call, headers=job)) == "x"
        assert sessions(gateway) == 2


async def test_a_session_name_of_other_characters_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        for name in (b"", b"a b", b"a/b", b"\xe9", b"x" * 129, b"../x"):
            answer = await mcp.modern("tools/list", headers={"sandgate-session": name})
            assert (answer.status_code, sessions(gateway)) == (400, 0)


async def test_sessions_beyond_a_principals_limit_are_refused_with_a_time_to_come_back(
    tmp_path: Path,
) -> None:
    settings = GatewaySettings(max_sessions_per_principal=1)
    async with serving(tmp_path, settings=settings) as (mcp, _):
        await mcp.initialize()
        second = await RawMcp(mcp.http, mcp.url).initialize()
        await mcp.call(LEGACY, "echo", text="x")
        modern = await mcp.call(MODERN, "echo", text="x")
        await mcp.http.delete(mcp.url, headers=mcp.legacy_headers())
        third = await RawMcp(mcp.http, mcp.url).initialize()
    assert second.status_code == modern.status_code == 503
    assert second.headers["retry-after"] == modern.headers["retry-after"] == "5"
    assert "already has 1 sessions" in modern.json()["error"]["message"]
    assert third.status_code == 200


async def test_two_requests_of_one_id_never_get_each_others_answers(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        await mcp.initialize()
        await mcp.call(LEGACY, "echo", text="warm")
        # Much longer than an id is waited for whose request is about to end.
        slow = {"name": "sleep", "arguments": {"seconds": 3}}
        body = {"jsonrpc": "2.0", "id": "same", "method": "tools/call", "params": slow}
        answers: list[httpx2.Response] = []

        async def send() -> None:
            answers.append(await mcp.post(json.dumps(body).encode(), mcp.legacy_headers()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(send)
    assert sorted(answer.status_code for answer in answers) == [200, 400]


# -- leaving, cancelling, ending


async def test_a_modern_caller_that_leaves_cancels_its_call(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await mcp.call(MODERN, "echo", text="warm")
        with anyio.move_on_after(0.3):
            await mcp.call(MODERN, "sleep", seconds=4)
        with anyio.fail_after(2):
            await gateway.drain()
    assert outcomes(tmp_path)[-1]["kind"] == "failed"
    assert outcomes(tmp_path)[-1]["failure"] == "cancelled"


async def test_a_legacy_caller_cancels_by_a_notification(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await mcp.call(LEGACY, "echo", text="warm")
        slow = {"name": "sleep", "arguments": {"seconds": 4}}
        body = {"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": slow}
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            answers.append(await mcp.post(json.dumps(body).encode(), mcp.legacy_headers()))

        with anyio.fail_after(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await anyio.sleep(0.3)
                await mcp.post(json.dumps(note).encode(), mcp.legacy_headers())
            await gateway.drain()
    assert "error" in answers[0].json()
    assert outcomes(tmp_path)[-1]["failure"] == "cancelled"


def outcomes(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "state" / "audit").glob("*.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [record["outcome"] for record in records if record["event"] == "outcome"]


@pytest.mark.parametrize("era", ERAS)
async def test_while_draining_calls_get_503_and_health_still_answers(tmp_path: Path, era: str) -> None:
    async with serving(tmp_path) as (mcp, gateway):
        await mcp.call(era, "echo", text="warm")
        root = mcp.url.removesuffix("/mcp")
        assert (await mcp.http.get(root + "/ready")).json()["packs"]["echo"]["tools"] > 0
        await gateway.drain()
        refused = await mcp.call(era, "echo", text="x")
        opened = await RawMcp(mcp.http, mcp.url).initialize()
        health, ready = await mcp.http.get(root + "/health"), await mcp.http.get(root + "/ready")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "shutting down" in refused.json()["error"]["message"]
    assert (opened.status_code, health.json(), ready.status_code) == (503, {"status": "healthy"}, 503)


async def test_an_open_listening_stream_ends_properly_with_its_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        await mcp.initialize()
        headers = {**mcp.legacy_headers(), "accept": "text/event-stream"}
        async with mcp.http.stream("GET", mcp.url, headers=headers) as stream:
            await mcp.http.delete(mcp.url, headers=mcp.legacy_headers())
            with anyio.fail_after(3):
                assert b"data" not in await stream.aread()


async def test_an_open_listening_stream_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with anyio.fail_after(10):
        async with serving(tmp_path) as (mcp, _):
            await mcp.initialize()
            headers = {**mcp.legacy_headers(), "accept": "text/event-stream"}
            async with mcp.http.stream("GET", mcp.url, headers=headers) as stream:
                assert stream.status_code == 200


# -- several packs


async def test_several_packs_share_an_endpoint_under_prefixed_names_and_keep_their_own(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, packs=("one", "two")) as (mcp, gateway):
        listed = (await mcp.send(LEGACY, "tools/list")).json()["result"]["tools"]
        first = await mcp.call(LEGACY, "one__echo", text="one")
        second = await mcp.call(LEGACY, "two__echo", text="two")
        bare = await mcp.call(LEGACY, "echo", text="x")
        own = RawMcp(mcp.http, mcp.url.replace("/mcp", "/packs/two/mcp"))
        alone = await own.call(MODERN, "echo", text="alone")
        nowhere = await mcp.http.post(mcp.url.replace("/mcp", "/packs/three/mcp"), json={})
        held = sessions(gateway)
    names = [tool["name"] for tool in listed]
    half = len(names) // 2
    assert (names[0], names[half]) == ("one__echo", "two__echo")
    assert [name.removeprefix("one__") for name in names[:half]] == [
        name.removeprefix("two__") for name in names[half:]
    ]
    assert [texts(answer) for answer in (first, second, alone)] == ["one", "two", "alone"]
    assert bare.json()["error"]["message"] == "Unknown tool: echo"
    assert (nowhere.status_code, held) == (404, 3)
