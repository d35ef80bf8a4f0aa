"""Requests that are answered on their connection, byte by byte: as uvicorn's own road would have them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from gateway.runtime.gateway import Gateway
from gateway.serve import http_protocol
from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.mcp.quick import QuickCalls
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import MODERN, modern_meta

CLOSE = "Connection: close"
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def post(
    tool: str,
    *headers: str,
    version: str = "1.1",
    length: int | None = None,
    number: int = 7,
    **arguments: Any,
) -> bytes:
    """Return a whole request with the id `number` that calls a tool; `length` is what it says of its body."""
    params = {"name": tool, "arguments": arguments, "_meta": modern_meta()}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()
    sized = (
        () if any("chunked" in header for header in headers) else (f"Content-Length: {length or len(body)}",)
    )
    lines = [
        f"POST /mcp HTTP/{version}",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {MODERN}",
        "Mcp-Method: tools/call",
        f"Mcp-Name: {tool}",
        *headers,
        *sized,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def echo(text: str, *headers: str, **more: Any) -> bytes:
    """Return a whole call of `echo`."""
    return post("echo", *headers, text=text, **more)


@asynccontextmanager
async def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[str, str, Gateway, list[str]]]:
    """Serve one gateway with the lane and without; also yields the calls that the lane took."""
    taken: list[str] = []
    answer = QuickCalls.answer

    async def noted(self: QuickCalls, quick: Any, stream: Any) -> Any:
        taken.append(quick.name)
        return await answer(self, quick, stream)

    monkeypatch.setattr(QuickCalls, "answer", noted)
    async with open_echo_packs(tmp_path, "echo") as gateway:
        security = HttpSecurity.bound_to("127.0.0.1")
        fast, slow = (
            build_app(gateway, identity=LOCAL_IDENTITY, security=security, lane=lane)
            for lane in (True, False)
        )
        async with running(fast, gateway) as lane, running(slow, gateway) as road:
            await said(lane, [echo("first", CLOSE)])  # opens the session that both use
            taken.clear()
            yield lane, road, gateway, taken


async def connected(url: str) -> SocketStream:
    host, port = url.removeprefix("http://").split(":")
    return await anyio.connect_tcp(host, int(port))


async def said(url: str, segments: Sequence[bytes], *, pause: float = 0.02) -> bytes:
    """Send segments one by one, return everything that comes back until the server closes."""
    with anyio.fail_after(10):
        async with await connected(url) as stream:
            for segment in segments:
                await stream.send(segment)
                await anyio.sleep(pause)
            return await rest_of(stream)


async def rest_of(stream: SocketStream) -> bytes:
    answer = b""
    try:
        while True:
            answer += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return answer


def told(data: bytes) -> list[tuple[bytes, list[bytes], bytes]]:
    """Return the answers in what came back, status, headers and body, without what differs each time."""
    answers: list[tuple[bytes, list[bytes], bytes]] = []
    while data:
        head, data = data.split(b"\r\n\r\n", 1)
        status, *headers = head.split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in headers if line.startswith(b"content-length")), 0)
        body, data = re.sub(rb"call_[0-9a-f]+", b"", data[:length]), data[length:]
        answers.append((status, sorted(line for line in headers if not line.startswith(b"date")), body))
    return answers


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


TWO_HEADS = echo("x", CLOSE).index(b"\r\n\r\n")
TAKEN: dict[str, list[bytes]] = {
    "whole": [echo("x", CLOSE)],
    "head and body apart": pieces(echo("x", CLOSE), TWO_HEADS + 4),
    "piece by piece": pieces(echo("x", CLOSE), 23),
    "a long body in segments": pieces(echo("y" * 200_000, CLOSE), 50_000),
    "one after the other": [echo("a"), echo("b"), echo("c", CLOSE)],
    "an answer that is refused": [post("hidden", CLOSE, text="x")],
    "a trailing blank line": [echo("a") + b"\r\n", echo("b", CLOSE)],
    "something else behind it": [echo("a") + HEALTH],
    "another behind it": [echo("a") + echo("b") + echo("c", CLOSE)],
    "half of another behind it": [echo("a") + echo("b", CLOSE)[:100], echo("b", CLOSE)[100:]],
    "a long one behind it": [echo("a") + echo("z" * 150_000, CLOSE)],
    "keep-alive said": [echo("a", "Connection: keep-alive"), echo("b", CLOSE)],
}
LEFT: dict[str, list[bytes]] = {
    "HTTP/1.0": [echo("x", version="1.0")],
    "HTTP/1.0 kept alive": [echo("x", "Connection: keep-alive", version="1.0"), HEALTH],
    "a query": [echo("x", CLOSE).replace(b"/mcp ", b"/mcp?a=b ")],
    "an encoded path": [echo("x", CLOSE).replace(b"/mcp ", b"/%6Dcp ")],
    "another verb": [echo("x", CLOSE).replace(b"POST", b"PUT")],
    "a body that is none": [echo("x", CLOSE, length=5)],
    "more than was said": [echo("x", length=9) + echo("y")],
    "no length": [echo("x", CLOSE, "Transfer-Encoding: chunked")[: TWO_HEADS + 20] + b"\r\n\r\n0\r\n\r\n"],
    "a length that is no number": [echo("x", CLOSE, length=5).replace(b": 5\r\n", b": five\r\n")],
    "two lengths": [echo("x", CLOSE, "Content-Length: 3")],
    "a length and chunks": [echo("x", CLOSE).replace(CLOSE.encode(), b"Transfer-Encoding: chunked")],
}


@pytest.mark.parametrize("what", TAKEN)
async def test_however_it_arrives_it_is_answered_as_on_the_road(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = TAKEN[what]
    async with served(tmp_path, monkeypatch) as (lane, road, _, taken):
        answers = [told(await said(url, segments)) for url in (lane, road)]
    assert answers[0] == answers[1]
    tool = b"".join(segments).split(b"Mcp-Name: ")[1].split(b"\r\n")[0].decode()
    assert set(taken) == {tool}  # what comes before the answer to another waits, and goes the road


async def test_a_connection_is_kept_for_one_call_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as (lane, _, _, taken), await connected(lane) as stream:
        with anyio.fail_after(10):
            for text in (b"one", b"two", b"three"):
                await stream.send(echo(text.decode()))
                answer = b""
                while text not in answer:
                    answer += await stream.receive()
                assert answer.startswith(b"HTTP/1.1 200 OK")
                assert b"connection: close" not in answer
    assert taken == ["echo"] * 3


@pytest.mark.parametrize("what", LEFT)
async def test_what_is_not_held_goes_the_road_as_it_came(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as (lane, road, _, taken):
        answers = [told(await said(url, LEFT[what])) for url in (lane, road)]
    assert answers[0] == answers[1]
    assert answers[0]
    assert taken == []


async def test_a_sender_that_waits_to_be_told_to_go_on_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, body = echo("x", CLOSE, "Expect: 100-continue").split(b"\r\n\r\n", 1)
    async with served(tmp_path, monkeypatch) as (lane, _, _, _), await connected(lane) as stream:
        with anyio.fail_after(5):
            await stream.send(head + b"\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
            await stream.send(body)
            assert (await rest_of(stream)).startswith(b"HTTP/1.1 200 OK")


async def test_chunks_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, body = echo("x", CLOSE, "Transfer-Encoding: chunked").split(b"\r\n\r\n", 1)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces(body, 40))
    async with served(tmp_path, monkeypatch) as (lane, road, _, _):
        answers = [
            told(await said(url, [head + b"\r\n\r\n" + chunks + b"0\r\n\r\n"])) for url in (lane, road)
        ]
    assert answers[0] == answers[1]
    assert answers[0][0][0] == b"HTTP/1.1 200 OK"


async def test_a_body_that_takes_long_is_waited_for_on_the_road(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HELD_SECONDS", 0.1)
    whole = echo("x" * 1000, CLOSE)
    async with served(tmp_path, monkeypatch) as (lane, _, _, taken):
        answer = await said(lane, [whole[:-600], whole[-600:-300], whole[-300:]], pause=0.2)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"x" * 1000 in answer
        assert taken == []
        assert (await said(lane, [echo("y", CLOSE)])).startswith(b"HTTP/1.1 200 OK")
    assert taken == ["echo"]


async def test_a_sender_that_leaves_before_its_body_is_whole_called_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as (lane, _, gateway, taken):
        calls = gateway.tally.calls.copy()
        for cut in (-1, -40, TWO_HEADS + 4, 60):
            async with await connected(lane) as stream:
                await stream.send(echo("x")[:cut])
                await anyio.sleep(0.02)
        assert (await said(lane, [HEALTH])).startswith(b"HTTP/1.1 200 OK")
        assert gateway.tally.calls == calls
    assert taken == []


async def test_a_sender_that_reads_late_gets_all_its_answers_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as (lane, _, _, _), await connected(lane) as stream:
        with anyio.fail_after(20):
            for number in range(40):
                await stream.send(post("big", number=number, bytes=100_000))
            await stream.send(post("big", CLOSE, number=40, bytes=1))
            await anyio.sleep(0.5)
            answer = await rest_of(stream)
    assert re.findall(rb'"id":(\d+)', answer) == [b"%d" % number for number in range(41)]
    assert len(answer) > 4_000_000


async def test_garbage_behind_a_call_ends_the_connection_and_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as (lane, _, gateway, taken):
        begun = anyio.current_time()
        answer = await said(lane, [post("sleep", seconds=4), b"\x00\x01 garbage\r\n\r\n"])
        assert answer.startswith(b"HTTP/1.1 400")
        with anyio.fail_after(3):
            while gateway.in_flight:  # noqa: ASYNC110  nothing announces it
                await anyio.sleep(0.01)
        assert anyio.current_time() - begun < 3
    assert taken == ["sleep"]


async def test_a_request_behind_one_that_waits_is_answered_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as (lane, _, _, taken):
        answer = await said(lane, [post("sleep", seconds=0.5), HEALTH])
    assert answer.index(b"slept") < answer.index(b"healthy")
    assert taken == ["sleep"]
