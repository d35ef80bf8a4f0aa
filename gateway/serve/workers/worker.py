"""One worker: a gateway that is given its connections. It ends when its supervisor does."""

from __future__ import annotations

import logging
import os
import socket

import anyio
from anyio.abc import TaskGroup

from gateway.core.json_types import JsonObject
from gateway.loop import current_loop
from gateway.runtime.gateway import Gateway
from gateway.serve.app import GatewayApp
from gateway.serve.direct import DirectFront
from gateway.serve.gate import GateLimits
from gateway.serve.identity import Identity
from gateway.serve.server import HttpServer, run_server, server_config
from gateway.serve.workers.channel import Channel
from gateway.serve.workers.moving import MovableHttpProtocol, MovableSocketProtocol
from gateway.serve.workers.routing import Routed

__all__ = ["serve_worker"]

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.02
"""How often the supervisor is told at most how many connections ended."""
_ENDING_SECONDS = 1.0
"""How long a worker without a supervisor may take to end in order."""


async def serve_worker(
    app: GatewayApp,
    gateway: Gateway,
    identity: Identity,
    *,
    own: int,
    supervisor: socket.socket,
    limits: GateLimits,
    trains: bool,
) -> None:
    """Serve the connections that come over `supervisor` until SIGTERM or SIGINT, then drain and return.

    `own` is this worker's number. Returns at once when the supervisor is gone.
    """
    routed = Routed(app, gateway, identity, own=own, limits=limits, trains=trains)
    server = HttpServer(server_config(routed, limits.max_body, MovableSocketProtocol))
    async with anyio.create_task_group() as tasks:
        worker = _Worker(server, routed, app.lane, tasks)
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
    """The side of a worker that faces the supervisor."""

    def __init__(
        self, server: HttpServer, routed: Routed, front: DirectFront | None, tasks: TaskGroup
    ) -> None:
        self.channel: Channel | None = None
        self._server = server
        self._routed = routed
        self._front = front
        self._tasks = tasks
        self._ended = 0
        self._reporting = False

    def received(self, message: JsonObject, data: bytes, fd: int | None) -> None:
        """Take a message of the supervisor."""
        assert message["do"] == "serve", "the supervisor says nothing else"
        assert fd is not None, "a connection comes as a descriptor"
        self._tasks.start_soon(self._adopt, fd, data, message.get("fixed") is True)

    def orphaned(self) -> None:
        """End: nobody brings connections any more."""
        logger.error("the supervisor is gone: ending")
        # What is still held dies with this process all the same.
        current_loop().call_later(_ENDING_SECONDS, os._exit, 1)
        self._tasks.cancel_scope.cancel()

    def close(self) -> None:
        """Take no more connections."""
        if self.channel is not None:
            self.channel.close()

    async def _adopt(self, fd: int, begun: bytes, fixed: bool) -> None:
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)
        try:
            await current_loop().connect_accepted_socket(lambda: self._protocol(begun, fixed), connection)
        except OSError:
            connection.close()
            self._connection_ended()

    def _protocol(self, begun: bytes, fixed: bool) -> MovableHttpProtocol:
        return MovableHttpProtocol(
            config=self._server.config,
            server_state=self._server.server_state,
            app_state=self._server.lifespan.state,
            front=self._front,
            begun=begun,
            fixed=fixed,
            pass_on=self._pass_on,
            where_to=self._routed.socket_holder,
            ended=self._connection_ended,
        )

    def _pass_on(self, worker: int, request: bytes, fd: int) -> None:
        assert self.channel is not None, "a connection came before the channel was open"
        self.channel.send({"do": "pass", "to": worker}, request, fd)

    def _connection_ended(self) -> None:
        self._ended += 1
        if not self._reporting:
            self._reporting = True
            current_loop().call_later(_REPORT_SECONDS, self._report)

    def _report(self) -> None:
        self._reporting = False
        if self.channel is not None:
            self.channel.send({"do": "ended", "connections": self._ended})
