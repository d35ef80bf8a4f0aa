"""Runs the app on a socket: ready when calls would be answered, ordered and bounded when it ends.

A signal turns new calls away (503), waits for those in flight, ends open streams, closes. A second
signal stops the waiting.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import cast

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from gateway.errors import UsageError
from gateway.runtime.gateway import Gateway
from gateway.serve import socket_protocol
from gateway.serve.app import GatewayApp
from gateway.serve.direct import DirectFront
from gateway.serve.http_protocol import BoundedHttpProtocol
from gateway.serve.signals import ending_signals, until_signal
from gateway.serve.socket_protocol import BoundedSocketProtocol

__all__ = ["HttpServer", "bind", "run_server", "serve_http", "server_config", "url_of"]

_KEEP_ALIVE = 75
_SETTLING_SECONDS = 1.0
"""How long answers that the drain brought may take to get out."""
_CLOSING_SECONDS = 3
"""How long connections may take to close once nothing is answered any more."""


async def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; `port` 0 takes a free one. Raises `UsageError` that names the next step."""
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"host {host!r} is not known here: use --host 127.0.0.1 or an own address") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening here already, so that a second gateway fails now and not half-started.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(_binding_problem(host, port, error)) from None
    listener.setblocking(False)
    return listener


def _binding_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: choose another with --port, or --port 0 for a free one"
    if error.errno == errno.EACCES:
        return f"port {port} needs more privileges: choose one above 1023 with --port"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_http(
    app: GatewayApp,
    gateway: Gateway,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None],
    listener: socket.socket | None = None,
    max_frame: int = 4_000_000,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; cancelled, close at once.

    `on_ready` gets the URL once requests are answered. `listener` is a socket of `bind` (else one
    is bound here, with `UsageError` as there); it is closed at the end. `max_frame` bounds a
    WebSocket message, in bytes.
    """
    listener = listener or await bind(host, port)
    url = url_of(listener)
    with listener:
        await run_server(
            HttpServer(server_config(app, max_frame, front=app.lane)),
            app,
            gateway,
            on_ready=lambda: on_ready(url),
            listeners=[listener],
        )


async def run_server(
    server: HttpServer,
    app: GatewayApp,
    gateway: Gateway,
    *,
    on_ready: Callable[[], None],
    listeners: list[socket.socket],
) -> None:
    """Run `server`, whose requests `app` answers, until a signal; then drain and return."""
    async with app.router.lifespan_context(app), anyio.create_task_group() as tasks:
        await tasks.start(_run, server, listeners)
        try:
            with ending_signals() as signals:
                on_ready()
                await anext(signals)
                await until_signal(signals, gateway.drain)
            gateway.end_announcements()
            await app.settle(_SETTLING_SECONDS)
        finally:
            app.end_requests()
            server.should_exit = True


async def _run(server: HttpServer, listeners: list[socket.socket], *, task_status: TaskStatus[None]) -> None:
    # Shielded: uvicorn closes its sockets only on its own way out, which `should_exit` opens.
    with anyio.CancelScope(shield=True):
        server.on_started = task_status.started
        await server.serve(listeners)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers (it would end the process by the signal), telling when it is up."""

    on_started: Callable[[], None]

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to `serve_http`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening and say so."""
        await super().startup(sockets)
        self.on_started()


def server_config(
    app: ASGIApp,
    max_frame: int,
    sockets: type[BoundedSocketProtocol] = BoundedSocketProtocol,
    *,
    front: DirectFront | None = None,
) -> uvicorn.Config:
    """Return how `app` is served, behind `front`; `max_frame` bounds a WebSocket message, in bytes."""
    return uvicorn.Config(
        app,
        http=cast("type[BoundedHttpProtocol]", partial(BoundedHttpProtocol, front=front)),
        ws=sockets,
        ws_max_size=max_frame,
        ws_ping_interval=socket_protocol.PING_SECONDS,
        ws_ping_timeout=socket_protocol.PONG_SECONDS,
        ws_per_message_deflate=False,  # a small compressed frame may unfold into a huge one
        lifespan="off",  # entered by serve_http, so that a failure is an exception
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody's word on where a request came from is taken
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
    )
