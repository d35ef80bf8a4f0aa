"""The latest calls of a ledger: newest first, each once, whatever else is written there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.core.calls import LOCAL, Front, ToolCall
from gateway.runtime.recent_calls import recent_calls
from gateway.runtime.sessions import new_call_id
from tests.support.gateways import served

ASKS = """\
version: 1
rules:
  - {id: talk, ask: echo.echo, approve: {wait: 0s}}
  - {id: read, allow: echo.read}
"""
CALLS: list[tuple[str, dict[str, Any]]] = [("echo", {"text": "x"}), ("read", {}), ("nope", {})]


async def test_a_call_is_told_once_with_its_last_decision_and_its_outcome(tmp_path: Path) -> None:
    async with served(tmp_path, policy=ASKS) as gateway:
        gateway.approvals.expect_answers()
        session = await gateway.open_session("echo", LOCAL)
        for tool, arguments in CALLS:
            await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))
        audit = tmp_path / "state" / "audit"
        calls: list[Any] = list(recent_calls([audit], 10))
        newest = recent_calls([audit], 1)
        denied = recent_calls([audit], 10, {"outcome": "denied", "tool": "echo"})
        with next(audit.glob("*.jsonl")).open("ab") as file:
            file.write(b'{"event":"decision","call_id":"to')  # a line that is being written
        assert recent_calls([audit], 10) == calls
    told = [(call["tool"], call["decision"]["code"], call["outcome"]["kind"]) for call in calls]
    assert told == [
        ("nope", "unknown_tool", "denied"),
        ("read", "invalid_arguments", "denied"),
        ("echo", "approval_pending", "denied"),
    ]
    assert (newest, denied) == (calls[:1], calls[2:])
