"""The gateway as an MCP server on stdin and stdout, in the era the client opens with.

Every line passes the strict gate before the SDK sees it, and stdout carries protocol only: the
process's own stdin and stdout lead to nothing and to stderr meanwhile. Decides nothing.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.connection import Connection
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from gateway.core import strict_json
from gateway.core.calls import LOCAL, Principal
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError
from gateway.runtime.framing import Frame, LineFramer, TooLong
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session
from gateway.serve.gate import INVALID_REQUEST, PARSE_ERROR
from gateway.serve.mcp.directory import Directory
from gateway.serve.mcp.listening import tell_connection
from gateway.serve.mcp.peers import StandingPeer
from gateway.serve.mcp.server import build_server
from gateway.serve.mcp.sessions import Sessions
from gateway.serve.mcp.well_formed import message_fault
from gateway.serve.signals import ending_signals, until_signal

__all__ = ["serve_stdio"]

logger = logging.getLogger(__name__)

_CHUNK = 65_536
_LISTENING_SECONDS = 0.2
"""How soon a stream of changes that began after the end is ended again."""
_Received: TypeAlias = SessionMessage | Exception
_Ends: TypeAlias = tuple[MemoryObjectReceiveStream[_Received], MemoryObjectSendStream[SessionMessage]]


async def serve_stdio(
    gateway: Gateway,
    *,
    principal: Principal = LOCAL,
    max_line: int = 4_000_000,
    stdin: int = 0,
    stdout: int = 1,
) -> None:
    """Serve all packs of `gateway` until stdin ends or SIGTERM or SIGINT comes.

    What was asked before is still answered, within the gateway's drain time. `principal` is who
    speaks on these pipes; `stdin` and `stdout` are descriptors; `max_line` is in bytes.
    """
    sessions = Sessions(gateway, principal)
    server = build_server(gateway, Directory(gateway.packs), sessions)
    with _own(stdin, os.O_RDONLY) as source, _own(stdout, os.O_WRONLY) as sink:
        pipe = _Pipe(source, sink, JsonLimits(max_bytes=max_line), gateway.end_announcements)
        try:
            async with pipe.ends(gateway.settings.drain) as (inbox, outbox), _told(sessions):
                await serve_dual_era_loop(server, inbox, outbox, lifespan_state={})
        except* BrokenPipeError:
            logger.info("nobody reads stdout any more")


@asynccontextmanager
async def _told(sessions: Sessions) -> AsyncGenerator[None]:
    """Tell the client what its servers announce, while it is served."""
    async with anyio.create_task_group() as tasks:

        def opened(connection: Connection, session: Session) -> None:
            session.lease.standing = StandingPeer(connection)
            tasks.start_soon(tell_connection(connection, session))

        sessions.opened = opened
        yield
        tasks.cancel_scope.cancel()


@contextmanager
def _own(descriptor: int, mode: int) -> Generator[int]:
    """Take a standard stream for ourselves: whatever else reads or writes it meets a substitute."""
    private = os.dup(descriptor)
    substitute = os.open(os.devnull, mode) if mode == os.O_RDONLY else os.dup(2)
    try:
        os.dup2(substitute, descriptor)
        yield private
    finally:
        os.dup2(private, descriptor)
        os.close(private)
        os.close(substitute)


@dataclass(slots=True)
class _Pending:
    """The requests that are owed an answer."""

    ids: set[str] = field(default_factory=set[str])
    none_left: anyio.Event = field(default_factory=anyio.Event)

    def asked(self, message: SessionMessage) -> None:
        match message.message:
            case JSONRPCRequest(id=request_id):
                self.ids.add(str(request_id))
            case JSONRPCNotification(method="notifications/cancelled", params=params):
                self._settle((params or {}).get("requestId"))
            case _:
                return

    def answered(self, message: SessionMessage) -> None:
        if isinstance(message.message, JSONRPCResponse | JSONRPCError):
            self._settle(message.message.id)

    async def settled(self) -> None:
        if self.ids:
            self.none_left = anyio.Event()
            await self.none_left.wait()

    def _settle(self, request_id: Any) -> None:
        self.ids.discard(str(request_id))
        if not self.ids:
            self.none_left.set()


class _Pipe:
    """Lines in, lines out, over two descriptors."""

    def __init__(self, source: int, sink: int, limits: JsonLimits, end_listening: Callable[[], None]) -> None:
        self._source = source
        self._sink = sink
        self._limits = limits
        self._writing = anyio.Lock()
        self._pending = _Pending()
        self._end_listening = end_listening

    @asynccontextmanager
    async def ends(self, drain: float) -> AsyncGenerator[_Ends]:
        """Yield what the SDK reads and writes; after the input's end it has `drain` seconds to answer."""
        inbox_send, inbox = anyio.create_memory_object_stream[_Received]()
        outbox, outbox_receive = anyio.create_memory_object_stream[SessionMessage]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_out, outbox_receive)
            tasks.start_soon(self._read_in, inbox_send, drain)
            yield inbox, outbox
            tasks.cancel_scope.cancel()

    async def _read_in(self, inbox: MemoryObjectSendStream[_Received], drain: float) -> None:
        async def read() -> None:
            async for frame in _frames(self._source, self._limits.max_bytes):
                await self._take(frame, inbox)

        # Leaving closes the inbox, and that cancels whatever still runs: so answers are waited for.
        async with inbox:
            with ending_signals() as signals:
                await until_signal(signals, read)
                with anyio.move_on_after(drain):
                    await until_signal(signals, self._settled)

    async def _settled(self) -> None:
        """Return once all is answered; what would listen on and on is ended, also what only now begins to."""
        while self._pending.ids:
            self._end_listening()
            with anyio.move_on_after(_LISTENING_SECONDS):
                await self._pending.settled()

    async def _take(self, frame: Frame, inbox: MemoryObjectSendStream[_Received]) -> None:
        try:
            message = self._message(frame)
        except StrictJsonError as error:
            await self._write(_error(None, PARSE_ERROR, f"Parse error: {error}"))
        except ValidationError:
            await self._write(_error(None, INVALID_REQUEST, "not a JSON-RPC message"))
        else:
            if isinstance(message, str):
                await self._write(_error(None, INVALID_REQUEST, message))
                return
            self._pending.asked(message)
            await inbox.send(message)

    def _message(self, frame: Frame) -> SessionMessage | str:
        """Return the message of a line, or why it is none."""
        if isinstance(frame, TooLong):
            raise StrictJsonError(f"a line of {frame.length} bytes; the limit is {self._limits.max_bytes}")
        value = strict_json.loads(frame, self._limits)
        if (fault := message_fault(value)) is not None:
            return fault
        return SessionMessage(jsonrpc_message_adapter.validate_python(value, by_name=False))

    async def _write_out(self, outbox: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with outbox:
            async for message in outbox:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await self._write(line.encode())
                self._pending.answered(message)

    async def _write(self, line: bytes) -> None:
        async with self._writing:
            left = memoryview(line + b"\n")
            while left:
                await _ready(anyio.wait_writable, self._sink)
                # A pipe that is writable takes this much without blocking, and no more is promised.
                left = left[os.write(self._sink, left[: select.PIPE_BUF]) :]


def _error(request_id: JsonValue, code: int, message: str) -> bytes:
    error: JsonObject = {"code": code, "message": message}
    return strict_json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})


async def _frames(source: int, max_line: int) -> AsyncIterator[Frame]:
    framer = LineFramer(max_line)
    while data := await _read(source):
        for frame in filter(None, framer.feed(data)):
            yield frame
    # The last line may lack its end.
    for frame in filter(None, framer.feed(b"\n")):
        yield frame


async def _read(source: int) -> bytes:
    """Return what is there to read, `b""` at the end."""
    await _ready(anyio.wait_readable, source)
    return os.read(source, _CHUNK)


async def _ready(wait: Callable[[int], Awaitable[None]], descriptor: int) -> None:
    try:
        await wait(descriptor)
    except PermissionError:
        # A regular file never blocks, and so the system refuses to wait for it.
        await anyio.lowlevel.checkpoint()
