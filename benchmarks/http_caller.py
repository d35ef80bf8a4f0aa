"""A bare HTTP/1.1 client for benchmarks: one kept connection, one request at a time, nothing else.

A real client library costs more than what is measured, so requests are bytes made beforehand, and an
answer is read no further than its end. On two cores the caller takes its share from the peer.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

MODERN = "2026-07-28"
LEGACY = "2025-11-25"

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_SESSION = re.compile(rb"\r\nmcp-session-id: *([^\r]+)\r\n", re.IGNORECASE)


class Caller(asyncio.Protocol):
    """One caller of one MCP endpoint, in one era; without sessions in it, `name` names one of its own."""

    def __init__(self, port: int, path: str, era: str, name: str | None = None) -> None:
        self.port, self.path, self.era, self.name = port, path, era, name
        self.session: str | None = None
        self._transport: asyncio.WriteTransport
        self._answer: asyncio.Future[tuple[bytes, bytes]]
        self._buffer = bytearray()
        self._head = 0
        self._length = -1

    async def open(self) -> None:
        """Connect, and shake hands where the era has a handshake."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self.port)
        if self.era == LEGACY:
            info = {
                "protocolVersion": LEGACY,
                "capabilities": {},
                "clientInfo": {"name": "bench", "version": "1"},
            }
            await self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": info})
            await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def end(self) -> None:
        """End the session that the handshake opened, if any: a peer keeps only so many."""
        if self.session is not None:
            lines = (f"DELETE {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}")
            head = "\r\n".join((*lines, f"Mcp-Session-Id: {self.session}", "", ""))
            await self.exchange(head.encode())

    def close(self) -> None:
        """Drop the connection."""
        self._transport.close()

    def tool_call(self, text: str, request_id: int = 1) -> bytes:
        """Return a whole request that calls `echo`."""
        params: dict[str, Any] = {"name": "echo", "arguments": {"text": text}}
        if self.era == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            }
        body = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        return self._encode(body)

    async def post(self, body: dict[str, Any]) -> bytes:
        """Send one message and return the answer's body."""
        return await self.exchange(self._encode(body))

    async def timed(self, request: bytes, expect: bytes) -> float:
        """Return the seconds one exchange took; raises `RuntimeError` if the answer lacks `expect`."""
        begin = time.perf_counter()
        answer = await self.exchange(request)
        took = time.perf_counter() - begin
        if expect not in answer:
            raise RuntimeError(f"port {self.port}: unexpected answer {answer[:300]!r}")
        return took

    async def exchange(self, request: bytes) -> bytes:
        """Send request bytes and return the answer's body; raises `RuntimeError` on a refusal."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        head, body = await self._answer
        if head[9:10] != b"2":
            raise RuntimeError(f"port {self.port}: {head[:80]!r}: {body[:300]!r}")
        if self.session is None and (found := _SESSION.search(head)):
            self.session = found[1].decode()
        return body

    def _encode(self, body: dict[str, Any]) -> bytes:
        data = json.dumps(body, separators=(",", ":")).encode()
        headers = [
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"Content-Length: {len(data)}",
        ]
        if body["method"] != "initialize":
            headers.append(f"MCP-Protocol-Version: {self.era}")
        if self.era == MODERN:
            headers += [f"Mcp-Method: {body['method']}", f"Mcp-Name: {body['params']['name']}"]
        if self.name:
            headers.append(f"Sandgate-Session: {self.name}")
        if self.session:
            headers.append(f"Mcp-Session-Id: {self.session}")
        return "\r\n".join(headers).encode() + b"\r\n\r\n" + data

    # -- the connection

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        if hasattr(self, "_answer") and not self._answer.done():
            self._answer.set_exception(RuntimeError(f"port {self.port}: the connection was lost"))

    def data_received(self, data: bytes) -> None:
        """Take bytes until an answer is whole."""
        self._buffer += data
        if not self._head and not self._read_head():
            return
        if self._length >= 0:
            if len(self._buffer) >= self._head + self._length:
                self._done(bytes(self._buffer[self._head :]))
        elif self._buffer.endswith(b"\r\n0\r\n\r\n"):
            self._done(_unchunked(self._buffer[self._head :]))

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._head = end + 4
        head = bytes(self._buffer[: self._head])
        length = _LENGTH.search(head)
        self._length = int(length[1]) if length else -1 if _CHUNKED.search(head) else 0
        return True

    def _done(self, body: bytes) -> None:
        head = bytes(self._buffer[: self._head])
        self._buffer.clear()
        self._head = 0
        self._answer.set_result((head, body))


def _unchunked(data: bytearray) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(bytes(data[end + 2 : end + 2 + size]))
        at = end + 2 + size + 2
