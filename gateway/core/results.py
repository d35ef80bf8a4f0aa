"""The one form in which every front shows an outcome: an MCP `CallToolResult` object."""

from __future__ import annotations

from gateway.core.calls import Answered, Denied, Failed, FailureKind, Outcome
from gateway.core.decisions import Decision
from gateway.core.json_types import JsonObject

__all__ = ["DECISION_META_KEY", "failure_text", "tool_result"]

DECISION_META_KEY = "sandgate/decision"

_FAILURES = {
    FailureKind.TIMEOUT: "the tool server did not answer in time",
    FailureKind.CRASHED: "the tool server died",
    FailureKind.START_FAILED: "the tool server could not be started",
    FailureKind.PROTOCOL: "the tool server broke the protocol",
    FailureKind.TOO_LARGE: "the tool's answer is too large",
    FailureKind.SERVER_ERROR: "the tool server answered with an error",
    FailureKind.CANCELLED: "the call was cancelled",
    FailureKind.AUDIT_UNAVAILABLE: "the audit log cannot be written",
}


def tool_result(outcome: Outcome) -> JsonObject:
    """Return what a caller is shown: the server's own result, or an error result that explains itself.

    `_meta["sandgate/decision"]` always carries the decision; a server cannot forge it.
    """
    match outcome:
        case Answered(decision, result):
            meta = result.get("_meta")
            kept = meta if isinstance(meta, dict) else {}
            return {**result, "_meta": {**kept, DECISION_META_KEY: decision.wire()}}
        case Denied(decision):
            return _error(f"sandgate: {decision.sentence()}", decision)
        case Failed(decision):
            return _error(failure_text(outcome), decision)


def failure_text(failed: Failed) -> str:
    """Return the one line that says why an allowed call brought no result."""
    return f"sandgate: {_FAILURES[failed.kind]}: {failed.message} [{failed.kind.value}]"


def _error(text: str, decision: Decision) -> JsonObject:
    return {
        "content": [{"type": "text", "text": text}],
        "isError": True,
        "_meta": {DECISION_META_KEY: decision.wire()},
    }
