"""The gateway as an OAuth resource server, whole: a real issuer, real requests, a real tool server."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx2
import pytest

from gateway.runtime.gateway import Gateway
from gateway.serve.app import build_app
from gateway.serve.identity import load_identity
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, texts
from tests.support.oauth_issuer import CLIENT_ID, CLIENT_SECRET, Issuer, issuing
from tests.support.venvs import client_venv, run_client

METADATA = "/.well-known/oauth-protected-resource"
SCOPES = {"tools:call": ["agent"], "tools:train": ["orchestrator"]}


@asynccontextmanager
async def guarded(
    tmp_path: Path, *, public_url: str | None = None, packs: tuple[str, ...] = ("echo",), **settings: Any
) -> AsyncGenerator[tuple[Issuer, RawMcp, Gateway]]:
    """Serve packs to the callers of a fresh issuer; yields a client without a token."""
    async with issuing() as issuer, open_echo_packs(tmp_path, *packs) as gateway:
        app = build_app(
            gateway,
            identity=load_identity(issuer.auth_file(**settings), "auth.yaml"),
            security=HttpSecurity.bound_to("127.0.0.1"),
            public_url=public_url,
        )
        async with running(app, gateway) as url, httpx2.AsyncClient(timeout=10, base_url=url) as http:
            yield issuer, RawMcp(http, url + "/mcp"), gateway


def challenge(answer: httpx2.Response) -> dict[str, str]:
    """Return the parameters of a Bearer challenge."""
    scheme, _, rest = answer.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    return {name: value.strip('"') for name, _, value in (part.partition("=") for part in rest.split(", "))}


async def test_a_stranger_is_led_to_the_issuer(tmp_path: Path) -> None:
    async with guarded(tmp_path, packs=("one", "two")) as (issuer, mcp, _):
        for path in ("/mcp", "/packs/one/mcp"):
            refused = await mcp.http.post(path, json={})
            told = challenge(refused)
            assert (refused.status_code, "error" in told) == (401, False)
            assert told["resource_metadata"] == f"{mcp.http.base_url}{METADATA}{path}"
            document = (await mcp.http.get(told["resource_metadata"])).json()
            assert document == {
                "resource": f"{mcp.http.base_url}{path}",
                "resource_name": "sandgate",
                "authorization_servers": [issuer.url],
                "bearer_methods_supported": ["header"],
            }
        assert (await mcp.http.get(METADATA)).json()["resource"] == str(mcp.http.base_url)
        assert challenge(await mcp.http.get("/api/approvals"))["resource_metadata"].endswith(METADATA)


async def test_a_token_that_is_not_taken_is_told_so_and_never_echoed(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (issuer, mcp, _):
        mcp.token = issuer.token(aud="another-service")
        refused = await mcp.initialize()
        told = challenge(refused)
    assert (refused.status_code, told["error"]) == (401, "invalid_token")
    assert told["error_description"].startswith("this token is not taken: it is meant for another audience")
    assert mcp.token not in refused.text + str(refused.headers)


async def test_behind_a_proxy_the_public_address_is_told(tmp_path: Path) -> None:
    async with guarded(tmp_path, public_url="https://tools.example.com/") as (_, mcp, _):
        told = challenge(await mcp.http.post("/mcp", json={}))
        document = (await mcp.http.get(f"{METADATA}/mcp")).json()
    assert told["resource_metadata"] == f"https://tools.example.com{METADATA}/mcp"
    assert document["resource"] == "https://tools.example.com/mcp"


async def test_a_token_without_the_scope_is_told_which_one_it_takes(tmp_path: Path) -> None:
    async with guarded(tmp_path, scopes=SCOPES) as (issuer, mcp, _):
        stranger = challenge(await mcp.http.post("/mcp", json={}))
        mcp.token = issuer.token(scope="openid tools:train")
        refused = await mcp.initialize()
        told = challenge(refused)
        document = (await mcp.http.get(f"{METADATA}/mcp")).json()
        mcp.token = issuer.token(scope="tools:call")
        taken = await mcp.initialize()
    assert (refused.status_code, told["error"], told["scope"]) == (403, "insufficient_scope", "tools:call")
    assert told["resource_metadata"].endswith("/mcp")
    assert (stranger["scope"], document["scopes_supported"]) == ("tools:call", ["tools:call", "tools:train"])
    assert taken.status_code == 200


async def test_while_the_issuers_keys_cannot_be_had_callers_are_told_to_come_back(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (issuer, mcp, _):
        issuer.status = 500
        mcp.token = issuer.token()
        refused = await mcp.initialize()
        assert (await mcp.http.get("/ready", headers={"authorization": f"Bearer {mcp.token}"})).json() == {
            "ready": True
        }
    assert (refused.status_code, refused.json()["error"]) == (503, "keys_unavailable")
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_a_call_runs_as_the_tokens_subject_and_the_token_goes_no_further(
    tmp_path: Path, era: str
) -> None:
    """No token passthrough: not to the tool server, its environment, the ledger or an answer."""
    async with guarded(tmp_path) as (issuer, mcp, _):
        mcp.token = issuer.token()
        answers = [await mcp.call(era, "echo", text="hi"), await mcp.call(era, "env")]
        log = await mcp.call(era, "log")
    assert texts(answers[0]) == "hi"
    ledger = "".join(file.read_text() for file in (tmp_path / "state" / "audit").glob("*.jsonl"))
    assert '"principal":"alice"' in ledger
    seen = ledger + texts(log) + "".join(answer.text + str(answer.headers) for answer in answers)
    assert not any(part in seen for part in mcp.token.split("."))


async def test_a_session_is_its_openers_alone(tmp_path: Path) -> None:
    """Handle hijack: a session id in the hands of another subject, another client or other groups."""
    async with guarded(tmp_path) as (issuer, mcp, _):
        mcp.token = issuer.token()
        await mcp.initialize()
        statuses: dict[str, int] = {}
        others: dict[str, dict[str, Any]] = {
            "bob": {"sub": "bob"},
            "another client": {"client_id": "other"},
            "fewer groups": {"groups": []},
            "more groups": {"groups": ["leads", "admins"]},
            "refreshed": {"jti": "another"},
        }
        for who, claims in others.items():
            mcp.token = issuer.token(**claims)
            statuses[who] = (await mcp.call(LEGACY, "echo", text="hi")).status_code
    strangers = ("bob", "another client", "fewer groups", "more groups")
    assert statuses == dict.fromkeys(strangers, 404) | {"refreshed": 200}


async def test_a_name_of_a_session_is_another_session_for_another_subject(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (issuer, mcp, gateway):
        for subject in ("alice", "bob"):
            mcp.token = issuer.token(sub=subject)
            arguments = {"name": "write", "arguments": {"path": "/workspace/note", "content": subject}}
            await mcp.modern("tools/call", arguments, {"sandgate-session": "shared"})
        mcp.token = issuer.token()
        read = {"name": "read", "arguments": {"path": "/workspace/note"}}
        assert texts(await mcp.modern("tools/call", read, {"sandgate-session": "shared"})) == "alice"
        assert len(gateway.readings.sessions) == 2


async def test_after_a_rotation_new_tokens_are_taken_without_a_restart(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (issuer, mcp, _):
        mcp.token = issuer.token()
        await mcp.initialize()
        issuer.rotate()
        mcp.token = issuer.token()
        assert (await mcp.call(LEGACY, "echo", text="hi")).status_code == 200


CLIENT = """
import asyncio, json, sys
import httpx2
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

class Storage:
    tokens = client = None
    async def get_tokens(self): return self.tokens
    async def set_tokens(self, tokens): self.tokens = tokens
    async def get_client_info(self): return self.client
    async def set_client_info(self, client): self.client = client

async def main(url, issuer, client_id, secret):
    provider = ClientCredentialsOAuthProvider(url, Storage(), client_id, secret, issuer=issuer)
    async with httpx2.AsyncClient(auth=provider, timeout=20) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            result = await client.call_tool("echo", {"text": "hi"})
            print(json.dumps({"text": result.content[0].text, "decision": result.meta["sandgate/decision"]}))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_official_client_finds_the_issuer_by_itself_and_gets_a_token(tmp_path: Path) -> None:
    python = client_venv("mcp", ["mcp==2.3.0"])
    async with guarded(tmp_path, scopes=SCOPES) as (issuer, mcp, _):

        def run() -> str:
            return run_client(python, CLIENT, mcp.url, issuer.url, CLIENT_ID, CLIENT_SECRET)

        said = json.loads(await anyio.to_thread.run_sync(run))
        url = mcp.url
    assert (said["text"], said["decision"]["effect"]) == ("hi", "allow")
    assert issuer.asked[0]["resource"] == url
    assert issuer.asked[0]["scope"] == "tools:call"
