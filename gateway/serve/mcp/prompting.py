"""Puts an approval to the user of the calling client: translates, and leaves to the queue what it is worth.

With sessions (legacy): `elicitation/create` on the stream the client listens to, while its call waits.
Without (modern): the call ends as `input_required`; made again, it brings the answer.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Final, cast

from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError
from mcp_types import ClientCapabilities

from gateway.core.calls import Denied, Outcome
from gateway.core.decisions import DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import DECISION_META_KEY
from gateway.runtime.approvals import Approval
from gateway.serve.identity import principal_of
from gateway.serve.mcp.envelope import is_modern
from gateway.serve.mcp.request_state import APPROVAL_KEY, Retry
from gateway.serve.mcp.requests import RequestContext
from gateway.serve.mcp.sessions import Binding, Bindings, connection_of, scope_of

__all__ = [
    "MAX_QUESTION",
    "Asked",
    "DeferredPrompt",
    "ElicitingPrompt",
    "elicits",
    "prompt_of",
    "question",
    "verdict",
]

logger = logging.getLogger(__name__)

MAX_QUESTION = 4_000
"""Characters of the longest question that is put to a user: what does not fit is not approved unseen."""
_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {"decision": {"type": "string", "title": "Decision", "enum": ["approve", "deny"]}},
    "required": ["decision"],
}


def prompt_of(
    ctx: RequestContext, bindings: Bindings | None, retry: Retry
) -> ElicitingPrompt | DeferredPrompt | None:
    """Return the way to the caller's user, `None` where the client did not say that there is one.

    `retry` is what a call without a session brings from the one before it.
    """
    if not elicits(ctx.session.client_capabilities):
        return None
    if is_modern(ctx.protocol_version):
        return DeferredPrompt(retry)
    session_id, scope = connection_of(ctx).session_id, scope_of(ctx)
    if bindings is None or session_id is None or scope is None:
        return ElicitingPrompt(connection_of(ctx))
    return ElicitingPrompt(connection_of(ctx), bindings.of(session_id, principal_of(scope)))


def elicits(capabilities: ClientCapabilities | None) -> bool:
    """Whether a client with these capabilities shows its user a form."""
    asked = None if capabilities is None else capabilities.elicitation
    # An empty capability means forms, as it did when there was nothing else.
    return asked is not None and (asked.form is not None or asked.url is None)


class ElicitingPrompt:
    """Asks while the call waits. A request reaches a client with a `binding` while it listens."""

    waits = True

    def __init__(self, connection: Connection, binding: Binding | None = None) -> None:
        self._connection = connection
        self._binding = binding

    async def ask(self, approval: Approval) -> bool | None:
        """Return the user's answer; `None` if the dialog was closed or could not be shown."""
        message = question(approval)
        if message is None:
            return None
        if self._binding is not None:
            await self._binding.listening.wait()
        try:
            result = await self._connection.send_raw_request("elicitation/create", _form(message))
        except MCPError as error:
            logger.warning("the client could not be asked for approval %s: %s", approval.id, error)
            return None
        return verdict(cast("JsonObject", result))


class DeferredPrompt:
    """Asks by the call's result, and reads the answer from the call that follows."""

    waits = False

    def __init__(self, retry: Retry) -> None:
        self._answered = retry.approval
        self._answer = retry.answers.get(APPROVAL_KEY)
        self._asked: tuple[str, str] | None = None

    async def ask(self, approval: Approval) -> bool | None:
        """Return the answer that this call brings to this very approval, if it brings one."""
        if self._answered == approval.id:
            return verdict(self._answer)
        message = question(approval)
        if message is not None:
            self._asked = (approval.id, message)
        return None

    def asked(self, outcome: Outcome) -> Asked | None:
        """Return the question that takes the place of a result, where the call waits for its answer."""
        pending = isinstance(outcome, Denied) and outcome.decision.code is DecisionCode.APPROVAL_PENDING
        if not pending or self._asked is None:
            return None
        approval, message = self._asked
        params = _form(message)
        result: JsonObject = {
            "resultType": "input_required",
            "inputRequests": {APPROVAL_KEY: {"method": "elicitation/create", "params": params}},
            "_meta": {DECISION_META_KEY: outcome.decision.wire()},
        }
        return Asked(approval, result)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the caller's user: for which approval, and the result that asks it."""

    approval: str
    result: JsonObject


def question(approval: Approval) -> str | None:
    """Return what the user is asked, `None` where it is too long to be read.

    Nothing in it can hide: what does not print is escaped.
    """
    request = approval.request
    tool = f"{request.tool.server}.{request.tool.tool}"
    arguments = json.dumps(request.arguments, ensure_ascii=False)
    lines = (
        f"{request.principal.name} wants to call {tool}. Let it run, once, with exactly these arguments?",
        arguments,
        f"Rule {request.decision.rule!r} asks: {request.decision.reason}",
    )
    text = "\n".join(map(_printable, lines))
    return text if len(text) <= MAX_QUESTION else None


def _form(message: str) -> JsonObject:
    return {"mode": "form", "message": message, "requestedSchema": _SCHEMA}


def verdict(answer: JsonValue) -> bool | None:
    """Return what an elicitation's result says: yes, no, or `None` for neither."""
    match answer:
        case {"action": "accept", "content": {"decision": "approve"}}:
            return True
        case {"action": "decline"} | {"action": "accept", "content": {"decision": "deny"}}:
            return False
        case _:
            return None


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\u{{{ord(char):x}}}" for char in text)
