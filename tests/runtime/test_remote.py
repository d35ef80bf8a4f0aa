"""Tool servers at a URL: the reference server over real HTTP, through the egress gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from gateway.core.calls import LOCAL, Answered, Failed, FailureKind, Front, Method, Outcome, ToolCall
from gateway.errors import UsageError
from gateway.runtime.audit import query
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.peer import ClientFacts, Era
from gateway.runtime.sessions import Session, new_call_id
from tests.support.processes import run_sandgate
from tests.support.remote_servers import LOOPBACK, everything_app, remote_gateway, remote_pack, served_at

ERAS: list[Era] = ["legacy", "modern"]


async def call(gateway: Gateway, session: Session, tool: str, **arguments: Any) -> Outcome:
    return await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.MCP))


def text(outcome: Outcome) -> str:
    assert isinstance(outcome, Answered), outcome
    return json.dumps(outcome.result)


async def test_a_server_at_a_url_serves_both_eras_and_every_connection_is_recorded(tmp_path: Path) -> None:
    async with served_at(everything_app()) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp"})
        async with remote_gateway(tmp_path, pack) as gateway:
            for era in ERAS:
                session = await gateway.open_session("remote", LOCAL, client=ClientFacts(era))
                assert "simple text" in text(await call(gateway, session, "test_simple_text"))
                uri = "test://static-text"
                read = ToolCall(
                    new_call_id(), uri, {}, Front.MCP, {}, Method.READ_RESOURCE, "resource", "far"
                )
                assert uri in text(await gateway.call(session, read))
    versions = {headers.get("mcp-protocol-version") for _, headers in remote.asked}
    assert {"2025-11-25", "2026-07-28"} <= versions
    records = list(query(tmp_path / "state"))
    assert {str(record["event"]) for record in records} >= {"decision", "outcome", "egress"}
    egress: list[Any] = [record for record in records if record["event"] == "egress"]
    opened, closed = ([r for r in egress if r[what]] for what in ("decision", "outcome"))
    assert len(opened) == len(closed) > 0
    assert all(r["outcome"]["kind"] == "closed" and r["outcome"]["sent"] > 0 for r in closed)
    assert sum(r["outcome"]["bytes"] for r in closed) > 1000
    assert [record["tool"] for record in records if record["event"] == "decision"] == [
        "test_simple_text",
        "resource:test://static-text",
    ] * 2


async def test_a_session_with_a_remote_server_has_its_budget_of_bytes(tmp_path: Path) -> None:
    settings = replace(LOOPBACK, egress=replace(LOOPBACK.egress, session_bytes=20_000))
    async with served_at(everything_app()) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp"})
        async with remote_gateway(tmp_path, pack, settings) as gateway:
            session = await gateway.open_session("remote", LOCAL)
            last = await call(gateway, session, "test_simple_text")
            for _ in range(100):
                if isinstance(last, Answered):
                    last = await call(gateway, session, "test_simple_text")
            assert isinstance(last, Failed)
            assert "used up" in last.message
            assert "used up" in str(await call(gateway, session, "test_simple_text"))
            other = await gateway.open_session("remote", LOCAL)
            assert "simple text" in text(await call(gateway, other, "test_simple_text"))
    egress: list[Any] = [r for r in query(tmp_path / "state") if r["event"] == "egress"]
    spent = [r for r in egress if r["session"] == session.id]
    moved = sum(r["outcome"]["bytes"] + r["outcome"]["sent"] for r in spent if r["outcome"])
    assert "budget_spent" in [r["outcome"]["kind"] for r in spent if r["outcome"]]
    assert "budget_spent" in [r["decision"]["code"] for r in spent if r["decision"]]
    assert 20_000 < moved < 20_000 + 65_536


async def test_the_operators_secret_goes_in_a_header_and_is_masked_everywhere_else(tmp_path: Path) -> None:
    async with served_at(everything_app()) as remote:
        server = {
            "url": f"{remote.url}/mcp",
            "secrets": ["KEY"],
            "headers": {"Authorization": "Bearer ${KEY}"},
        }
        pack = remote_pack(tmp_path / "pack", server)
        settings = GatewaySettings(egress=LOOPBACK.egress, secrets={"KEY": "s3cr3t-value"})
        async with remote_gateway(tmp_path, pack, settings) as gateway:
            session = await gateway.open_session("remote", LOCAL)
            await call(gateway, session, "test_simple_text")
    assert {headers.get("authorization") for _, headers in remote.asked} == {"Bearer s3cr3t-value"}
    everything = [*(tmp_path / "state").rglob("*"), *(tmp_path / "pack").rglob("*")]
    assert not any(b"s3cr3t-value" in file.read_bytes() for file in everything if file.is_file())


async def test_client_credentials_bring_tokens_that_are_renewed_when_refused(tmp_path: Path) -> None:
    good: list[str] = []
    forms: list[dict[str, str]] = []

    async def token(request: Request) -> JSONResponse:
        forms.append({key: str(value) for key, value in (await request.form()).items()})
        good[:] = [f"a/token-of-some-length-{len(forms)}"]
        return JSONResponse({"access_token": good[0], "token_type": "Bearer", "expires_in": 3600})

    inner = everything_app()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != (
            f"Bearer {good[0]}".encode() if good else b""
        ):
            await Response(status_code=401)(scope, receive, send)
            return
        await inner(scope, receive, send)

    app = Starlette(
        routes=[Route("/token", token, methods=["POST"]), Mount("/", guarded)],
        lifespan=inner.router.lifespan_context,  # type: ignore[attr-defined]
    )
    async with served_at(app) as remote:
        oauth = {"token_url": f"{remote.url}/token", "client_id": "us", "client_secret": "SECRET"}
        server = {"url": f"{remote.url}/mcp", "secrets": ["SECRET"], "oauth": oauth}
        pack = remote_pack(tmp_path / "pack", server)
        settings = GatewaySettings(egress=LOOPBACK.egress, secrets={"SECRET": "hush"})
        async with remote_gateway(tmp_path, pack, settings) as gateway:
            session = await gateway.open_session("remote", LOCAL)
            assert "simple text" in text(await call(gateway, session, "test_simple_text"))
            good[:] = ["revoked"]
            assert "simple text" in text(await call(gateway, session, "test_simple_text"))
            # A server that says back what it was sent shows nobody the operator's own access.
            said = {"name": f"<{good[0]}>", "email": "a@b.example", "contactMethod": "email"}
            assert "<[secret]>" in text(await call(gateway, session, "json_schema_2020_12_tool", **said))
    assert {form["grant_type"] for form in forms} == {"client_credentials"}
    assert {form["resource"] for form in forms} == {f"{remote.url}/mcp"}
    assert len(forms) == 2


async def test_an_address_that_the_operator_did_not_list_is_not_reached(tmp_path: Path) -> None:
    async with served_at(everything_app()) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp"})
        with pytest.raises(UsageError, match="cannot be served"):
            async with remote_gateway(tmp_path, pack, GatewaySettings()):
                pass
    assert remote.asked == []


async def test_a_server_that_goes_away_fails_the_call_and_is_found_again(tmp_path: Path) -> None:
    app = everything_app()
    gone: list[bool] = []

    async def flaky(scope: Any, receive: Any, send: Any) -> None:
        if gone and scope["type"] == "http":
            raise ConnectionError("gone")
        await app(scope, receive, send)

    async with served_at(flaky) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp"})
        async with remote_gateway(tmp_path, pack) as gateway:
            session = await gateway.open_session("remote", LOCAL)
            await call(gateway, session, "test_simple_text")
            gone.append(True)
            broken = await call(gateway, session, "test_simple_text")
            assert isinstance(broken, Failed)
            assert broken.kind in (FailureKind.SERVER_ERROR, FailureKind.CRASHED)
            gone.clear()
            assert "simple text" in text(await call(gateway, session, "test_simple_text"))


async def test_a_changed_definition_is_denied_until_it_is_locked_again(tmp_path: Path) -> None:
    async with served_at(everything_app()) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp"})
        async with remote_gateway(tmp_path, pack):
            pass
        lock = pack / "tools.lock.json"
        text = lock.read_text()
        start = text.index('"test_simple_text": "') + len('"test_simple_text": "')
        lock.write_text(text[:start] + "0" * 64 + text[start + 64 :])
        async with remote_gateway(tmp_path, pack) as gateway:
            session = await gateway.open_session("remote", LOCAL)
            outcome = await call(gateway, session, "test_simple_text")
    assert outcome.decision.code.value == "definition_changed"


async def test_the_lock_command_reaches_a_server_elsewhere_and_says_so(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text('egress: {networks: ["127.0.0.0/8"]}')
    async with served_at(everything_app()) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp"})
        argv = ("toolpack", "lock", str(pack), "--config", str(config))
        done = await anyio.to_thread.run_sync(lambda: run_sandgate(*argv))
    assert done.returncode == 0, done.stderr
    assert "far.test_simple_text: added" in done.stdout
    assert f"server 'far' connects to {remote.url.removeprefix('http://')}: allow" in done.stderr


HOSTILE: list[tuple[str, dict[str, Any], FailureKind]] = [
    ("redirect", {"status": 307, "headers": {"location": "http://127.0.0.1:1/"}}, FailureKind.SERVER_ERROR),
    ("error page", {"status": 500, "body": b"<html>", "type": "text/html"}, FailureKind.SERVER_ERROR),
    ("not JSON", {"body": b'{"jsonrpc": "2.0", "id": 1'}, FailureKind.SERVER_ERROR),
    ("duplicate keys", {"body": b'{"jsonrpc":"2.0","id":%d,"result":{"a":1,"a":2}}'}, FailureKind.PROTOCOL),
    (
        "too much",
        {"body": b'{"jsonrpc":"2.0","id":%d,"result":{"a":"' + b"x" * 3_000_000},
        FailureKind.TOO_LARGE,
    ),
    (
        "a stream cut off",
        {"body": b"event: message\ndata: {", "type": "text/event-stream"},
        FailureKind.CRASHED,
    ),
]


@pytest.mark.parametrize(("how", "said", "kind"), HOSTILE, ids=[how for how, _, _ in HOSTILE])
async def test_whatever_a_remote_server_answers_is_one_typed_failure(
    tmp_path: Path, how: str, said: dict[str, Any], kind: FailureKind
) -> None:
    inner = everything_app()

    async def hostile(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await inner(scope, receive, send)
            return
        body = (await receive())["body"]
        message = json.loads(body)
        if message.get("method") != "tools/call":
            given = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def again() -> Any:
                return next(given, None) or await receive()

            await inner(scope, again, send)
            return
        answer = said.get("body", b"")
        answer = answer % message["id"] if b"%d" in answer else answer
        headers = {"content-type": said.get("type", "application/json"), **said.get("headers", {})}
        await Response(answer, said.get("status", 200), headers)(scope, receive, send)

    async with served_at(hostile) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp", "call_timeout": "2s"})
        settings = GatewaySettings(egress=LOOPBACK.egress, max_result=2_000_000)
        async with remote_gateway(tmp_path, pack, settings) as gateway:
            session = await gateway.open_session("remote", LOCAL)
            outcome = await call(gateway, session, "test_simple_text")
            assert isinstance(outcome, Failed), how
            assert outcome.kind is kind
    assert "location" not in {name for _, headers in remote.asked for name in headers}
