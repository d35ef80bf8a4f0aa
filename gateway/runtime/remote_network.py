"""The only way from an HTTP client to the network: the gate judges, records and opens each connection."""

# ruff: noqa: ASYNC109, S610 - the names are those of the interface that the HTTP client gives

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import httpcore2
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from gateway.sandbox.egress import EgressRefused

__all__ = ["Connect", "Network"]

Connect = Callable[[str, int], Awaitable[ByteStream]]
"""Opens a checked connection to a host and port; raises `EgressRefused`."""


BROKE = "the connection broke"


class Network(httpcore2.AsyncNetworkBackend):
    """Connects where `connect` lets it, and nowhere else."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Return a connection; raises `httpcore2.ConnectError`."""
        try:
            return _Stream(await self._connect(host, port))
        except EgressRefused as refused:
            raise httpcore2.ConnectError(str(refused)) from refused

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse: servers are at hosts."""
        raise httpcore2.ConnectError("a tool server is at a host, not at a socket")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection as the HTTP client wants it. Deadlines are the callers'."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise httpcore2.ReadError(str(error) or BROKE) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._stream.send(buffer)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise httpcore2.WriteError(str(error) or BROKE) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            wrapped = await TLSStream.wrap(
                self._stream,
                server_side=False,
                hostname=server_hostname,
                ssl_context=ssl_context,
                standard_compatible=False,
            )
        except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            await self._stream.aclose()
            raise httpcore2.ConnectError(f"no secure connection: {error}") from error
        return _Stream(wrapped)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._stream.extra(TLSAttribute.ssl_object, None)
        if info == "socket":
            return self._stream.extra(SocketAttribute.raw_socket, None)
        return None
