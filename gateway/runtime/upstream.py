"""Speaks MCP to one tool server over its sandbox's pipes. Owns nothing but the conversation.

JSON-RPC by hand, because the bytes of a hostile server must neither kill the reader nor reach a
caller unchecked: every line passes the strict gate, is capped, and is matched to a call that
still waits for it. Wrong, double and late answers are counted and dropped. A call is sent once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup, TaskStatus

from gateway import __version__
from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError, dumps, loads
from gateway.runtime.framing import Frame, LineFramer, TooLong, answered_id
from gateway.sandbox.contract import Sandbox

__all__ = ["PROTOCOL_VERSION", "Upstream", "UpstreamFailure", "UpstreamSettings"]

PROTOCOL_VERSION = "2025-11-25"
_ACCEPTED_VERSIONS = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
_MAX_PAGES = 100
_MAX_TOOLS = 2_000
_MAX_LISTING = 8_000_000
_METHOD_NOT_FOUND = -32601

logger = logging.getLogger(__name__)


class UpstreamFailure(Exception):
    """A request brought no result; `kind` says why. It may have run."""

    def __init__(self, kind: FailureKind, message: str, error: ServerError | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.error = kind, message, error


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Deadlines in seconds, sizes in bytes."""

    startup_timeout: float = 20.0
    call_timeout: float = 30.0
    max_result: int = 10_000_000


@dataclass(slots=True)
class _Waiting:
    """One request that waits for its answer: exactly one of `message` and `failure` once `done`."""

    done: anyio.Event = field(default_factory=anyio.Event)
    message: JsonObject | None = None
    failure: UpstreamFailure | None = None

    def answer(self, message: JsonObject) -> None:
        self.message = message
        self.done.set()

    def fail(self, failure: UpstreamFailure) -> None:
        self.failure = failure
        self.done.set()


class Upstream:
    """A conversation with one tool server. `start` it in a task group; `kill` ends server and reader.

    `stale` is true after the server announced that its tools changed, until `list_tools` is called.
    """

    def __init__(self, name: str, sandbox: Sandbox, settings: UpstreamSettings) -> None:
        self.name = name
        self.sandbox = sandbox
        self.stale = False
        self.ended: UpstreamFailure | None = None
        self.odd_frames = 0
        self._settings = settings
        self._framer = LineFramer(settings.max_result)
        self._limits = JsonLimits(max_bytes=settings.max_result)
        self._waiting: dict[int, _Waiting] = {}
        self._next_id = 1
        self._writing = anyio.Lock()
        self._reading = anyio.CancelScope()

    async def start(self, tasks: TaskGroup) -> None:
        """Start the reader in `tasks` and initialize the server; raises `UpstreamFailure` (start_failed)."""
        await tasks.start(self._read)
        try:
            await self._handshake()
        except UpstreamFailure as failure:
            message = f"server {self.name!r} did not start: {failure.message}"
            raise UpstreamFailure(FailureKind.START_FAILED, message) from failure

    async def list_tools(self) -> list[JsonObject]:
        """Return the server's tool definitions as it sent them, over all pages; raises `UpstreamFailure`."""
        self.stale = False  # before asking: a change announced meanwhile counts
        try:
            return await self._pages()
        except BaseException:
            self.stale = True
            raise

    async def call(self, tool: str, arguments: JsonObject, meta: Mapping[str, JsonValue]) -> JsonObject:
        """Call a tool once and return its result object; raises `UpstreamFailure`."""
        params: JsonObject = {"name": tool, "arguments": arguments}
        if meta:
            params["_meta"] = dict(meta)
        return await self._request("tools/call", params, self._settings.call_timeout)

    async def kill(self) -> None:
        """End the server; everything that waits fails with `cancelled`. Idempotent."""
        self._end(UpstreamFailure(FailureKind.CANCELLED, f"server {self.name!r} was stopped"))
        await self.sandbox.kill()

    # -- requests

    async def _pages(self) -> list[JsonObject]:
        definitions: list[JsonObject] = []
        params: JsonObject = {}
        size = 0
        for _ in range(_MAX_PAGES):
            page = await self._request("tools/list", params, self._settings.startup_timeout)
            tools = page.get("tools")
            definitions += (
                [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
            )
            size += len(dumps(tools))
            cursor = page.get("nextCursor")
            if size > _MAX_LISTING or len(definitions) > _MAX_TOOLS:
                break
            if not isinstance(cursor, str):
                return definitions
            params = {"cursor": cursor}
        limits = f"{_MAX_PAGES} pages, {_MAX_TOOLS} tools or {_MAX_LISTING} bytes"
        raise UpstreamFailure(FailureKind.PROTOCOL, f"server {self.name!r} lists more than {limits}")

    async def _handshake(self) -> None:
        params: JsonObject = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "sandgate", "version": __version__},
        }
        result = await self._request("initialize", params, self._settings.startup_timeout)
        version = result.get("protocolVersion")
        if version not in _ACCEPTED_VERSIONS:
            raise UpstreamFailure(
                FailureKind.PROTOCOL, f"it speaks the unknown protocol version {str(version)[:32]!r}"
            )
        await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def _request(self, method: str, params: JsonObject, seconds: float) -> JsonObject:
        if self.ended is not None:
            raise self.ended
        request_id, self._next_id = self._next_id, self._next_id + 1
        waiting = self._waiting[request_id] = _Waiting()
        try:
            with anyio.move_on_after(seconds):
                await self._send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
                await waiting.done.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._give_up(request_id, "the caller left")
            raise
        finally:
            self._waiting.pop(request_id, None)
        if waiting.failure is not None:
            raise waiting.failure
        if waiting.message is None:
            await self._give_up(request_id, "deadline passed")
            raise UpstreamFailure(
                FailureKind.TIMEOUT, f"server {self.name!r} did not answer {method} within {seconds:g} s"
            )
        return self._result(waiting.message)

    async def _give_up(self, request_id: int, reason: str) -> None:
        """Tell the server that nobody waits any more; bounded, for it may not read either."""
        params: JsonObject = {"requestId": request_id, "reason": reason}
        with anyio.move_on_after(0.5):
            await self._send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def _result(self, message: JsonObject) -> JsonObject:
        error = message.get("error")
        if isinstance(error, dict):
            raise UpstreamFailure(FailureKind.SERVER_ERROR, *_server_error(error))
        result = message.get("result")
        if not isinstance(result, dict):
            raise UpstreamFailure(
                FailureKind.PROTOCOL, f"server {self.name!r} answered without a result object"
            )
        return result

    async def _send(self, message: JsonObject) -> None:
        if self.ended is not None:
            return
        data = dumps(message) + b"\n"
        async with self._writing:
            try:
                await self.sandbox.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the reader sees the end too, and says how the server ended
            except anyio.get_cancelled_exc_class():
                # A frame may have gone out in part: nothing after it could be understood.
                self._end(
                    UpstreamFailure(FailureKind.CRASHED, f"server {self.name!r} stopped reading its input")
                )
                raise

    # -- answers

    async def _read(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            with self._reading:
                while self.ended is None:
                    for frame in self._framer.feed(await self.sandbox.receive()):
                        await self._take(frame)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._died()
        except Exception:
            # A server's bytes must never end the gateway: a fault of ours ends this conversation only.
            logger.exception("reading from server %r failed", self.name)
            self._end(UpstreamFailure(FailureKind.PROTOCOL, f"server {self.name!r} could not be understood"))
        finally:
            self._end(UpstreamFailure(FailureKind.CANCELLED, f"server {self.name!r} was stopped"))
            with anyio.CancelScope(shield=True):
                await self.sandbox.kill()

    async def _died(self) -> None:
        """Name how it ended; a server that only closed its output is given a moment, then killed."""
        reason = "it closed its output"
        with anyio.move_on_after(0.5):
            reason = (await self.sandbox.wait()).reason
        tail = self.sandbox.stderr_tail().strip()
        logger.warning(
            "server %r ended: %s%s", self.name, reason, f"; stderr: {tail[-2000:]}" if tail else ""
        )
        self._end(UpstreamFailure(FailureKind.CRASHED, f"server {self.name!r} ended: {reason}"))

    def _end(self, failure: UpstreamFailure) -> None:
        if self.ended is None:
            self.ended = failure
            self._reading.cancel()
        for waiting in self._waiting.values():
            if not waiting.done.is_set():
                waiting.fail(self.ended)

    async def _take(self, frame: Frame) -> None:
        if isinstance(frame, TooLong):
            said = f"sent {frame.length} bytes, over the limit of {self._settings.max_result}"
            self._refuse(answered_id(frame.head, frame.tail), FailureKind.TOO_LARGE, said)
            return
        try:
            message = loads(frame, self._limits)
        except StrictJsonError as error:
            kind = FailureKind.TOO_LARGE if error.code == "too_large" else FailureKind.PROTOCOL
            self._refuse(answered_id(frame, frame), kind, f"sent unacceptable JSON: {error}")
            return
        if not isinstance(message, dict):
            self.odd_frames += 1
        elif "method" in message:
            await self._asked(message)
        else:
            self._answered(message)

    def _answered(self, message: JsonObject) -> None:
        request_id = message.get("id")
        waiting = self._waiting.get(request_id) if type(request_id) is int else None
        if waiting is None or waiting.done.is_set():
            self.odd_frames += 1
            return
        waiting.answer(message)

    def _refuse(self, request_id: int | None, kind: FailureKind, said: str) -> None:
        """Fail the one call that a refused frame answered, where it names one; else it was noise."""
        self.odd_frames += 1
        waiting = self._waiting.get(request_id) if request_id is not None else None
        if waiting is not None and not waiting.done.is_set():
            waiting.fail(UpstreamFailure(kind, f"server {self.name!r} {said}"))

    async def _asked(self, message: JsonObject) -> None:
        """Answer what the server asks of its client: pings; nothing else was offered to it."""
        method, request_id = message.get("method"), message.get("id")
        if method == "notifications/tools/list_changed":
            self.stale = True
        if not isinstance(request_id, int | str) or isinstance(request_id, bool):
            return
        answer: JsonObject = {"jsonrpc": "2.0", "id": request_id}
        if method == "ping":
            answer["result"] = {}
        else:
            answer["error"] = {"code": _METHOD_NOT_FOUND, "message": "not offered by this client"}
        with anyio.move_on_after(5):
            await self._send(answer)


def _server_error(error: JsonObject) -> tuple[str, ServerError]:
    code, message = error.get("code"), error.get("message")
    number = code if isinstance(code, int) and not isinstance(code, bool) else -32603
    text = message if isinstance(message, str) else "unspecified error"
    return f"{text} ({number})", ServerError(number, text, error.get("data"))
