"""Which hosts, pages and headers are answered at all."""

from __future__ import annotations

import pytest
from starlette.types import Message

from gateway.serve.security import HttpBorder, HttpSecurity, is_loopback
from tests.support.asgi import echo_app, http_scope, request

LOOPBACK = HttpSecurity.bound_to("127.0.0.1")
OPEN = HttpSecurity.bound_to("0.0.0.0", origins=["https://ui.example.com"])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("localhost.example.com", False),
        ("example.com", False),
    ],
)
def test_only_addresses_of_this_machine_alone_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LocalHost", "[::1]:8000"])
def test_on_loopback_its_own_names_are_answered_with_any_port(host: str) -> None:
    assert LOOPBACK.refusal(host, None) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "user@127.0.0.1",
        "127.0.0.1:port",
        "127.0.0.1/x",
        "127.0.0.1:8000:9",
        "[::1",
        "0.0.0.0",
    ],
)
def test_on_loopback_a_foreign_or_odd_host_is_refused(host: str | None) -> None:
    assert LOOPBACK.refusal(host, None) == "the Host header does not name this gateway"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:6274", "http://localhost", "https://[::1]:1"])
def test_on_loopback_pages_of_this_machine_are_answered(origin: str) -> None:
    assert LOOPBACK.refusal("127.0.0.1:8000", origin) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://127.0.0.1.evil.example",
        "http://localhost@evil.example",
        "file://",
        "chrome-extension://abc",
        "http://127.0.0.1/path",
        "http://127.0.0.1/",
        "http://127.0.0.1?q",
        "http://127.0.0.1#",
        "http://somebody@127.0.0.1",
        "http://127.0.0.1\t",
        "http://[::1",
    ],
)
def test_on_loopback_pages_of_other_origins_are_refused(origin: str) -> None:
    assert (
        LOOPBACK.refusal("127.0.0.1:8000", origin) == "requests from pages of another origin are not answered"
    )


def test_bound_to_all_addresses_any_host_is_answered_but_only_its_own_and_listed_pages() -> None:
    assert OPEN.refusal("gateway.example.com", None) is None
    assert OPEN.refusal("gateway.example.com", "https://gateway.example.com") is None
    assert OPEN.refusal("gateway.example.com", "https://UI.example.com") is None
    assert OPEN.refusal("gateway.example.com", "https://evil.example") is not None
    assert OPEN.refusal(None, None) is not None


async def test_a_refused_request_gets_403_in_readable_json_and_never_reaches_the_app() -> None:
    border = HttpBorder(echo_app, LOOPBACK)
    reply = await request(border, http_scope(headers={"host": "evil.example"}))
    assert (reply.status, reply.json()["error"]) == (403, "forbidden")


async def test_a_websocket_of_a_foreign_page_is_closed_before_it_opens() -> None:
    scope = http_scope(headers={"origin": "https://evil.example"}, type="websocket")
    reply = await request(HttpBorder(echo_app, LOOPBACK), scope)
    assert reply.messages == [{"type": "websocket.close", "code": 1008, "reason": ""}]


async def test_a_websocket_of_a_foreign_page_is_told_why_where_the_server_can_tell() -> None:
    can_tell: dict[str, dict[str, str]] = {"websocket.http.response": {}}
    scope = http_scope(headers={"origin": "https://evil.example"}, type="websocket", extensions=can_tell)
    reply = await request(HttpBorder(echo_app, LOOPBACK), scope)
    assert (reply.status, reply.messages[0]["type"]) == (403, "websocket.http.response.start")


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization", "Content-Type", "Mcp-Session-Id"])
async def test_a_header_that_decides_something_may_not_come_twice(name: str) -> None:
    pairs = [("host", "127.0.0.1"), (name, "127.0.0.1"), (name, "127.0.0.1")]
    reply = await request(HttpBorder(echo_app, LOOPBACK), http_scope(headers=pairs))
    assert (reply.status, name.lower() in reply.json()["message"]) == (400, True)


async def test_blanks_around_header_values_are_gone_behind_the_border() -> None:
    seen: list[Message] = []

    async def app(scope: Message, _receive: object, _send: object) -> None:
        seen.extend([scope])

    headers = {"host": " 127.0.0.1 \t", "mcp-protocol-version": "2025-11-25  "}
    await request(HttpBorder(app, LOOPBACK), http_scope(headers=headers))
    assert dict(seen[0]["headers"]) == {b"host": b"127.0.0.1", b"mcp-protocol-version": b"2025-11-25"}
