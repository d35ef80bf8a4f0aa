"""Batches of the revision that has them, against a really served pack."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import RawMcp

EARLY = {"mcp-protocol-version": "2025-03-26"}


@asynccontextmanager
async def session(tmp_path: Path) -> AsyncGenerator[RawMcp]:
    async with open_echo_packs(tmp_path, "echo") as gateway:
        app = build_app(gateway, identity=LOCAL_IDENTITY, security=HttpSecurity.bound_to("127.0.0.1"))
        async with running(app, gateway) as url, httpx2.AsyncClient(timeout=10) as http:
            mcp = RawMcp(http, url + "/mcp")
            await mcp.initialize()
            yield mcp


def call(request_id: Any, text: str) -> dict[str, Any]:
    params = {"name": "echo", "arguments": {"text": text}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


async def post(mcp: RawMcp, batch: list[Any], headers: dict[str, str] = EARLY) -> httpx2.Response:
    return await mcp.post(json.dumps(batch).encode(), {**headers, "mcp-session-id": mcp.session_id or ""})


async def test_each_request_of_a_batch_is_judged_and_answered_by_its_id(tmp_path: Path) -> None:
    async with session(tmp_path) as mcp:
        notice = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
        unknown = {"jsonrpc": "2.0", "id": "u", "method": "no/such"}
        answer = await post(mcp, [call(7, "one"), notice, call("x", "forbidden"), unknown])
        assert answer.status_code == 200
        answers = {each["id"]: each for each in answer.json()}
        assert answers.keys() == {7, "x", "u"}
        assert answers[7]["result"]["content"][0]["text"] == "one"
        assert answers["x"]["result"]["_meta"]["sandgate/decision"]["effect"] == "deny"
        assert answers["u"]["error"]["code"] == -32601


async def test_a_batch_that_is_owed_no_answer_is_accepted(tmp_path: Path) -> None:
    async with session(tmp_path) as mcp:
        notice = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
        answer = await post(mcp, [notice, notice])
        assert (answer.status_code, answer.content) == (202, b"")


REFUSED: list[tuple[list[Any], dict[str, str], str]] = [
    ([], EARLY, "1 to 64"),
    ([call(n, "x") for n in range(65)], EARLY, "1 to 64"),
    ([call(1, "x"), 3], EARLY, "array of JSON-RPC messages"),
    ([call(1, "x"), call("1", "y")], EARLY, "have one id"),
    ([{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}], EARLY, "not part of a batch"),
    ([call(1, "x")], {"mcp-protocol-version": "2025-06-18"}, "has no batches"),
]


@pytest.mark.parametrize(("batch", "headers", "said"), REFUSED)
async def test_what_is_no_batch_of_that_revision_is_refused_whole(
    tmp_path: Path, batch: list[Any], headers: dict[str, str], said: str
) -> None:
    async with session(tmp_path) as mcp:
        answer = await post(mcp, batch, headers)
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]


async def test_a_batch_for_a_session_that_is_not_there_is_404(tmp_path: Path) -> None:
    async with session(tmp_path) as mcp:
        mcp.session_id = "0" * 32
        assert (await post(mcp, [call(1, "x")])).status_code == 404
