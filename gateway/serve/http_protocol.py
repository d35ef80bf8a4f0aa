"""uvicorn's HTTP protocol with bounds that it lacks, and a way past the application for who may take it.

The parser underneath collects headers and trailers without end and waits for them forever. Bodies are
bounded by `gate`. It also ends a request at its head where that offers another protocol, so that its body
would be read as the next request: here the offer is passed over and the body read. A POST that the front
admits is held until it is whole, as a `DirectRequest`; what the front does not take goes to the
application just as it came. Who reads nothing of an answer is cut off.
"""

from __future__ import annotations

import logging
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.serve.direct import DirectFront, DirectRequest
from gateway.serve.stalls import Stalls

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "HELD_SECONDS", "BoundedHttpProtocol"]

logger = logging.getLogger(__name__)

HEAD_BYTES = 65_536
"""Most bytes of a request line and its headers, and of what follows a body in chunks."""
HEAD_SECONDS = 15.0
"""Seconds within which a head has to be complete, from the connection's or its own first byte on."""
HELD_SECONDS = 5.0
"""Seconds that a request is held for its body; the patience of `gate` begins after."""
_OF_UPGRADES = frozenset({b"upgrade", b"http2-settings"})


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to a head that is too large, closes on one that is too slow. `front` may take requests."""

    def __init__(self, *args: Any, front: DirectFront | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._front = front if self.limit_concurrency is None else None
        self._in_head = True
        self._head_bytes = 0
        self._segment_bytes = 0
        self._idle_bytes = 0
        self._bodiless = False
        self._passing_over = False
        self._too_large = False
        self._deadline: Any = None
        self._held: DirectRequest | None = None
        self._body: list[bytes] = []
        self._direct: DirectRequest | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._stalls = Stalls(self.loop, transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell who answers a request."""
        self._stop_waiting()
        self._stalls.stop()
        self._held = None
        self._body.clear()
        super().connection_lost(exc)
        # uvicorn tells only the last request of a pipeline, which is not the one that is answered.
        if self._direct is not None:
            self._direct.set()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def pause_writing(self) -> None:
        """Let who answers wait, and watch that the client takes something meanwhile."""
        super().pause_writing()
        self._stalls.paused()

    def resume_writing(self) -> None:
        """Let who answers go on."""
        self._stalls.resumed()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing more is asked; what it did not take yet has its time."""
        super().timeout_keep_alive_handler()
        self._stalls.watch()

    def data_received(self, data: bytes) -> None:
        """Read on; what is not whole by then, a head or a held body, is waited for, but not forever."""
        self._segment_bytes = len(data)
        self._bodiless = True
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._in_head:
            # Counted here, because the parser itself keeps an unfinished head without a bound.
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._refuse_size()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        elif self._bodiless:
            # As much of a request in progress that is no body: trailers, which it keeps as well.
            self._idle_bytes += len(data)
            if self._idle_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._refuse_size()
        elif self._held is not None and self._deadline is None:
            self._deadline = self.loop.call_later(HELD_SECONDS, self._let_go)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._pass_over(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            logger.warning("a request was refused that is not proper HTTP")
            self.send_400_response("Invalid HTTP request received.")

    def _pass_over(self, rest: bytes) -> None:
        """Read a request on as what it is without its offer to go on in another protocol."""
        parser: Any = self.parser
        head = [b"%s %s HTTP/%s\r\n" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() not in _OF_UPGRADES)
            if name not in _OF_UPGRADES and value:
                head.append(b"%s: %s\r\n" % (name, value))
        self._passing_over = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._parse(b"".join([*head, b"\r\n"]) + rest)

    def on_message_begin(self) -> None:
        """Begin a head; uvicorn's part of it waits until it is clear that the application gets it."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. What comes after a body is none: nobody looks at trailers."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End a head; one that is too large, or names another server, ends the connection."""
        if self._offers_another_protocol():
            self._passing_over = True
            return
        self._in_head = False
        self._idle_bytes = 0
        self._stop_waiting()
        if self._head_bytes + self._segment_bytes > HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            self._too_large = size > HEAD_BYTES
        self._head_bytes = 0
        if self._too_large or not self.url.startswith(b"/"):
            raise ValueError("unacceptable head")  # the parser turns it into `send_400_response`
        self._held = self._admitted()
        if self._held is None:
            self.begin_cycle()
        else:
            self.cycle: Any = self._held

    def on_body(self, body: bytes) -> None:
        """Hold a part of a body, or pass it on."""
        self._bodiless, self._idle_bytes = False, 0
        if self._held is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Have a held request taken now that it is whole, or pass on that it is."""
        if self._passing_over:
            return
        self._bodiless, self._idle_bytes = False, 0
        held = self._held
        if held is not None:
            self._stop_waiting()
            if held.take(held, b"".join(self._body)):
                self._held, self._direct = None, held
                self._body.clear()
                return
            self._let_go()
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _offers_another_protocol(self) -> bool:
        parser: Any = self.parser
        return parser.should_upgrade() and self.url.startswith(b"/") and not self._should_upgrade()

    def _admitted(self) -> DirectRequest | None:
        """Return a request that the front may take: only one that nobody before it is still answered."""
        if self._front is None or not (self.cycle is None or self.cycle.response_complete):
            return None
        parser: Any = self.parser
        if parser.get_method() != b"POST" or parser.should_upgrade() or self.expect_100_continue:
            return None
        take = self._front.admit(self.url, self.headers)
        if take is None or parser.get_http_version() != "1.1":
            return None
        return DirectRequest(self, take, keep_alive=parser.should_keep_alive())

    def _let_go(self) -> None:
        """Pass a held request on to the application, as far as it has come."""
        held, self._held, self._deadline = self._held, None, None
        assert held is not None
        self.cycle = None
        self.begin_cycle()
        self.cycle.keep_alive = held.keep_alive  # which the server's end may have taken back
        if self._body:
            super().on_body(b"".join(self._body))
            self._body.clear()

    def begin_cycle(self) -> None:
        """Let the application have the request, as uvicorn would at the end of its head."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the scope has this list
        super().on_headers_complete()
        if not self.pipeline:
            self._answering = self.cycle

    def on_response_complete(self) -> None:
        """Go on with the next request of a pipeline."""
        self._answering = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self.transport.is_closing():
            self._stalls.watch()

    def send_400_response(self, msg: str) -> None:
        """Answer a bad head and close the connection."""
        if not self._too_large:
            super().send_400_response(msg)
            return
        body = b"Request header fields too large\n"
        head = STATUS_LINE[431] + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()

    def _refuse_size(self) -> None:
        self._too_large = True
        self.send_400_response("Request header fields too large")

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
