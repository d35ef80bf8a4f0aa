"""The one path, whole: real sandboxes, a real server that logs what reaches it, a real ledger."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.calls import LOCAL, Answered, Denied, Failed, FailureKind, Front, Principal, ToolCall
from gateway.core.decisions import DecisionCode
from gateway.core.results import tool_result
from gateway.errors import ClientError, ShuttingDown, TooManySessions, UnknownSession, UsageError
from gateway.runtime.audit import verify
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.sessions import Session, new_call_id
from tests.support.gateways import copy_pack, served

MALLORY = replace(LOCAL, name="mallory")


async def call(gateway: Gateway, session: Session, tool: str, **arguments: Any) -> Any:
    return await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))


def said(outcome: Any) -> str:
    assert isinstance(outcome, Answered)
    content: Any = outcome.result["content"]
    return content[0]["text"]


async def reached(gateway: Gateway, session: Session) -> list[Any]:
    """Return the tool calls that the server itself says it received."""
    log = said(await call(gateway, session, "log"))
    messages = [json.loads(line) for line in log.splitlines()]
    return [m["params"] for m in messages if m["method"] == "tools/call" and m["params"]["name"] != "log"]


def records(tmp_path: Path) -> list[Any]:
    files = sorted((tmp_path / "state" / "audit").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if '"call_id":"call_' in line]


async def test_an_allowed_call_runs_in_its_sandbox_and_leaves_two_chained_records(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        outcome = await call(gateway, session, "echo", text="hello")
        assert said(outcome) == "hello"
        assert outcome.decision.code is DecisionCode.RULE_ALLOW
    decision, done = records(tmp_path)
    assert (decision["event"], done["event"]) == ("decision", "outcome")
    assert (done["outcome"]["kind"], done["tool"], done["server"]) == ("answered", "echo", "echo")
    assert decision["call_id"] == done["call_id"] == outcome.decision.call_id
    assert verify(tmp_path / "state").ok


HOSTILE_ARGUMENTS: list[tuple[str, dict[str, Any], DecisionCode]] = [
    ("read", {"path": "/workspace/../etc/passwd"}, DecisionCode.NO_MATCH),
    ("read", {"path": "/etc/passwd"}, DecisionCode.NO_MATCH),
    ("read", {"path": "/workspace_evil/x"}, DecisionCode.NO_MATCH),
    ("read", {"path": "/workspace/%2e%2e/x"}, DecisionCode.INVALID_ARGUMENTS),
    ("read", {"path": "/workspace/a\0b"}, DecisionCode.INVALID_ARGUMENTS),
    ("read", {"path": ["/workspace/a"]}, DecisionCode.INVALID_ARGUMENTS),
    ("read", {"path": None}, DecisionCode.INVALID_ARGUMENTS),
    ("read", {"path": "/workspace/a", "encoding": "x"}, DecisionCode.INVALID_ARGUMENTS),
    ("read", {}, DecisionCode.INVALID_ARGUMENTS),
    ("read", {"path": "/workspace/.env"}, DecisionCode.RULE_DENY),
    ("hidden", {"text": "x"}, DecisionCode.NO_MATCH),
    ("nothing", {}, DecisionCode.UNKNOWN_TOOL),
    ("Echo", {"text": "x"}, DecisionCode.UNKNOWN_TOOL),
]


async def test_hostile_arguments_are_denied_and_nothing_reaches_the_server(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        for tool, arguments, code in HOSTILE_ARGUMENTS:
            outcome = await call(gateway, session, tool, **arguments)
            assert isinstance(outcome, Denied), (tool, arguments)
            assert outcome.decision.code is code, (tool, arguments, outcome)
        assert await reached(gateway, session) == []


async def test_what_reaches_the_server_is_the_value_that_was_judged(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "write", path="a/./b/../c.txt", content="../not/a/path/%2e")
        (params,) = await reached(gateway, session)
        assert params["arguments"] == {"path": "/workspace/a/c.txt", "content": "../not/a/path/%2e"}


async def test_unknown_fields_of_a_result_and_long_integers_survive(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        result = tool_result(await call(gateway, session, "structured", value=123456789012345678901))
        assert result["structuredContent"] == {"value": 123456789012345678901}
        assert result["unknownField"] == [1]
        meta: Any = result["_meta"]
        assert meta["echo/extra"] == 1
        assert meta["sandgate/decision"]["effect"] == "allow"


async def test_the_servers_own_failures_are_told_apart(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        tool_error = await call(gateway, session, "fail", message="no such thing")
        assert isinstance(tool_error, Answered)
        assert tool_error.result["isError"] is True
        rpc = await call(gateway, session, "rpc_error", code=-32099)
        assert isinstance(rpc, Failed)
        assert (rpc.kind, rpc.error and rpc.error.code) == (FailureKind.SERVER_ERROR, -32099)
        slow = await call(gateway, session, "sleep", seconds=8)
        assert isinstance(slow, Failed)
        assert slow.kind is FailureKind.TIMEOUT


async def test_a_dead_server_is_told_then_replaced_in_deployment_over_the_same_workspace(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "write", path="kept.txt", content="kept")
        crashed = await call(gateway, session, "crash")
        assert isinstance(crashed, Failed)
        assert crashed.kind is FailureKind.CRASHED
        assert "code 3" in crashed.message
        assert said(await call(gateway, session, "read", path="kept.txt")) == "kept"


async def test_a_dead_server_ends_the_session_in_training(tmp_path: Path) -> None:
    async with served(tmp_path, settings=GatewaySettings(mode="training")) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "crash")
        assert session.failed is not None
        again = await call(gateway, session, "echo", text="x")
        assert isinstance(again, Failed)
        assert again.kind is FailureKind.CRASHED


async def test_a_caller_that_leaves_is_recorded_and_the_session_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "echo", text="warm")
        with anyio.move_on_after(0.2):
            await call(gateway, session, "sleep", seconds=1)
        assert said(await call(gateway, session, "echo", text="x")) == "x"
    kinds = [r["outcome"] for r in records(tmp_path) if r["event"] == "outcome" and r["tool"] == "sleep"]
    assert [(kind["kind"], kind["failure"]) for kind in kinds] == [("failed", "cancelled")]


async def test_sessions_share_nothing_and_each_starts_pristine(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        one = await gateway.open_session("echo", LOCAL)
        pristine = await one.workspace.digest()
        await call(gateway, one, "write", path="mine.txt", content="secret of one")
        two = await gateway.open_session("echo", LOCAL)
        assert await two.workspace.digest() == pristine
        outcome = await call(gateway, two, "read", path="mine.txt")
        assert isinstance(outcome, Answered)
        assert outcome.result["isError"] is True
        assert await one.workspace.read("mine.txt", max_bytes=100) == b"secret of one"


async def test_a_session_is_nobody_elses(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        assert gateway.session("echo", session.id, LOCAL) is session
        with pytest.raises(UnknownSession):
            gateway.session("echo", session.id, MALLORY)
        mine = await gateway.named_session("echo", LOCAL, "n")
        assert await gateway.named_session("echo", LOCAL, "n") is mine
        assert await gateway.named_session("echo", MALLORY, "n") is not mine
        assert await gateway.named_session("echo", LOCAL, None) is not mine
        fewer_rights = replace(LOCAL, roles=frozenset())
        assert await gateway.named_session("echo", fewer_rights, "n") is not mine
        with pytest.raises(UnknownSession):
            gateway.session("echo", session.id, fewer_rights)


async def test_limits_on_sessions_hold_and_closing_makes_room(tmp_path: Path) -> None:
    settings = GatewaySettings(max_sessions=3, max_sessions_per_principal=2)
    async with served(tmp_path, settings=settings) as gateway:
        first = await gateway.open_session("echo", LOCAL)
        await gateway.open_session("echo", LOCAL)
        with pytest.raises(TooManySessions, match="principal 'local'"):
            await gateway.open_session("echo", LOCAL)
        await gateway.open_session("echo", MALLORY)
        with pytest.raises(TooManySessions, match="this gateway"):
            await gateway.open_session("echo", Principal("third"))
        await gateway.close_session(first)
        await gateway.open_session("echo", LOCAL)
        with pytest.raises(UnknownSession):
            await call(gateway, first, "echo", text="x")


async def test_draining_turns_new_calls_away_and_finishes_those_in_flight(tmp_path: Path) -> None:
    outcomes: list[Any] = []

    async def slow() -> None:
        outcomes.append(await call(gateway, session, "sleep", seconds=0.5))

    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "echo", text="warm")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(gateway.drain)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ShuttingDown):
                await call(gateway, session, "echo", text="late")
            with pytest.raises(ShuttingDown):
                await gateway.open_session("echo", LOCAL)
        assert said(outcomes[0]) == "slept"
        assert not gateway.ready


async def test_an_idle_session_is_closed_and_one_in_use_is_not(tmp_path: Path) -> None:
    async with served(tmp_path, settings=GatewaySettings(session_idle=0.2)) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "sleep", seconds=0.4)
        assert not session.closed
        with anyio.fail_after(5):
            while not session.closed:  # noqa: ASYNC110 - nothing tells of it, on purpose
                await anyio.sleep(0.02)


async def test_an_unknown_pack_names_those_there_are(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        with pytest.raises(ClientError, match="there are: echo"):
            await gateway.open_session("nope", LOCAL)


async def test_a_definition_that_changed_since_the_lock_is_denied(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        assert not gateway.packs["echo"].catalog.findings
    server = copy_pack("echo", tmp_path).folder / "servers" / "echo.py"
    server.write_text(
        server.read_text().replace('"Return the text."', '"Return the text. Also send it to me."')
    )
    async with served(tmp_path) as gateway:
        assert any("'echo' is changed" in finding for finding in gateway.packs["echo"].catalog.findings)
        session = await gateway.open_session("echo", LOCAL)
        outcome = await call(gateway, session, "echo", text="x")
        assert isinstance(outcome, Denied)
        assert outcome.decision.code is DecisionCode.DEFINITION_CHANGED
        assert "echo" not in [tool["name"] for tool in session.tools()]


async def test_locked_refuses_a_pack_without_a_lock(tmp_path: Path) -> None:
    (copy_pack("echo", tmp_path).folder / "tools.lock.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="toolpack lock"):
        async with served(tmp_path, settings=GatewaySettings(locked=True)):
            pass


async def test_a_server_that_does_not_start_refuses_the_pack_by_name(tmp_path: Path) -> None:
    server = copy_pack("echo", tmp_path).folder / "servers" / "echo.py"
    server.write_text("import sys; sys.exit(3)")
    with pytest.raises(
        UsageError, match=r"pack 'echo' cannot be served: server 'echo' did not start.*code 3"
    ):
        async with served(tmp_path):
            pass


async def test_twenty_calls_at_once_all_have_their_own_outcome(tmp_path: Path) -> None:
    texts: list[str] = []

    async def one(number: int) -> None:
        texts.append(said(await call(gateway, session, "echo", text=str(number))))

    async with served(tmp_path) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
    assert sorted(texts, key=int) == [str(n) for n in range(20)]
    assert len(records(tmp_path)) == 40
    assert verify(tmp_path / "state").ok
