"""A bare HTTP/1.1 client for benchmarks: one kept connection, one request at a time, nothing else.

A real client library costs more than what is measured, so requests are bytes made beforehand.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

MODERN = "2026-07-28"
LEGACY = "2025-11-25"


class Caller:
    """One caller of one MCP endpoint, in one era."""

    def __init__(self, port: int, path: str, era: str) -> None:
        self.port, self.path, self.era = port, path, era
        self.session: str | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def open(self) -> None:
        """Connect, and shake hands where the era has a handshake."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        if self.era == LEGACY:
            info = {
                "protocolVersion": LEGACY,
                "capabilities": {},
                "clientInfo": {"name": "bench", "version": "1"},
            }
            await self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": info})
            await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def close(self) -> None:
        """Drop the connection."""
        self._writer.close()

    def tool_call(self, text: str) -> bytes:
        """Return a whole request that calls `echo`."""
        params: dict[str, Any] = {"name": "echo", "arguments": {"text": text}}
        if self.era == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            }
        return self._encode({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})

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
        if self.session:
            headers.append(f"Mcp-Session-Id: {self.session}")
        return "\r\n".join(headers).encode() + b"\r\n\r\n" + data

    async def exchange(self, request: bytes) -> bytes:
        """Send request bytes and return the answer's body; raises `RuntimeError` on a refusal."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.session = fields.get("mcp-session-id", self.session)
        body = await self._body(fields)
        if not status.split(" ")[1].startswith("2"):
            raise RuntimeError(f"port {self.port}: {status}: {body[:300]!r}")
        return body

    async def _body(self, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding") != "chunked":
            return await self._reader.readexactly(int(fields.get("content-length", "0")))
        parts: list[bytes] = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readexactly(2)
        return b"".join(parts)
