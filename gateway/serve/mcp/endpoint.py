"""One MCP endpoint over Streamable HTTP, both eras on one path: our guards around the SDK's transport.

Strict gate -> JSON-RPC of one era -> whose session -> SDK -> HTTP status of a refusal. The SDK picks the
era by the `MCP-Protocol-Version` header; so does this module, by the same rule, and refuses a body that
says otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
from mcp.server.connection import Connection
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import ClientError
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session
from gateway.serve.endings import serve_until_ended
from gateway.serve.gate import INVALID_REQUEST, GateLimits, StrictGate, message_of, rpc_error
from gateway.serve.identity import principal_of
from gateway.serve.mcp.batches import batch_of, serve_batch
from gateway.serve.mcp.directory import Directory
from gateway.serve.mcp.envelope import names_modern_era
from gateway.serve.mcp.listening import tell_connection
from gateway.serve.mcp.peers import StandingPeer
from gateway.serve.mcp.plain_answers import PlainAnswers, accepting_streams
from gateway.serve.mcp.quick import QuickCalls
from gateway.serve.mcp.server import REFUSAL, build_server, server_info
from gateway.serve.mcp.sessions import Bindings, Sessions, named, session_name
from gateway.serve.mcp.well_formed import envelope_fault, message_fault
from gateway.serve.replies import retry_headers

__all__ = ["McpEndpoint"]

_CLOSING_SECONDS = 5.0
_VERBS = ("GET", "POST", "DELETE")


class McpEndpoint:
    """ASGI application: MCP for some packs of a gateway. Serves while `run` is entered."""

    def __init__(self, gateway: Gateway, packs: tuple[str, ...], limits: GateLimits) -> None:
        self._gateway = gateway
        self._bindings = Bindings(gateway)
        self._sessions = Sessions(gateway)
        directory = Directory({name: gateway.packs[name] for name in packs})
        server = build_server(gateway, directory, self._sessions, self._bindings)
        self.quick = QuickCalls(gateway, directory, self._bindings, server_info(server))
        self._manager = StreamableHTTPSessionManager(
            server,
            session_idle_timeout=gateway.settings.session_idle,
            # Both are bounded here; re-serialised bytes may be a few more than came.
            max_request_body_size=2 * limits.max_body,
            max_sessions=None,
        )
        self._gated = StrictGate(self._guarded, limits)

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Hold the sessions' tasks. Left, every session of this endpoint has ended."""
        async with self._manager.run(), anyio.create_task_group() as tasks:

            def opened(connection: Connection, session: Session) -> None:
                session.lease.standing = StandingPeer(connection, self._bindings.known(session.id))
                tasks.start_soon(tell_connection(connection, session))

            self._sessions.opened = opened
            yield
            tasks.cancel_scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._gated(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            if names_modern_era(headers.get("mcp-protocol-version")):
                if (refused := _refused(scope)) is not None:
                    await refused(scope, receive, send)
                    return
                await self._modern(named(scope, session_name(headers.get("sandgate-session"))), receive, send)
            elif (batch := batch_of(scope)) is not None:
                await serve_batch(batch, self._one, scope, receive, send)
            else:
                await self._one(scope, receive, send)
        except ClientError as error:
            response = rpc_error(error.status, error.status, str(error), retry_headers(error))
            await response(scope, receive, send)

    # -- without sessions

    async def _modern(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one self-contained request; a caller that goes away cancels it."""
        first: Message | None = await receive()
        gone = anyio.Event()

        async def body_then_silence() -> Message:
            nonlocal first
            if first is None:
                await gone.wait()
                return {"type": "http.disconnect"}
            message, first = first, None
            return message

        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                # The SDK does so only once it streams.
                while (await receive())["type"] != "http.disconnect":
                    continue
                gone.set()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._serve(scope, body_then_silence, send)
            tasks.cancel_scope.cancel()

    # -- with sessions

    async def _one(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refused := _malformed(scope) or _refused(scope)) is not None:
            await refused(scope, receive, send)
            return
        await self._legacy(scope, Headers(scope=scope).get("mcp-session-id"), receive, send)

    async def _legacy(self, scope: Scope, session_id: str | None, receive: Receive, send: Send) -> None:
        principal = principal_of(scope)
        if scope["method"] not in _VERBS:
            await Response(status_code=405, headers={"Allow": ", ".join(_VERBS)})(scope, receive, send)
        elif session_id is None and not _opens(scope):
            # The SDK would mint an id first, and send it along with its refusal.
            missing = "Missing session ID: initialize first"
            await rpc_error(HTTPStatus.BAD_REQUEST, INVALID_REQUEST, missing)(scope, receive, send)
        elif session_id is None:
            with self._bindings.opening(scope, principal):
                await self._serve(scope, receive, send)
        elif scope["method"] == "GET":
            await self._listen(scope, session_id, receive, send)
        elif scope["method"] == "DELETE":
            await self._delete(scope, session_id, receive, send)
        else:
            binding = self._bindings.of(session_id, principal)
            binding.heard = self._gateway.clock.monotonic()
            if scope["method"] == "POST" and binding.answered(message_of(scope)):
                await Response(status_code=202, headers={"mcp-session-id": session_id})(scope, receive, send)
                return
            if (cancelled := _cancelled_id(scope)) is not None:
                binding.withdraw(cancelled)
            async with binding.answering(_request_id(scope)):
                await self._serve(scope, receive, send)

    async def _listen(self, scope: Scope, session_id: str, receive: Receive, send: Send) -> None:
        """Serve a stream on which the client only listens; it ends with its session."""
        binding = self._bindings.of(session_id, principal_of(scope))
        listens = False

        async def note(message: Message) -> None:
            nonlocal listens
            await send(message)
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.OK:
                listens = True
                binding.listening.set()

        try:
            await serve_until_ended(self._serve, binding.streams, scope, receive, note)
        finally:
            if listens:  # a second stream is refused, and ends nothing
                binding.listening = anyio.Event()

    async def _delete(self, scope: Scope, session_id: str, receive: Receive, send: Send) -> None:
        """End a session; the answer comes once its sandboxes are gone and its place is free."""
        binding = self._bindings.of(session_id, principal_of(scope))
        self._bindings.end(session_id)

        async def once_closed(message: Message) -> None:
            with anyio.move_on_after(_CLOSING_SECONDS):
                await binding.closed.wait()
            await send(message)

        await self._serve(scope, receive, once_closed)

    # -- both

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to the SDK; a refusal that was raised in there gives the answer its status."""

        async def with_status(message: Message) -> None:
            refusal = scope.get(REFUSAL)
            if message["type"] == "http.response.start" and isinstance(refusal, ClientError):
                extra = [(k.lower().encode(), v.encode()) for k, v in retry_headers(refusal).items()]
                message = {**message, "status": refusal.status, "headers": [*message["headers"], *extra]}
            await send(message)

        if scope["method"] != "POST":
            await self._manager.handle_request(scope, receive, with_status)
            return
        scope, streams = accepting_streams(scope)
        await self._manager.handle_request(scope, receive, PlainAnswers(with_status, streams=streams))


def _opens(scope: Scope) -> bool:
    """Whether a request without a session asks for one."""
    message = message_of(scope) if scope["method"] == "POST" else None
    return isinstance(message, dict) and message.get("method") == "initialize" and "id" in message


def _malformed(scope: Scope) -> Response | None:
    """Return the answer to a POST that is no JSON-RPC message, or `None`; modern ones the SDK refuses."""
    fault = message_fault(message_of(scope)) if scope["method"] == "POST" else None
    return None if fault is None else rpc_error(HTTPStatus.BAD_REQUEST, INVALID_REQUEST, fault)


def _refused(scope: Scope) -> Response | None:
    """Return the answer to a POST whose body is of another era than its headers, or `None`."""
    if scope["method"] != "POST":
        return None
    headers, message = Headers(scope=scope), message_of(scope)
    fault = envelope_fault(headers.get("mcp-protocol-version"), headers.get("mcp-session-id"), message)
    if fault is None:
        return None
    code, said, data = fault
    asked = message.get("id") if isinstance(message, dict) else None
    asked = asked if isinstance(asked, int | str) and not isinstance(asked, bool) else None
    return rpc_error(HTTPStatus.BAD_REQUEST, code, said, request_id=asked, data=data)


def _cancelled_id(scope: Scope) -> str | None:
    """Return the id of the request that a gated POST cancels, `None` where it cancels nothing."""
    match message_of(scope) if scope["method"] == "POST" else None:
        case {"method": "notifications/cancelled", "params": {"requestId": int() | str() as request_id}}:
            return str(request_id)
        case _:
            return None


def _request_id(scope: Scope) -> str | None:
    """Return the id of the request in a gated POST, `None` for anything that is owed no answer."""
    message = message_of(scope) if scope["method"] == "POST" else None
    if not isinstance(message, dict) or "method" not in message:
        return None
    request_id = message.get("id")
    return str(request_id) if isinstance(request_id, int | str) else None
