"""Records and ledgers for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.core.calls import Answered, Front, ToolCall
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonObject
from gateway.core.records import CallIds, ToolIds, decision_record, outcome_record
from gateway.runtime.clock import SystemClock
from gateway.runtime.ledger import open_ledger

__all__ = ["KEY", "decided", "is_unknown", "lines_of", "record_pair", "records_of", "write_ledger"]

KEY = bytes(range(32))
IDS = CallIds(session="s-1", episode=None, step=None, principal="alice", pack="git")
TOOL = ToolIds(server="git", tool="git_log", definition_sha256="d" * 64, sandbox="sb-1")


def decided(call_id: str, effect: Effect = Effect.ALLOW) -> Decision:
    """Return a decision of a rule."""
    code = DecisionCode.RULE_ALLOW if effect is Effect.ALLOW else DecisionCode.RULE_DENY
    return Decision(effect, code, "as the test wants it", "rule-1", "git.yaml", 12, "e" * 64, call_id)


def record_pair(
    call_id: str, key: bytes = KEY, arguments: JsonObject | None = None
) -> tuple[JsonObject, JsonObject]:
    """Return the decision and the outcome record of one answered call."""
    call = ToolCall(call_id, "git_log", arguments or {"repo_path": "/workspace"}, Front.MCP)
    decision = decided(call_id)
    result: JsonObject = {"content": [{"type": "text", "text": "done"}]}
    return (
        decision_record(
            call=call, decision=decision, ids=IDS, tool=TOOL, arguments=call.arguments, plain=None, key=key
        ),
        outcome_record(call=call, outcome=Answered(decision, result), ids=IDS, tool=TOOL, ms=1.5, key=key),
    )


def lines_of(state: Path) -> list[str]:
    """Return every line of the ledger in order."""
    return [
        line for file in sorted((state / "audit").glob("*.jsonl")) for line in file.read_text().splitlines()
    ]


def records_of(state: Path) -> list[Any]:
    """Return every record of the ledger in order."""
    return [json.loads(line) for line in lines_of(state)]


async def write_ledger(state: Path, *call_ids: str, finish: bool = True, max_file: int = 10**6) -> None:
    """Write calls to the ledger of `state` and close it."""
    async with open_ledger(state, SystemClock(), max_file=max_file) as ledger:
        for call_id in call_ids:
            for body in record_pair(call_id, ledger.key)[: 2 if finish else 1]:
                await ledger.append(body)


def is_unknown(record: Any) -> bool:
    """Return whether the record closes a decision that a crash left open."""
    return record["event"] == "outcome" and record["outcome"]["kind"] == "unknown"
