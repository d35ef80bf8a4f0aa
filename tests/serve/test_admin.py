"""`/api/sessions`, `/api/sandboxes`, `/api/calls`: what an admin sees and ends, and nobody else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.serve.app import build_app
from gateway.serve.identity import load_identity
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp

PEOPLE = {"alice": "agent", "bob": "agent", "root": "admin", "trainer": "orchestrator", "meter": "monitor"}


@asynccontextmanager
async def guarded(
    tmp_path: Path, settings: GatewaySettings | None = None
) -> AsyncGenerator[tuple[httpx2.AsyncClient, Gateway]]:
    """Serve two packs to people whose token is their name."""
    lines = [
        f'  - {{sha256: "{hashlib.sha256(name.encode()).hexdigest()}", principal: {name}, roles: [{role}]}}'
        for name, role in PEOPLE.items()
    ]
    identity = load_identity("version: 1\ntokens:\n" + "\n".join(lines) + "\n", "auth.yaml")
    async with open_echo_packs(tmp_path, "echo", "twin", settings=settings) as gateway:
        app = build_app(gateway, identity=identity, security=HttpSecurity.bound_to("127.0.0.1"))
        async with running(app, gateway) as url, httpx2.AsyncClient(base_url=url, timeout=10) as http:
            yield http, gateway


def client(http: httpx2.AsyncClient, who: str, pack: str = "echo") -> RawMcp:
    return RawMcp(http, f"{http.base_url}/packs/{pack}/mcp", who)


async def get(http: httpx2.AsyncClient, path: str, who: str = "root") -> Any:
    answer = await http.get(path, headers={"authorization": f"Bearer {who}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_only_an_admin_is_told_and_may_end(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (http, _):
        for path in ("/api/sessions", "/api/sandboxes", "/api/calls"):
            statuses = {
                who: (await http.get(path, headers={"authorization": f"Bearer {who}"})).status_code
                for who in PEOPLE
            }
            assert statuses == {who: 200 if who == "root" else 403 for who in PEOPLE}
            assert (await http.get(path)).status_code == 401
        mcp = client(http, "alice")
        await mcp.call(LEGACY, "echo", text="hi")
        for who in ("alice", "bob", "meter"):
            headers = {"authorization": f"Bearer {who}"}
            assert (await http.delete(f"/api/sessions/{mcp.session_id}", headers=headers)).status_code == 403
        assert (await mcp.call(LEGACY, "echo", text="hi")).status_code == 200


async def test_sessions_and_sandboxes_are_listed_and_a_session_ends_with_its_sandboxes(
    tmp_path: Path,
) -> None:
    async with guarded(tmp_path) as (http, _):
        alice, bob = client(http, "alice"), client(http, "bob", "twin")
        await alice.call(LEGACY, "echo", text="hi")
        await bob.call(MODERN, "echo", text="hi")
        sessions = {session["principal"]: session for session in await get(http, "/api/sessions")}
        assert {who: (s["pack"], s["sandboxes"], s["in_flight"]) for who, s in sessions.items()} == {
            "alice": ("echo", 1, 0),
            "bob": ("twin", 1, 0),
        }
        sandboxes = await get(http, "/api/sandboxes")
        assert {(s["session"], s["pack"], s["server"], s["driver"]) for s in sandboxes} == {
            (sessions["alice"]["id"], "echo", "echo", "bubblewrap"),
            (sessions["bob"]["id"], "twin", "echo", "bubblewrap"),
        }
        root = {"authorization": "Bearer root"}
        for who in ("alice", "bob"):
            ended = await http.delete(f"/api/sessions/{sessions[who]['id']}", headers=root)
            assert ended.json() == {"ended": 1}
        assert (await get(http, "/api/sessions"), await get(http, "/api/sandboxes")) == ([], [])
        assert (await alice.call(LEGACY, "echo", text="hi")).status_code == 404
        assert (await http.delete("/api/sessions/nope", headers=root)).status_code == 404


async def test_calls_come_from_the_ledger_newest_first_and_without_arguments(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (http, _):
        alice, bob = client(http, "alice"), client(http, "bob")
        await alice.call(LEGACY, "echo", text="s3cret")
        await bob.call(LEGACY, "read", path="/workspace/.env-s3cret")
        calls = await get(http, "/api/calls")
        denied = await get(http, "/api/calls?effect=deny&principal=bob&outcome=denied&limit=1")
        none = await get(http, "/api/calls?tool=nope")
    assert [(c["principal"], c["tool"], c["decision"]["effect"], c["outcome"]["kind"]) for c in calls] == [
        ("bob", "read", "deny", "denied"),
        ("alice", "echo", "allow", "answered"),
    ]
    assert (denied, none) == (calls[:1], [])
    assert calls[1]["arguments"]["shape"] == {"text": "string(6)"}
    assert "s3cret" not in str(calls)


async def test_arguments_are_shown_where_the_operator_has_them_recorded(tmp_path: Path) -> None:
    async with guarded(tmp_path, GatewaySettings(plain_arguments=True)) as (http, _):
        await client(http, "alice").call(LEGACY, "echo", text="hello")
        [call] = await get(http, "/api/calls")
    assert call["arguments"]["plain"] == {"text": "hello"}


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "limit=-1", "limit=²", "color=red"])
async def test_a_question_that_makes_no_sense_is_refused(tmp_path: Path, query: str) -> None:
    async with guarded(tmp_path) as (http, _):
        answer = await http.get(f"/api/calls?{query}", headers={"authorization": "Bearer root"})
    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
