"""Calls and outcomes: what enters the one path and what leaves it. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypeAlias

from gateway.core.decisions import Decision
from gateway.core.json_types import JsonObject, JsonValue

__all__ = [
    "LOCAL",
    "Answered",
    "Denied",
    "Failed",
    "FailureKind",
    "Front",
    "Method",
    "Outcome",
    "Principal",
    "Role",
    "ServerError",
    "Target",
    "ToolCall",
]


class Front(StrEnum):
    """Where a call came in. Recorded, never decided on."""

    MCP = "mcp"
    ENV = "env"
    CODE = "code"
    CLI = "cli"
    UI = "ui"


class Role(StrEnum):
    """What a principal may do with the gateway itself."""

    AGENT = "agent"
    ORCHESTRATOR = "orchestrator"
    ADMIN = "admin"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as authenticated; never what a client says of itself."""

    name: str
    client: str | None = None
    user: str | None = None
    groups: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()


LOCAL = Principal("local", client="local", user="local", roles=frozenset(Role))
"""The one principal of a gateway on loopback without an auth file."""


class Method(StrEnum):
    """What a call asks of its server; the value is MCP's method."""

    CALL_TOOL = "tools/call"
    READ_RESOURCE = "resources/read"
    SUBSCRIBE = "resources/subscribe"
    UNSUBSCRIBE = "resources/unsubscribe"
    GET_PROMPT = "prompts/get"
    COMPLETE = "completion/complete"


Target: TypeAlias = Literal["tool", "resource", "prompt"]
"""What a call is about, and so which patterns of a policy speak of it."""


_NOTHING: Mapping[str, JsonValue] = MappingProxyType({})


def _nothing() -> Mapping[str, JsonValue]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as a front translated it: of a tool, or of a resource or prompt in the same manner.

    `tool` is the name the pack shows (with a server's `prefix` if it has one, without the
    `<pack>__` of the aggregated endpoint). `arguments` passed the strict gate and are not yet
    judged. `meta` is what of the caller's `_meta` travels on to the server, `params` what of its
    other parameters does (the answers a retry brings, what is to be completed).

    For a resource `tool` is its URI, for a prompt the server's own name of it; `server` says whose
    it is, `None` where nobody has it. Completion is about the prompt or resource it completes.
    """

    call_id: str
    tool: str
    arguments: JsonObject
    front: Front
    meta: Mapping[str, JsonValue] = field(default_factory=_nothing)
    method: Method = Method.CALL_TOOL
    target: Target = "tool"
    server: str | None = None
    params: Mapping[str, JsonValue] = field(default_factory=_nothing)

    def forwarded(self, upstream: str, arguments: JsonObject) -> JsonObject:
        """Return the parameters its server is sent: the judged `arguments`, under the server's own name."""
        match self.method:
            case Method.CALL_TOOL:
                own: JsonObject = {"name": upstream, "arguments": arguments}
            case Method.GET_PROMPT:
                own = {"name": upstream, "arguments": arguments} if arguments else {"name": upstream}
            case Method.COMPLETE:
                own = _judged_parts(self.params, arguments) if self.target == "prompt" else {}
            case _:
                own = {"uri": upstream}
        if not self.meta and not self.params:
            return own
        meta: JsonObject = {"_meta": dict(self.meta)} if self.meta else {}
        return {**self.params, **own, **meta}


def _judged_parts(params: Mapping[str, JsonValue], arguments: JsonObject) -> JsonObject:
    """Return what a completion says of its arguments, in the values that were judged."""
    own: JsonObject = {}
    argument, context = params.get("argument"), params.get("context")
    name = argument.get("name") if isinstance(argument, dict) else None
    if isinstance(argument, dict) and isinstance(name, str) and name in arguments:
        own["argument"] = {**argument, "value": arguments[name]}
    known = context.get("arguments") if isinstance(context, dict) else None
    if isinstance(context, dict) and isinstance(known, dict):
        own["context"] = {**context, "arguments": {key: arguments.get(key, known[key]) for key in known}}
    return own


class FailureKind(StrEnum):
    """Why an allowed call brought no result; never told as tool output."""

    TIMEOUT = "timeout"
    CRASHED = "crashed"
    START_FAILED = "start_failed"
    PROTOCOL = "protocol"
    TOO_LARGE = "too_large"
    SERVER_ERROR = "server_error"
    CANCELLED = "cancelled"
    AUDIT_UNAVAILABLE = "audit_unavailable"


@dataclass(frozen=True, slots=True)
class ServerError:
    """A JSON-RPC error the tool server answered with, unchanged."""

    code: int
    message: str
    data: JsonValue = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The server answered: `result` is its result object as it came, unknown fields included."""

    decision: Decision
    result: JsonObject


@dataclass(frozen=True, slots=True)
class Denied:
    """The call did not run; `decision` says why."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Failed:
    """The call was allowed and brought no result; it may or may not have run and is not retried."""

    decision: Decision
    kind: FailureKind
    message: str
    error: ServerError | None = None


Outcome = Answered | Denied | Failed
