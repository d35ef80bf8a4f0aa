"""Approvals by the user of the official client, in both eras and over both transports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from gateway.core.approvals import ApprovalTerms, approval_request
from gateway.core.calls import LOCAL, Front, ToolCall
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonValue
from gateway.core.records import CallIds, ToolIds
from gateway.runtime.approvals import Approval
from gateway.runtime.audit import query, verify
from gateway.serve.mcp.prompting import MAX_QUESTION, question, verdict
from tests.support.asking import ASKS, asking
from tests.support.gateways import copy_pack
from tests.support.mcp_http import LEGACY, RawMcp
from tests.support.venvs import client_venv, run_client

CLIENT = """
import asyncio, json, sys
from mcp import types
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

async def main(target, mode, answers):
    answers, asked = json.loads(answers), []
    if target.startswith("["):
        command, *args = json.loads(target)
        target = StdioServerParameters(command=command, args=args)

    async def elicit(context, params):
        asked.append(params.message)
        answer = answers.pop(0)
        content = {"decision": answer} if answer in ("approve", "deny") else None
        return types.ElicitResult(action="accept" if content else answer, content=content)

    async with Client(target, mode=mode, elicitation_callback=elicit) as client:
        results = []
        for text in ("first", "second")[: len(answers)]:
            result = await client.call_tool("echo", {"text": text})
            results.append(result.model_dump(mode="json", by_alias=True))
        print(json.dumps({"asked": asked, "results": results}))

asyncio.run(main(*sys.argv[1:]))
"""
ERAS = ["legacy", "2026-07-28"]


async def ask(target: str, mode: str, *answers: str) -> dict[str, Any]:
    def run() -> str:
        python = client_venv("mcp", ["mcp==2.3.0"])
        return run_client(python, CLIENT, target, mode, json.dumps(answers), timeout=40)

    return json.loads(await anyio.to_thread.run_sync(run))


def codes(said: dict[str, Any]) -> list[str]:
    return [result["_meta"]["sandgate/decision"]["code"] for result in said["results"]]


def events(state: Path) -> list[str]:
    assert verify(state).ok
    return [str(record["event"]) for record in query(state)]


@pytest.mark.parametrize("mode", ERAS)
async def test_a_user_says_yes_to_one_call_and_no_to_the_next_over_http(tmp_path: Path, mode: str) -> None:
    async with asking(tmp_path) as (url, _):
        said = await ask(url + "/mcp", mode, "approve", "decline")
    assert codes(said) == ["approved", "approval_denied"]
    assert [result["isError"] for result in said["results"]] == [False, True]
    assert said["results"][0]["content"][0]["text"] == "first"
    assert ['{"text": "first"}' in said["asked"][0], '{"text": "second"}' in said["asked"][1]] == [True, True]
    assert "words are looked at" in said["asked"][0]
    asked = ["decision", "approval", "decision", "outcome"]
    deferred = ["decision", "decision", "outcome", "decision", "approval", "decision", "outcome"]
    assert events(tmp_path / "state") == (asked if mode == "legacy" else deferred) * 2


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_user_says_yes_and_no_over_stdio(tmp_path: Path, mode: str) -> None:
    pack = copy_pack("echo", tmp_path).folder
    policy = tmp_path / "asks.yaml"
    policy.write_text(ASKS)
    command = [sys.executable, "-m", "gateway.cli", "stdio", str(pack)]
    command += ["--policy", str(policy), "--state", str(tmp_path / "state")]
    assert codes(await ask(json.dumps(command), mode, "approve", "deny")) == ["approved", "approval_denied"]


async def test_a_closed_dialog_is_no_answer(tmp_path: Path) -> None:
    waits_not = ASKS.replace("wait: 20s", "wait: 1s")
    async with asking(tmp_path, policy=waits_not) as (url, gateway):
        for mode in ERAS:
            said = await ask(url + "/mcp", mode, "cancel")
            assert (codes(said), len(said["asked"])) == (["approval_pending"], 1)
        assert [waiting["state"] for waiting in gateway.approvals.listed(LOCAL)] == ["pending"]


async def test_a_client_that_listens_to_nothing_waits_in_the_queue(tmp_path: Path) -> None:
    async with asking(tmp_path) as (url, gateway), httpx2.AsyncClient(timeout=30) as http:
        client = RawMcp(http, f"{url}/mcp", capabilities={"elicitation": {}})
        await client.initialize()
        answers: list[Any] = []

        async def call() -> None:
            answers.append((await client.call(LEGACY, "echo", text="x")).json())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with anyio.fail_after(10):
                while not (waiting := gateway.approvals.listed(LOCAL)):
                    await anyio.lowlevel.checkpoint()
            await gateway.approvals.answer(str(waiting[0]["id"]), LOCAL, approve=True)
    assert codes({"results": [answers[0]["result"]]}) == ["approved"]


def approval(**arguments: JsonValue) -> Approval:
    request = approval_request(
        ToolCall("c1", "echo", arguments, Front.MCP),
        CallIds("s1", None, None, "bot", "echo"),
        ToolIds("echo", "echo", None, None),
        principal=LOCAL,
        arguments=arguments,
        decision=Decision(Effect.ASK, DecisionCode.APPROVAL_PENDING, "why", rule="r"),
        terms=ApprovalTerms(),
    )
    return Approval("appr_1", request, 0.0, 600.0, 600.0)


def test_nothing_hides_in_a_question_and_what_is_too_long_to_read_is_not_asked() -> None:
    asked = question(approval(text="a\u202eb\x1b[2Jc\nd"))
    assert asked is not None
    assert "a\\u{202e}b\\u001b[2Jc\\nd" in asked
    assert question(approval(text="x" * MAX_QUESTION)) is None


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        ({"action": "accept", "content": {"decision": "approve"}}, True),
        ({"action": "accept", "content": {"decision": "deny"}}, False),
        ({"action": "decline"}, False),
        ({"action": "cancel"}, None),
        ({"action": "accept", "content": {}}, None),
        ({"action": "accept", "content": {"decision": "yes"}}, None),
        ({"action": "accept"}, None),
        ("accept", None),
        (None, None),
    ],
)
def test_only_a_clear_word_is_an_answer(answer: JsonValue, means: bool | None) -> None:
    assert verdict(answer) is means
