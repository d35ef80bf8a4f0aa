"""A tool server at a URL, spoken to by Streamable HTTP: looks like a sandbox's pipes from where calls come.

Lines go in and out as over stdio, so that the conversation, its gate and its caps are the same ones.
Every connection is one that the egress gate judged, recorded and opened, and its bytes are of the session's
budget; redirects are not followed.
What is sent as credentials is the operator's own, never anything of a caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import anyio
import httpcore2
from anyio.abc import TaskGroup, TaskStatus

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import dumps, loads
from gateway.runtime.event_stream import EventStream
from gateway.runtime.remote_auth import Credentials, TokenFailure
from gateway.runtime.remote_headers import Marks, argument_headers, header_value, marked_arguments
from gateway.runtime.remote_network import Network
from gateway.runtime.upstream.opening import LEGACY_VERSION, MODERN_VERSION
from gateway.sandbox.contract import Attempt, Exit, SandboxStats
from gateway.sandbox.egress import Way

__all__ = ["RemoteEndpoint", "RemoteServer"]

logger = logging.getLogger(__name__)

_WAITING_CHUNKS = 64
_CLOSING_SECONDS = 2.0
_MOST_REQUESTS = 256
_FAULTS = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, TokenFailure)
_VERSION_META = "io.modelcontextprotocol/protocolVersion"
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """Where a server is, and how the operator is known there. `headers` may hold secrets."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    oauth: Credentials | None = None

    @property
    def place(self) -> str:
        """Host and port, as records name them."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


class RemoteServer:
    """One conversation with a server over HTTP: a `Sandbox` to who speaks to it. `start` it first."""

    def __init__(self, endpoint: RemoteEndpoint, way: Way, max_bytes: int) -> None:
        self.id = f"remote:{endpoint.place}"
        self._endpoint = endpoint
        self._max_bytes = max_bytes
        self._way = way
        self._pool = httpcore2.AsyncConnectionPool(
            network_backend=Network(way.connect), max_connections=32, max_keepalive_connections=8, retries=0
        )
        self._into, self._out = anyio.create_memory_object_stream[bytes](_WAITING_CHUNKS)
        self._requests: dict[int | str, anyio.CancelScope] = {}
        self._scope = anyio.CancelScope()
        self._group: TaskGroup | None = None
        self._version = LEGACY_VERSION
        self._session: str | None = None
        self._marks: dict[str, Marks] = {}
        self._exit: Exit | None = None
        self._ended = anyio.Event()
        self._left = b""

    async def start(self, tasks: TaskGroup) -> RemoteServer:
        """Have its requests run in `tasks`."""
        await tasks.start(self._run)
        return self

    async def _run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    self._group = group
                    task_status.started()
                    await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
                await self._leave()
                await self._pool.aclose()
            await self._way.aclose()
            self._over("it was stopped")
            self._out.close()

    def listed(self, tools: Iterable[JsonObject]) -> None:
        """Take note of the server's tools: of which arguments its requests repeat in headers."""
        self._marks = {str(tool.get("name")): marked_arguments(tool.get("inputSchema")) for tool in tools}

    # -- as a sandbox

    def send_now(self, data: bytes) -> bool:
        """As `contract.Sandbox.send_now`: what is sent begins at once, its way is a task of its own."""
        if self._exit is not None or self._group is None:
            return False
        for line in data.splitlines():
            message = loads(line)
            if isinstance(message, dict):
                self._begin(self._group, message, line)
        return True

    async def send(self, data: bytes) -> None:
        """Send each line as a request of its own; raises `anyio.BrokenResourceError` once it is over."""
        if not self.send_now(data):
            raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Return the next bytes of what it answered; raises `anyio.EndOfStream` at its end."""
        chunk = self._left or await self._out.receive()
        self._left = chunk[max_bytes:]
        return chunk[:max_bytes]

    def stderr_tail(self) -> str:
        """Return nothing: a remote server has none."""
        return ""

    def notice(self, tell: Callable[[Attempt], None]) -> str | None:
        """As `contract.Sandbox.notice`."""
        return "whatever it reaches, it does so elsewhere"

    async def wait(self) -> Exit:
        """Return why it is over, once it is."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    def stats(self) -> SandboxStats:
        """Return nothing: it runs elsewhere."""
        return SandboxStats(None, None, None)

    async def kill(self) -> None:
        """End the conversation. Idempotent."""
        self._over("it was stopped")
        self._scope.cancel()

    # -- requests

    def _begin(self, group: TaskGroup, message: JsonObject, line: bytes) -> None:
        if message.get("method") == "notifications/cancelled":
            params = message.get("params")
            cancelled = params.get("requestId") if isinstance(params, dict) else None
            scope = self._requests.pop(cancelled, None) if isinstance(cancelled, int | str) else None
            if scope is not None:
                scope.cancel()
            if self._version == MODERN_VERSION:
                return  # the request's end is the notice
        if len(self._requests) < _MOST_REQUESTS:
            group.start_soon(self._request, message, line)

    async def _request(self, message: JsonObject, line: bytes) -> None:
        request_id = message.get("id") if "method" in message else None
        with anyio.CancelScope() as scope:
            if isinstance(request_id, int | str):
                self._requests[request_id] = scope
            try:
                await self._exchange(message, line, request_id)
            except TokenFailure as error:
                self._over(str(error))
            except _FAULTS as error:
                self._over(str(error) or type(error).__name__)
            except Exception:
                # A server's bytes must never end the gateway: a fault of ours ends this conversation only.
                logger.exception("speaking to %s failed", self.id)
                self._over("it could not be understood")
            finally:
                if isinstance(request_id, int | str):
                    self._requests.pop(request_id, None)

    async def _exchange(self, message: JsonObject, line: bytes, request_id: JsonValue) -> None:
        self._note_era(message)
        for attempt in (0, 1):
            headers = await self._headers(message, again=attempt == 1)
            async with self._pool.stream(
                "POST", self._endpoint.url, headers=headers, content=line
            ) as response:
                if response.status == 401 and self._endpoint.oauth is not None and attempt == 0:
                    continue  # refused before it was read: the token was over
                await self._take(response, message, request_id)
                return

    async def _take(self, response: httpcore2.Response, message: JsonObject, request_id: JsonValue) -> None:
        said = {name.decode().lower(): value.decode("latin-1") for name, value in response.headers}
        if message.get("method") == "initialize":
            self._session = said.get("mcp-session-id")
        if response.status == 404 and self._session is not None:
            self._over("it no longer knows the session")
        elif said.get("content-type", "").startswith("text/event-stream"):
            answered = await self._stream(response, request_id)
            if not answered and request_id is not None:
                self._over("it ended a stream without an answer")
        else:
            await self._plain(response, message, request_id)

    async def _plain(self, response: httpcore2.Response, message: JsonObject, request_id: JsonValue) -> None:
        body = await self._read(response)
        if body.lstrip().startswith(b"{"):
            await self._push(body)
            if message.get("method") == "initialize":
                self._listen(body)
        if request_id is not None and not _answers(body, request_id):
            # Nothing more will come of this request; where its own answer was refused, that stands.
            code = response.status if response.status >= 300 else 502
            said = f"{self._endpoint.place} did not answer the request (HTTP {response.status})"
            error: JsonObject = {"code": code, "message": said}
            await self._push(dumps({"jsonrpc": "2.0", "id": request_id, "error": error}))

    async def _read(self, response: httpcore2.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._max_bytes:
                break  # more than is taken: the framer says so
        return bytes(body)

    async def _stream(self, response: httpcore2.Response, request_id: JsonValue) -> bool:
        """Pass a stream's messages on; return whether the answer to the request was among them."""
        events = EventStream(self._max_bytes)
        async for chunk in response.aiter_stream():
            for data in events.feed(chunk):
                await self._push(data)
                if request_id is not None and _answers(data, request_id):
                    return True
        return False

    async def _push(self, body: bytes) -> None:
        # Line ends in JSON are blanks, and here they would cut it.
        line = body.replace(b"\r", b" ").replace(b"\n", b" ")
        if self._endpoint.oauth is not None:
            line = self._endpoint.oauth.hidden(line)
        try:
            await self._into.send(line + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            logger.debug("nobody reads what %s says any more", self.id)

    # -- the frame around

    def _note_era(self, message: JsonObject) -> None:
        params = message.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        if isinstance(meta, dict) and meta.get(_VERSION_META) == MODERN_VERSION:
            self._version = MODERN_VERSION

    async def _headers(self, message: JsonObject, *, again: bool = False) -> list[tuple[str, str]]:
        method, params = message.get("method"), message.get("params")
        headers = {
            "host": urlsplit(self._endpoint.url).netloc,
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "user-agent": "sandgate",
            **self._endpoint.headers,
        }
        if self._endpoint.oauth is not None:
            headers["authorization"] = await self._endpoint.oauth.bearer(self._pool, renew=again)
        if method != "initialize":
            headers["mcp-protocol-version"] = self._version
        if self._version == MODERN_VERSION and isinstance(method, str):
            headers["mcp-method"] = method
            name = params.get(_NAMED.get(method, "")) if isinstance(params, dict) else None
            if isinstance(name, str):
                headers["mcp-name"] = header_value(name)
                if method == "tools/call" and name in self._marks and isinstance(params, dict):
                    headers |= argument_headers(self._marks[name], params.get("arguments"))
        elif self._session is not None:
            headers["mcp-session-id"] = self._session
        return list(headers.items())

    def _listen(self, answer: bytes) -> None:
        """Open the stream on which a server with sessions speaks of its own accord; it may have none."""
        result = _result(answer)
        version = result.get("protocolVersion")
        if isinstance(version, str):
            self._version = version
        if self._group is not None:
            self._group.start_soon(self._listened)

    async def _listened(self) -> None:
        try:
            about = await self._headers({"method": "GET"})
            headers = [pair for pair in about if pair[0] != "content-type"]
            async with self._pool.stream("GET", self._endpoint.url, headers=headers) as response:
                if response.status == 200:
                    await self._stream(response, None)
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            TokenFailure,
        ) as error:
            logger.info("%s cannot be listened to: %s", self.id, error)
        except Exception:
            logger.exception("listening to %s failed", self.id)

    async def _leave(self) -> None:
        """Tell a server with sessions that this one is over; it may not care."""
        if self._session is None:
            return
        try:
            headers = await self._headers({"method": "DELETE"})
            await self._pool.request("DELETE", self._endpoint.url, headers=headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the conversation is over
            logger.debug("%s was not told of the end: %s", self.id, error)

    def _over(self, reason: str) -> None:
        if self._exit is None:
            self._exit = Exit(0, reason)
            self._ended.set()
            self._into.close()


def _answers(data: bytes, request_id: JsonValue) -> bool:
    try:
        message = loads(data)
    except ValueError:
        return False
    return isinstance(message, dict) and "method" not in message and message.get("id") == request_id


def _result(answer: bytes) -> JsonObject:
    try:
        message = loads(answer)
    except ValueError:
        return {}
    result = message.get("result") if isinstance(message, dict) else None
    return result if isinstance(result, dict) else {}
