"""One log line for each call that ended: whose, what, how it was decided, how long. Never an argument."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from gateway.core.calls import Answered, Failed, Outcome, ToolCall

if TYPE_CHECKING:
    from gateway.runtime.sessions import Session

__all__ = ["FIELDS", "log_call"]

FIELDS: Final = "sandgate"
"""The attribute of a log record that holds its fields, by name."""

logger = logging.getLogger("gateway.calls")


def log_call(
    session: Session, call: ToolCall, outcome: Outcome, seconds: float, at_server: float | None
) -> None:
    """Log one call at level info; costs next to nothing where that is not shown."""
    if not logger.isEnabledFor(logging.INFO):
        return
    decision = outcome.decision
    kind = (
        "answered" if isinstance(outcome, Answered) else "failed" if isinstance(outcome, Failed) else "denied"
    )
    failure = outcome.kind.value if isinstance(outcome, Failed) else None
    tool = session.pack.catalog.tools.get(call.tool) if call.target == "tool" else None
    fields: dict[str, Any] = {
        "call_id": call.call_id,
        "session": session.id,
        "episode": session.episode,
        "step": session.step,
        "principal": session.principal.name,
        "front": call.front.value,
        "pack": session.pack.name,
        "server": call.server if tool is None else tool.server,
        "method": call.method.value,
        "tool": call.tool[:128],
        "outcome": kind,
        "failure": failure,
        "effect": decision.effect.value,
        "code": decision.code.value,
        "rule": decision.rule,
        "ms": round(seconds * 1000, 3),
        "server_ms": None if at_server is None else round(at_server * 1000, 3),
    }
    logger.info(
        "%s %s of pack %s for %s: %s [%s] in %.1f ms",
        call.call_id,
        fields["tool"],
        session.pack.name,
        session.principal.name,
        kind if failure is None else f"{kind} ({failure})",
        decision.code.value,
        fields["ms"],
        extra={FIELDS: fields},
    )
