"""What servers ask of clients is bounded, in number and in time. Raw on both sides."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.calls import FailureKind
from gateway.runtime.audit import query, verify
from gateway.runtime.gateway import GatewaySettings
from gateway.runtime.upstream.exchange import MOST_QUESTIONS
from tests.support.bridging import ALICE, FORMS, modern, serving, streamed
from tests.support.gateways import copy_pack
from tests.support.mcp_http import LEGACY, RawMcp, texts

IMPATIENT = GatewaySettings(client_timeout=0.5)
"""So a client has half a second for a question, and one and a half for all of a call."""


@asynccontextmanager
async def client(tmp_path: Path, settings: GatewaySettings | None = None) -> AsyncGenerator[RawMcp]:
    """Yield a client that can be asked, at servers that have two seconds for a call."""
    manifest = copy_pack("bridge", tmp_path).folder / "toolpack.yaml"
    manifest.write_text(manifest.read_text().replace("call_timeout: 5s", "call_timeout: 2s"))
    async with serving(tmp_path, settings) as (mcp, _):
        mcp.capabilities = FORMS
        with anyio.fail_after(60):
            yield mcp


def outcomes(tmp_path: Path, tool: str) -> list[Any]:
    """Return how the calls of a tool ended, by the ledger: one decision and one outcome each."""
    state = tmp_path / "state"
    assert verify(state).ok
    records = [record for record in query(state) if record["tool"] == tool]
    assert [record["event"] for record in records] == ["decision", "outcome"] * (len(records) // 2)
    ended: list[Any] = [record["outcome"] for record in records[1::2]]
    return [outcome.get("failure") for outcome in ended]


def questions(came: list[Any]) -> list[Any]:
    return [each for each in came if each.get("method") == "elicitation/create"]


async def test_a_server_that_asks_for_ever_and_a_client_that_never_answers_end_with_the_calls_deadline(
    tmp_path: Path,
) -> None:
    async with client(tmp_path, IMPATIENT) as mcp:
        for _ in range(2):  # as the SDK serves a session's first call, and as the lane serves those after it
            *asked, result = await streamed(mcp, "old_beset")
            assert len(questions(asked)) >= 2
            assert result["result"]["isError"]
            assert "did not answer in time" in result["result"]["content"][0]["text"]
        assert "notifications/cancelled" in texts(await mcp.call(LEGACY, "old_seen"))
    assert outcomes(tmp_path, "beset") == [FailureKind.TIMEOUT] * 2


async def test_a_client_is_asked_so_many_questions_in_one_call_however_fast_it_answers(
    tmp_path: Path,
) -> None:
    async with client(tmp_path) as mcp:
        for _ in range(2):  # each call has its own
            *asked, result = await streamed(mcp, "old_nag", ALICE)
            assert len(questions(asked)) == MOST_QUESTIONS
            assert result["result"]["content"][0]["text"] == str(MOST_QUESTIONS)
    assert outcomes(tmp_path, "nag") == [None, None]


@pytest.mark.parametrize("tool", ["nag", "swarm"])
async def test_a_server_that_asks_by_its_results_without_end_or_too_much_at_once_broke_the_protocol(
    tmp_path: Path, tool: str
) -> None:
    async with client(tmp_path) as mcp:
        *asked, result = await streamed(mcp, f"new_{tool}", ALICE)
        assert len(questions(asked)) == {"nag": 8, "swarm": 0}[tool]
        assert result["result"]["isError"]
    assert outcomes(tmp_path, tool) == [FailureKind.PROTOCOL]


async def test_a_server_that_asks_by_its_results_has_one_deadline_for_all_of_them(tmp_path: Path) -> None:
    async with client(tmp_path) as mcp:
        (result,) = await streamed(mcp, "new_beset", ALICE)
        assert result["result"]["isError"]
    assert outcomes(tmp_path, "beset") == [FailureKind.TIMEOUT]


async def test_a_client_that_never_answers_what_a_result_asks_fails_its_call(tmp_path: Path) -> None:
    async with client(tmp_path, IMPATIENT) as mcp:
        *asked, result = await streamed(mcp, "new_greet")
        assert len(questions(asked)) == 1
        assert result["result"]["isError"]
    assert outcomes(tmp_path, "greet") == [FailureKind.TIMEOUT]


async def test_a_suspended_call_waits_so_long_and_its_server_is_told_that_nobody_came_back(
    tmp_path: Path,
) -> None:
    async with client(tmp_path, IMPATIENT) as mcp:
        asked = (await modern(mcp, "old_greet", FORMS))["result"]
        assert asked["resultType"] == "input_required"
        while "notifications/cancelled" not in json.dumps(await modern(mcp, "old_seen", FORMS)):
            pass  # each look is a call, and waits for its answer
        back = {
            "requestState": asked["requestState"],
            "inputResponses": dict.fromkeys(asked["inputRequests"], ALICE),
        }
        late = await modern(mcp, "old_greet", FORMS, **back)
        assert late["error"]["code"] == -32602
    assert outcomes(tmp_path, "greet") == [None, FailureKind.SERVER_ERROR]
