"""`tools/call` without the SDK: the calls that need nothing of it, answered as it would answer them.

Whatever is out of the ordinary is left to the SDK's road, which knows how to refuse it, and so is a call
that brings answers (`input_required`): then nothing has happened here. Rules that both roads know stand
where that road has them (`calls`, `calling`, `envelope`, `sessions`, the gateway itself). Decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from mcp.server.streamable_http import REQUEST_CANCELLED
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, X_MCP_HEADER_KEY
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    INTERNAL_ERROR,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)

from gateway.core.calls import Front, Outcome, Principal, ToolCall
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import tool_result
from gateway.core.strict_json import dumps
from gateway.errors import ClientError
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id
from gateway.serve.mcp.calling import seal_of, shown_of
from gateway.serve.mcp.calls import call_params, raise_protocol_error
from gateway.serve.mcp.directory import Directory
from gateway.serve.mcp.envelope import (
    end_to_end_meta,
    is_modern,
    may_be_asked,
    names_modern_era,
    result_envelope,
)
from gateway.serve.mcp.quick_peers import (
    Client,
    QuickPeer,
    Stream,
    client_with_session,
    client_without_session,
    prompt_for,
)
from gateway.serve.mcp.request_state import FIRST
from gateway.serve.mcp.sessions import Binding, Bindings, session_name
from gateway.serve.replies import retry_headers

__all__ = ["Headers", "QuickAnswer", "QuickCall", "QuickCalls"]

logger = logging.getLogger(__name__)

Headers: TypeAlias = Mapping[bytes, str]
"""The headers that decide something, trimmed, each of which came once."""

_METHOD = "tools/call"
_LEGACY_VERSION = "2025-11-25"
_DEFERRED = ("inputResponses", "requestState")


class _Seat(NamedTuple):
    """Whose call it is: the session, in which era, and what is held while it runs.

    `client`: whom something may have to be said before the answer, or asked. `binding` is that of a session
    with an id, `None` without.
    """

    session: Session
    version: str
    session_id: str | None
    client: Client | None
    binding: Binding | None


class QuickCall(NamedTuple):
    """One call that can be answered here; `name` is the tool's as the endpoint shows it."""

    seat: _Seat
    call: ToolCall
    name: str
    request_id: int | str

    @property
    def leaving_cancels(self) -> bool:
        """Whether a caller that goes away cancels it: so it is without sessions, with them it may be back."""
        return self.seat.session_id is None

    @property
    def converses(self) -> bool:
        """Whether something may be said before its answer: then `answer` wants a stream."""
        return self.seat.client is not None

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Those of whatever it is answered with."""
        session_id = self.seat.session_id
        return () if session_id is None else ((b"mcp-session-id", session_id.encode()),)

    def begin(self, withdraw: Callable[[], object]) -> None:
        """Hold its id until `finish`; `withdraw` is called where its client cancels it."""
        if self.seat.binding is not None:
            self.seat.binding.begin(str(self.request_id), withdraw)

    def finish(self) -> None:
        """Let its id be used again."""
        if self.seat.binding is not None:
            self.seat.binding.finish(str(self.request_id))


class QuickAnswer(NamedTuple):
    """What goes back: a status, one JSON-RPC message, and headers beside those of JSON."""

    status: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()


class QuickCalls:
    """The quick calls of one endpoint."""

    def __init__(
        self, gateway: Gateway, directory: Directory, bindings: Bindings, server_info: JsonObject
    ) -> None:
        self._gateway = gateway
        self._directory = directory
        self._bindings = bindings
        self._server_info = server_info
        self._mirrored: dict[str, bool] = {}

    def prepare(self, headers: Headers, message: JsonValue, principal: Principal) -> QuickCall | None:
        """Return the call that a POST makes, `None` if it is not for here."""
        if not isinstance(message, dict) or message.get("method") != _METHOD:
            return None
        request_id, params = message.get("id"), message.get("params")
        if (
            message.get("jsonrpc") != "2.0"
            or type(request_id) not in (int, str)
            or not isinstance(params, dict)
        ):
            return None
        assert isinstance(request_id, int | str)
        try:
            return self._prepared(headers, request_id, params, principal)
        except (ClientError, MCPError):
            return None

    def _prepared(
        self, headers: Headers, request_id: int | str, params: JsonObject, principal: Principal
    ) -> QuickCall | None:
        name, arguments, meta = call_params(params)
        if any(key in params for key in _DEFERRED):
            return None
        pack, tool = self._directory.find(name)
        if names_modern_era(headers.get(b"mcp-protocol-version")):
            seat = self._modern(headers, pack, name, meta, principal)
        else:
            seat = self._legacy(headers, pack, tool, meta, principal)
        if seat is None or self._gateway.draining or seat.session.closed:
            return None
        if seat.binding is not None and str(request_id) in seat.binding.in_flight:
            return None
        call = ToolCall(new_call_id(), tool, arguments, Front.MCP, end_to_end_meta(meta))
        return QuickCall(seat, call, name, request_id)

    def _modern(
        self, headers: Headers, pack: str, name: str, meta: JsonObject, principal: Principal
    ) -> _Seat | None:
        version, client = headers.get(b"mcp-protocol-version", ""), meta.get(CLIENT_CAPABILITIES_META_KEY)
        said = (meta.get(PROTOCOL_VERSION_META_KEY), headers.get(b"mcp-method"), headers.get(b"mcp-name"))
        # A name that is not written out in the header, but encoded, is for the SDK to decode.
        if said != (version, _METHOD, name) or name.startswith("=?") or not is_modern(version):
            return None
        if not isinstance(client, dict) or self._mirrors_arguments(name):
            return None
        session = self._gateway.live_named_session(
            pack, principal, session_name(headers.get(b"sandgate-session"))
        )
        if session is None:
            return None
        if "progressToken" not in meta and LOG_LEVEL_META_KEY not in meta and not may_be_asked(client):
            return _Seat(session, version, None, None, None)
        known = client_without_session(client, meta)
        return None if known is None else _Seat(session, version, None, known, None)

    def _legacy(
        self, headers: Headers, pack: str, tool: str, meta: JsonObject, principal: Principal
    ) -> _Seat | None:
        session_id = headers.get(b"mcp-session-id")
        if session_id is None or PROTOCOL_VERSION_META_KEY in meta:
            return None
        binding = self._bindings.of(session_id, principal)
        if not binding.fresh(self._gateway.clock.monotonic()):
            return None
        session = self._gateway.session(pack, session_id, principal)
        if "progressToken" not in meta and not binding.asked and not session.logs(tool):
            return _Seat(session, _LEGACY_VERSION, session_id, None, binding)
        known = client_with_session(binding, meta)
        return None if known is None else _Seat(session, _LEGACY_VERSION, session_id, known, binding)

    def _mirrors_arguments(self, name: str) -> bool:
        """Whether the tool wants arguments repeated in headers: the SDK compares them."""
        known = self._mirrored.get(name)
        if known is None:
            schema = self._directory.input_schema(name)
            known = schema is not None and X_MCP_HEADER_KEY.encode() in dumps(schema)
            if schema is not None:
                self._mirrored[name] = known
        return known

    async def answer(self, quick: QuickCall, stream: Stream | None) -> QuickAnswer:
        """Make the call and return what to say of it; cancelled because its client did, see `withdrawn`.

        `stream` is where a call that `converses` says what comes before, `None` where its client takes none.
        """
        seat, client = quick.seat, quick.seat.client
        try:
            if client is None:
                outcome = await self._gateway.call(seat.session, quick.call)
                return self._told(quick, outcome, tool_result(outcome))
            prompt, peer = prompt_for(client, seat.binding), QuickPeer(client, stream, seat.binding)
            seal = seal_of(self._gateway, seat.session, quick.call)
            outcome = await self._gateway.call(seat.session, quick.call, prompt, peer)
            return self._told(quick, outcome, shown_of(outcome, prompt, FIRST, seal))
        except ClientError as error:  # raised before a call begins: it ended since it was prepared
            return self._refused(quick, error)
        except Exception:
            # The border of the protocol: what went wrong inside is for the log, not for the caller.
            logger.exception("answering %s failed", _METHOD)
            return self._error(quick, MCPError(INTERNAL_ERROR, "internal error"))

    def withdrawn(self, quick: QuickCall) -> QuickAnswer:
        """Return the answer to a call that its client cancelled."""
        return self._error(quick, MCPError(REQUEST_CANCELLED, "Request cancelled"))

    def _told(self, quick: QuickCall, outcome: Outcome, result: JsonObject) -> QuickAnswer:
        try:
            raise_protocol_error(quick.name, outcome)
        except MCPError as error:
            return self._error(quick, error)
        result = result_envelope(result, version=quick.seat.version, server_info=self._server_info)
        body = dumps({"jsonrpc": "2.0", "id": quick.request_id, "result": result})
        return QuickAnswer(200, body, quick.headers)

    def _refused(self, quick: QuickCall, error: ClientError) -> QuickAnswer:
        told = self._error(quick, MCPError(error.status, str(error)))
        retry = [(name.lower().encode(), value.encode()) for name, value in retry_headers(error).items()]
        return QuickAnswer(error.status, told.body, [*told.headers, *retry])

    def _error(self, quick: QuickCall, error: MCPError) -> QuickAnswer:
        said = error.error
        told: JsonObject = {"code": said.code, "message": said.message}
        if said.data is not None:
            told["data"] = said.data
        status = ERROR_CODE_HTTP_STATUS.get(said.code, 200) if is_modern(quick.seat.version) else 200
        body = dumps({"jsonrpc": "2.0", "id": quick.request_id, "error": told})
        return QuickAnswer(status, body, quick.headers)
