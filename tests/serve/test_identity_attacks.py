"""Ways past identity that worked elsewhere, tried on the served gateway: none of them works here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest

from gateway.serve.app import build_app
from gateway.serve.identity import load_identity
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, modern_meta, texts

TOKENS = {"alice": "alice-secret", "bob": "bob-secret"}


@asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncGenerator[httpx2.AsyncClient]:
    lines = [
        f'  - {{sha256: "{hashlib.sha256(token.encode()).hexdigest()}", principal: {name}, roles: [agent]}}'
        for name, token in TOKENS.items()
    ]
    identity = load_identity("version: 1\ntokens:\n" + "\n".join(lines) + "\n", "auth.yaml")
    async with open_echo_packs(tmp_path, "echo") as gateway:
        app = build_app(gateway, identity=identity, security=HttpSecurity.bound_to("127.0.0.1"))
        async with running(app, gateway) as url, httpx2.AsyncClient(base_url=url, timeout=10) as http:
            yield http


async def raw(http: httpx2.AsyncClient, head: str, body: bytes = b"") -> int:
    """Send these very bytes and return the status that comes back; 0 where the connection just ends."""
    port = http.base_url.port
    assert port is not None
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n" + body)
        try:
            with anyio.fail_after(10):
                answer = await stream.receive()
        except anyio.EndOfStream:
            return 0
    return int(answer.split(b" ", 2)[1])


def call_body() -> bytes:
    params = {"name": "echo", "arguments": {"text": "in"}, "_meta": modern_meta()}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


def call_head(target: str, *headers: str) -> str:
    return "\n".join(
        [
            f"POST {target} HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"MCP-Protocol-Version: {MODERN}",
            "Mcp-Method: tools/call",
            "Mcp-Name: echo",
            f"Content-Length: {len(call_body())}",
            *headers,
            "",
        ]
    )


async def test_the_request_that_the_attacks_vary_is_answered_with_a_token_and_not_without(
    tmp_path: Path,
) -> None:
    async with guarded(tmp_path) as http:
        head = call_head("/mcp", "Authorization: Bearer alice-secret")
        assert await raw(http, head, call_body()) == 200
        assert await raw(http, call_head("/mcp"), call_body()) == 401


async def test_nobodys_word_on_who_asks_counts_but_a_tokens(tmp_path: Path) -> None:
    """Headers that a trusted proxy would set, tokens where they do not belong, and tokens in disguise."""
    attempts = [
        ("/mcp", "X-Forwarded-User: alice"),
        ("/mcp", "X-Remote-User: alice", "Remote-User: alice", "X-Auth-Request-User: alice"),
        ("/mcp", "X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1;by=alice", "X-Real-IP: 127.0.0.1"),
        ("/mcp", "X-Original-URL: /health", "X-Rewrite-URL: /health", "X-Forwarded-Prefix: /health"),
        ("/mcp", "X-HTTP-Method-Override: GET"),
        ("/mcp", "Cookie: Authorization=Bearer alice-secret; token=alice-secret"),
        ("/mcp", "Proxy-Authorization: Bearer alice-secret"),
        ("/mcp", "X-Api-Key: alice-secret", "X-Authorization: Bearer alice-secret"),
        ("/mcp?access_token=alice-secret&token=alice-secret",),
        ("/mcp", "Authorization: Basic YWxpY2U6YWxpY2Utc2VjcmV0"),
        ("/mcp", "Authorization: alice-secret"),
        ("/mcp", "Authorization: Bearer"),
        ("/mcp", "Authorization: Bearer alice"),
        ("/mcp", "Authorization: Bearer alice-secret, Bearer bob-secret"),
        ("/mcp", "Authorization: Bearer alice-secret extra"),
        ("/mcp", f"Authorization: Bearer {hashlib.sha256(b'alice-secret').hexdigest()}"),
        ("/mcp", "Mcp-Session-Id: alice", "Sandgate-Session: alice"),
    ]
    async with guarded(tmp_path) as http:
        told = {attempt: await raw(http, call_head(*attempt), call_body()) for attempt in attempts}
        twice = call_head("/mcp", "Authorization: Bearer alice-secret", "Authorization: Bearer bob-secret")
        assert await raw(http, twice, call_body()) == 400
    assert told == dict.fromkeys(attempts, 401)


async def test_no_spelling_of_a_path_leads_around_the_token(tmp_path: Path) -> None:
    """What anybody may ask (`/health`, the metadata) must not lend its name to anything else."""
    targets = [
        "/health/../mcp",
        "/health/..%2fmcp",
        "/health;/../mcp",
        "/health%00/mcp",
        "/ready/mcp",
        "//mcp",
        "/./mcp",
        "/%6dcp",
        "/mcp/",
        "/mcp%20",
        "/MCP",
        "/.well-known/oauth-protected-resource/../../mcp",
        "/api/approvals",
        "/metrics",
    ]
    async with guarded(tmp_path) as http:
        told = {target: await raw(http, call_head(target), call_body()) for target in targets}
        assert await raw(http, call_head("http://evil.example/mcp"), call_body()) in {400, 403}
    assert {
        target: status for target, status in told.items() if status not in {400, 401, 403, 404, 405}
    } == {}


async def test_a_flood_of_headers_is_refused_and_others_are_answered_meanwhile(tmp_path: Path) -> None:
    async with guarded(tmp_path) as http:
        many = [f"X-{number}: {'x' * 50}" for number in range(5_000)]
        statuses: list[int] = []

        async def flood() -> None:
            statuses.append(await raw(http, call_head("/mcp", *many), call_body()))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(flood)
            mcp = RawMcp(http, "/mcp", TOKENS["alice"])
            assert texts(await mcp.call(MODERN, "echo", text="still here")) == "still here"
    assert set(statuses) <= {400, 431}
    assert len(statuses) == 8


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_two_callers_that_use_the_same_ids_get_their_own_answers_and_files(
    tmp_path: Path, era: str
) -> None:
    """One tenant's answer in another's hands: same request ids, same session name, same moment."""
    async with guarded(tmp_path) as http:
        clients = {name: RawMcp(http, "/mcp", token) for name, token in TOKENS.items()}
        answers: dict[str, list[str]] = {name: [] for name in clients}

        async def play(name: str, mcp: RawMcp) -> None:
            await mcp.call(era, "write", path="/workspace/who", content=name)
            for number in range(10):
                answers[name].append(texts(await mcp.call(era, "echo", text=f"{name}-{number}")))
            answers[name].append(texts(await mcp.call(era, "read", path="/workspace/who")))

        async with anyio.create_task_group() as tasks:
            for name, mcp in clients.items():
                tasks.start_soon(play, name, mcp)
    assert answers == {name: [*(f"{name}-{number}" for number in range(10)), name] for name in clients}


async def test_answers_are_not_for_anybody_elses_cache(tmp_path: Path) -> None:
    async with guarded(tmp_path) as http:
        mcp = RawMcp(http, "/mcp", TOKENS["alice"])
        listed = (await mcp.send(MODERN, "tools/list")).json()["result"]
        assert listed["cacheScope"] == "private"
        for path in ("/api/approvals", "/ready"):
            answer = await http.get(path, headers={"authorization": f"Bearer {TOKENS['alice']}"})
            assert answer.headers["cache-control"] == "no-store", path
