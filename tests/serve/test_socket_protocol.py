"""The WebSocket protocol's short way: the same messages and ends as by the state machine, whatever comes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import uvicorn
from anyio.abc import SocketStream
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame, Opcode

from gateway.serve.socket_protocol import BoundedSocketProtocol

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Say what is heard, until the other side leaves."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message["text"] if "text" in message else f"binary {message['bytes']!r}"
        await send({"type": "websocket.send", "text": text})


class Peer:
    """A client that puts its own bytes on the wire."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._heard = b""

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            await self._stream.send(piece)
            await anyio.sleep(0.01)  # so that each arrives by itself

    async def _take(self, size: int) -> bytes:
        while len(self._heard) < size:
            self._heard += await self._stream.receive()
        taken, self._heard = self._heard[:size], self._heard[size:]
        return taken

    async def hear(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame."""
        with anyio.fail_after(10):
            first, length = await self._take(2)
            if length >= 126:
                kind = "!H" if length == 126 else "!Q"
                (length,) = struct.unpack(kind, await self._take(struct.calcsize(kind)))
            return first & 0x0F, await self._take(length)

    async def open(self) -> None:
        await self._stream.send(REQUEST)
        with anyio.fail_after(10):
            while b"\r\n\r\n" not in self._heard:
                self._heard += await self._stream.receive()
        self._heard = self._heard.partition(b"\r\n\r\n")[2]


@asynccontextmanager
async def echoing(most: int = 1_000_000) -> AsyncGenerator[Peer]:
    config = uvicorn.Config(echo, ws_max_size=most, ws_per_message_deflate=False, log_config=None)
    loop, state = asyncio.get_running_loop(), ServerState()
    config.load()
    server = await loop.create_server(lambda: BoundedSocketProtocol(config, state, {}), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        async with await anyio.connect_tcp(host, port) as stream:
            peer = Peer(stream)
            await peer.open()
            yield peer
    finally:
        server.close()
        while state.tasks:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)


def frame(data: str | bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return Frame(opcode, data, fin).serialize(mask=True)


B = frame("b")


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what goes through the state machine."""
    seen: list[bytes] = []
    plain = WebSocketsSansIOProtocol.data_received

    def data_received(self: WebSocketsSansIOProtocol, data: bytes) -> None:
        seen.append(data)
        plain(self, data)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "data_received", data_received)
    return seen


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 65_535, 65_536, 900_000])
async def test_a_message_of_any_length_comes_back_as_it_was(size: int) -> None:
    async with echoing() as peer:
        for text in ("ä" * (size // 2) + "x" * (size % 2), "after"):
            await peer.say(frame(text))
            assert await peer.hear() == (Opcode.TEXT, text.encode())


async def test_a_message_that_comes_whole_takes_the_short_way(long_way: list[bytes]) -> None:
    async with echoing() as peer:
        for text in ("one", "x" * 1000, "three"):
            await peer.say(frame(text))
            assert await peer.hear() == (Opcode.TEXT, text.encode())
        assert long_way == [REQUEST]
        ping = frame("ping", Opcode.PING)
        await peer.say(ping)
        assert await peer.hear() == (Opcode.PONG, b"ping")
        await peer.say(frame("after"))
        assert await peer.hear() == (Opcode.TEXT, b"after")
        assert long_way == [REQUEST, ping]


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 6, 7, 100])
async def test_a_message_in_two_pieces_is_one_wherever_it_is_cut(cut: int) -> None:
    text = "y" * 120
    async with echoing() as peer:
        for _ in range(2):
            whole = frame(text)
            await peer.say(whole[:cut], whole[cut:])
            assert await peer.hear() == (Opcode.TEXT, text.encode())
            await peer.say(frame("between"))
            assert await peer.hear() == (Opcode.TEXT, b"between")


async def test_what_looks_like_a_message_inside_of_another_is_not_one() -> None:
    """The head alone, and then a mask and a payload that together read as a message of their own."""
    inner = bytes((0x81, 0x85, 0, 0, 0, 0)) + b"inner"
    mask, payload = inner[:4], inner[4:]
    text = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    async with echoing() as peer:
        await peer.say(bytes((0x82, 0x80 | len(payload))), inner)
        assert await peer.hear() == (Opcode.TEXT, f"binary {text!r}".encode())


@pytest.mark.parametrize(
    "pieces",
    [
        [frame("a") + frame("b")],
        [frame("a") + B[:3], B[3:]],
        [frame("a", fin=False), frame("", Opcode.CONT), frame("b")],
        [frame("a", fin=False), frame("", Opcode.PONG), frame("", Opcode.CONT), frame("b")],
    ],
    ids=["together", "one and a half", "in fragments", "with a pong between"],
)
async def test_messages_keep_their_borders(pieces: Sequence[bytes]) -> None:
    async with echoing() as peer:
        await peer.say(*pieces)
        assert [await peer.hear() for _ in range(2)] == [(Opcode.TEXT, b"a"), (Opcode.TEXT, b"b")]


async def test_a_binary_message_is_one() -> None:
    async with echoing() as peer:
        await peer.say(frame(b"\x00\xff", Opcode.BINARY))
        assert await peer.hear() == (Opcode.TEXT, rb"binary b'\x00\xff'")


@pytest.mark.parametrize(
    ("piece", "code"),
    [
        (frame(b"\xff\xfe"), CloseCode.INVALID_DATA),
        (Frame(Opcode.TEXT, b"unmasked").serialize(mask=False), CloseCode.PROTOCOL_ERROR),
        (b"\xc1" + frame("a reserved bit")[1:], CloseCode.PROTOCOL_ERROR),
        (frame("x" * 60_000), CloseCode.MESSAGE_TOO_BIG),
        (frame("a", fin=False) + frame("b"), CloseCode.PROTOCOL_ERROR),
    ],
    ids=["not utf-8", "unmasked", "reserved", "too large", "within another"],
)
async def test_what_is_wrong_is_told_in_the_close(
    piece: bytes, code: CloseCode, caplog: pytest.LogCaptureFixture
) -> None:
    async with echoing(most=50_000) as peer:
        await peer.say(piece)
        opcode, payload = await peer.hear()
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (Opcode.CLOSE, code)
        assert payload[2:]
    assert [record.levelname for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_fragmented_message_is_not_cut_short_by_a_whole_one_in_it() -> None:
    async with echoing() as peer:
        await peer.say(frame("a", fin=False), frame("b"))
        opcode, payload = await peer.hear()
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (Opcode.CLOSE, CloseCode.PROTOCOL_ERROR)


async def test_messages_sent_ahead_wait_and_are_all_answered() -> None:
    async with echoing() as peer:
        await peer.say(b"".join(frame(str(number)) for number in range(50)))
        await peer.say(*(frame(str(number)) for number in range(50, 60)))
        assert [await peer.hear() for _ in range(60)] == [
            (Opcode.TEXT, str(number).encode()) for number in range(60)
        ]


async def test_who_sends_far_too_much_gets_to_read_why() -> None:
    """All of it is on its way before the peer listens: it must neither be reset nor wait for the end."""
    async with echoing(most=1000) as peer:
        head = struct.pack("!BBQ", 0x81, 0xFF, 100_000_000) + bytes(4)
        with anyio.fail_after(60):
            await peer.say(head, *[bytes(10_000_000)] * 10)
        opcode, payload = await peer.hear()
        assert (opcode, struct.unpack("!H", payload[:2])) == (Opcode.CLOSE, (CloseCode.MESSAGE_TOO_BIG,))
        with pytest.raises(anyio.EndOfStream):
            await peer.hear()
