"""MCP over HTTP by hand: raw requests of either era, so that a test sees what is on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2

__all__ = ["LEGACY", "MODERN", "RawMcp", "modern_meta", "texts"]

LEGACY = "2025-11-25"
MODERN = "2026-07-28"


def modern_meta(**more: Any) -> dict[str, Any]:
    """Return the envelope that each modern request carries in `_meta`."""
    return {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
        **more,
    }


def texts(answer: httpx2.Response) -> str:
    """Return the joined text of a tool result."""
    return "".join(block.get("text", "") for block in answer.json()["result"]["content"])


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


@dataclass(slots=True)
class RawMcp:
    """One client at one endpoint. `session_id` is set by `initialize`."""

    http: httpx2.AsyncClient
    url: str
    token: str | None = None
    session_id: str | None = None
    ids: count[int] = field(default_factory=lambda: count(1))
    capabilities: dict[str, Any] = field(default_factory=dict[str, Any])

    async def post(self, body: bytes, headers: Mapping[str, str | bytes]) -> httpx2.Response:
        """Send these very bytes."""
        own = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if self.token:
            own["authorization"] = f"Bearer {self.token}"
        raw = [(name.encode(), _bytes(value)) for name, value in {**own, **headers}.items()]
        return await self.http.post(self.url, content=body, headers=raw)

    async def initialize(self) -> httpx2.Response:
        """Open a legacy session."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "test", "version": "0"},
        }
        answer = await self.post(self._request("initialize", params), {})
        self.session_id = answer.headers.get("mcp-session-id")
        if self.session_id:
            note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            await self.post(json.dumps(note).encode(), self.legacy_headers())
        return answer

    async def legacy(self, method: str, params: Any = None) -> httpx2.Response:
        """Send one request of the legacy session."""
        return await self.post(self._request(method, params), self.legacy_headers())

    async def modern(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> httpx2.Response:
        """Send one self-contained modern request; its envelope is added to `_meta`."""
        params = dict(params or {})
        params["_meta"] = modern_meta(**params.get("_meta", {}))
        return await self.post(
            self._request(method, params), {**self.modern_headers(method, params), **(headers or {})}
        )

    async def send(self, era: str, method: str, params: dict[str, Any] | None = None) -> httpx2.Response:
        """Send one request in an era, opening a session first where there is none and the era has them."""
        if era == MODERN:
            return await self.modern(method, params)
        if self.session_id is None:
            await self.initialize()
        return await self.legacy(method, params)

    async def call(self, era: str, tool: str, **arguments: Any) -> httpx2.Response:
        """Call a tool."""
        return await self.send(era, "tools/call", {"name": tool, "arguments": arguments})

    def legacy_headers(self) -> dict[str, str]:
        """Return the headers of a request in the session."""
        return {"mcp-protocol-version": LEGACY, "mcp-session-id": self.session_id or "none"}

    def modern_headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """Return the headers that mirror a modern body."""
        name = params.get("name", params.get("uri"))
        named = {"mcp-name": str(name)} if name is not None else {}
        return {"mcp-protocol-version": MODERN, "mcp-method": method, **named}

    def _request(self, method: str, params: Any) -> bytes:
        body = {"jsonrpc": "2.0", "id": next(self.ids), "method": method}
        return json.dumps(body if params is None else {**body, "params": params}).encode()
