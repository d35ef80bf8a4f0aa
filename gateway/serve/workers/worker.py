"""One worker: a gateway that is given its connections. It ends when its supervisor does."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup
from starlette.types import ASGIApp

from gateway.core.json_types import JsonObject
from gateway.loop import current_loop
from gateway.runtime.gateway import Gateway
from gateway.serve.app import GatewayApp
from gateway.serve.gate import GateLimits
from gateway.serve.identity import Identity
from gateway.serve.server import HttpServer, run_server, server_config
from gateway.serve.workers.asking import Colleagues
from gateway.serve.workers.channel import Channel
from gateway.serve.workers.moving import MovableHttpProtocol, MovableSocketProtocol
from gateway.serve.workers.routing import Routed
from gateway.serve.workers.together import Together

__all__ = ["serve_worker"]

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.02
"""How often the supervisor is told at most how many connections ended."""


async def serve_worker(
    app: GatewayApp,
    gateway: Gateway,
    identity: Identity,
    *,
    own: int,
    workers: int,
    supervisor: socket.socket,
    limits: GateLimits,
    trains: bool,
) -> None:
    """Serve the connections that come over `supervisor` until SIGTERM or SIGINT, then drain and return.

    `own` is this worker's number, of `workers`; `trains` says whether there are episodes. The process ends at
    once when the supervisor is gone.
    """
    async with anyio.create_task_group() as tasks:
        worker = _Worker(app, own, workers, tasks)
        together = Together(app, gateway, worker.colleagues, limits)
        routed = Routed(together, gateway, identity, own=own, limits=limits, trains=trains)
        server = HttpServer(server_config(routed, limits.max_body, MovableSocketProtocol))
        worker.protocol = lambda begun, fixed: MovableHttpProtocol(
            config=server.config,
            server_state=server.server_state,
            app_state=server.lifespan.state,
            front=app.lane,
            begun=begun,
            fixed=fixed,
            pass_on=worker.pass_on,
            where_to=routed.socket_holder,
            ended=worker.connection_ended,
        )
        tasks.start_soon(routed.names.sweep)

        def ready() -> None:
            worker.channel = Channel(supervisor, worker.received, worker.orphaned)
            worker.channel.send({"do": "ready"})

        try:
            await run_server(server, app, gateway, on_ready=ready, listeners=[])
        finally:
            worker.close()
        tasks.cancel_scope.cancel()


class _Worker:
    """The side of a worker that faces the supervisor. `protocol` makes what serves a connection."""

    protocol: Callable[[bytes, bool], MovableHttpProtocol]

    def __init__(self, app: ASGIApp, own: int, workers: int, tasks: TaskGroup) -> None:
        self.channel: Channel | None = None
        self.colleagues = Colleagues(own, workers, self._say)
        self._app = app
        self._tasks = tasks
        self._ended = 0
        self._reporting = False

    def received(self, message: JsonObject, data: bytes, fd: int | None) -> None:
        """Take a message of the supervisor."""
        match message["do"]:
            case "serve" if fd is not None:
                self._tasks.start_soon(self._adopt, fd, data, message.get("fixed") is True)
            case "ask":
                self._tasks.start_soon(self.colleagues.answer, self._app, message, data)
            case "reply":
                self.colleagues.told(message, data)
            case _:
                raise AssertionError(f"the supervisor says {message!r}")

    def orphaned(self) -> None:
        """End at once, as killed: the supervisor was, and what this process holds ends with it as well."""
        logger.error("the supervisor is gone: ending")
        os._exit(1)

    def close(self) -> None:
        """Take no more connections."""
        if self.channel is not None:
            self.channel.close()

    async def _adopt(self, fd: int, begun: bytes, fixed: bool) -> None:
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)
        try:
            await current_loop().connect_accepted_socket(lambda: self.protocol(begun, fixed), connection)
        except Exception:
            # The border of the connection: a fault in taking it is for the log, and ends nothing else.
            logger.exception("a connection could not be taken")
            connection.close()
            self.connection_ended()

    def pass_on(self, worker: int, request: bytes, fd: int) -> None:
        """Send a connection to another worker."""
        self._say({"do": "pass", "to": worker}, request, fd)

    def connection_ended(self) -> None:
        """Take note that a connection is over here."""
        self._ended += 1
        if not self._reporting:
            self._reporting = True
            current_loop().call_later(_REPORT_SECONDS, self._report)

    def _report(self) -> None:
        self._reporting = False
        self._say({"do": "ended", "connections": self._ended})

    def _say(self, message: JsonObject, data: bytes = b"", fd: int | None = None) -> None:
        assert self.channel is not None, "a connection or a question came before the channel was open"
        self.channel.send(message, data, fd)
