"""Requests in awkward shapes, with the worker that has their session and with one they have to leave."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.gateways import copy_pack
from tests.support.processes import Served, serving

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
BODY = json.dumps({**CALL, "params": {"name": "echo", "arguments": {"text": "moved " * 400}}}).encode()
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "0"},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("moving")
    pack = str(copy_pack("echo", folder).folder)
    with serving(pack, "--workers", "2", "--state", str(folder / "state")) as running:
        yield running


@contextmanager
def wires(served: Served) -> Generator[list[socket.socket]]:
    """Give two connections, one with each worker."""
    port = int(served.url.rpartition(":")[2])
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(2)]


def answer(wire: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer with a length; returns its status, headers and body."""
    stream = wire.makefile("rb")
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    return status, headers, stream.read(int(headers.get("content-length", "0")))


def head(session: str | None, *more: str, verb: str = "POST") -> bytes:
    lines = [f"{verb} /mcp HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += ["accept: application/json, text/event-stream", "mcp-protocol-version: 2025-11-25", *more]
    lines += [] if session is None else [f"mcp-session-id: {session}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def opened(wire: socket.socket) -> str:
    """Open a session with the worker of a connection."""
    body = json.dumps({**CALL, "method": "initialize", "params": INITIALIZE}).encode()
    wire.sendall(head(None, f"content-length: {len(body)}") + body)
    status, headers, _ = answer(wire)
    assert status == 200
    session = headers["mcp-session-id"]
    note = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    wire.sendall(head(session, f"content-length: {len(note)}") + note)
    assert answer(wire)[0] == 202
    return session


def length() -> str:
    return f"content-length: {len(BODY)}"


def chunks() -> bytes:
    parts = [BODY[:100], BODY[100:1000], BODY[1000:], b""]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def test_a_body_that_comes_later_is_read_by_whoever_answers(served: Served) -> None:
    with wires(served) as both:
        session = opened(both[0])
        for wire in both:
            whole = head(session, length()) + BODY
            for cut in (len(whole) - len(BODY), len(whole) - len(BODY) // 2, 40, len(whole)):
                wire.sendall(whole[:cut])
                if cut < len(whole):
                    _settle(served)
                    wire.sendall(whole[cut:])
                status, _, body = answer(wire)
                assert (status, b"moved moved" in body) == (200, True)


def test_chunks_move_as_one_body(served: Served) -> None:
    with wires(served) as both:
        session = opened(both[0])
        for wire in both:
            data = chunks()
            wire.sendall(head(session, "transfer-encoding: chunked") + data[:150])
            _settle(served)
            wire.sendall(data[150:])
            status, headers, body = answer(wire)
            # Chunks that are not whole yet cannot move: then the caller is told to come again.
            assert (status, b"moved moved" in body) == (200, True) or headers["retry-after"] == "1"
            if status == 200:
                wire.sendall(head(session, "transfer-encoding: chunked") + data)
                assert answer(wire)[0] == 200


def test_who_waits_to_be_told_to_go_on_is_told(served: Served) -> None:
    with wires(served) as both:
        session = opened(both[0])
        for wire in both:
            wire.sendall(head(session, length(), "expect: 100-continue"))
            assert answer(wire)[0] == 100
            wire.sendall(BODY)
            assert answer(wire)[0] == 200


def test_requests_behind_each_other_are_answered_or_sent_away(served: Served) -> None:
    with wires(served) as both:
        session = opened(both[0])
        numbered = [BODY.replace(b'"id": 7', b'"id": %d' % number) for number in range(1, 7)]
        whole = [head(session, length()) + body for body in numbered]
        for wire, pair in zip(reversed(both), (whole[:2], whole[2:4]), strict=True):
            wire.sendall(b"".join(pair))
            status, headers, _ = answer(wire)
            if status == 503:
                assert (headers["connection"], headers["retry-after"]) == ("close", "1")
            else:
                assert status == 200
    with wires(served) as both:
        for wire, alone in zip(both, whole[4:], strict=True):
            wire.sendall(alone)
            assert answer(wire)[0] == 200


def test_a_stream_is_listened_to_at_its_sessions_worker(served: Served) -> None:
    with wires(served) as both:
        session = opened(both[0])
        for wire in both:
            with wires(served) as streams:
                streams[0].sendall(head(session, verb="GET"))
                status, headers, _ = answer(streams[0])
                assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
                wire.sendall(head(session, length()) + BODY)  # goes on beside it
                assert answer(wire)[0] == 200
            _settle(served)
        both[1].sendall(head(session, verb="DELETE"))
        assert answer(both[1])[0] == 200


def test_what_no_worker_takes_is_refused_as_by_one_process(served: Served) -> None:
    with wires(served) as both:
        session = opened(both[0])
        for wire, broken, status in (
            (both[0], b"{" * 50, 400),
            (both[1], b"{" * 50, 400),
            (both[1], b'{"a":1,"a":2}', 400),
        ):
            wire.sendall(head(session, f"content-length: {len(broken)}") + broken)
            assert answer(wire)[0] == status
    with wires(served) as both:
        for wire in both:
            wire.sendall(head(session, "content-length: 9000000"))
            assert answer(wire)[0] == 413


def _settle(served: Served) -> None:
    """Let what was sent be read: a whole exchange on another connection takes longer."""
    with wires(served) as both:
        for wire in both:
            wire.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert answer(wire)[0] == 200
