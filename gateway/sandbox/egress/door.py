"""One sandbox's way out: a proxy on a unix socket that only that sandbox sees.

It takes `CONNECT host:port`, asks the gate, and passes bytes. Every attempt is recorded, also one that is
no proper request; attempts are paced, so that a hostile server cannot flood the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketListener, SocketStream, TaskGroup, TaskStatus

from gateway.core.egress import MAX_HEAD, EgressCode, Verdict, read_connect, refuse
from gateway.core.policy.egress import HostRule
from gateway.sandbox.contract import SandboxSpec

from .account import Account, Spent, Traffic
from .gate import EgressGate, EgressRefused, Recorder, record
from .inside import with_door

__all__ = ["Door"]

logger = logging.getLogger(__name__)

HUNG_UP = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
BACKLOG = 16
HEAD_SECONDS = 15.0
CHUNK = 65_536
STATUS = {
    EgressCode.BAD_REQUEST: "400 Bad Request",
    EgressCode.BAD_HOST: "400 Bad Request",
    EgressCode.UNRESOLVED: "502 Bad Gateway",
    EgressCode.UNREACHABLE: "502 Bad Gateway",
    EgressCode.TOO_MANY: "429 Too Many Requests",
    EgressCode.BUDGET_SPENT: "429 Too Many Requests",
    EgressCode.AUDIT_UNAVAILABLE: "503 Service Unavailable",
}
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Door:
    """The proxy of one sandbox. `serve` runs it; `aclose` ends it and its connections."""

    def __init__(
        self, gate: EgressGate, rules: Sequence[HostRule], recorder: Recorder, account: Account
    ) -> None:
        self._gate, self._rules, self._recorder, self._account = gate, tuple(rules), recorder, account
        self._place: Path | None = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    def fit(self, spec: SandboxSpec) -> SandboxSpec:
        """Return `spec` with this door in it, once `serve` has started."""
        assert self._place is not None
        return with_door(spec, self._place)

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Take connections until `aclose`."""
        place = self._place = self._gate.new_place()
        try:
            # Every user may connect, and only who sees the socket can: its folder is closed to all others.
            listener = await anyio.create_unix_listener(place, mode=0o666, backlog=BACKLOG)
            async with listener, anyio.create_task_group() as clients:
                task_status.started()
                with self._scope:
                    await self._accept(listener, clients)
                clients.cancel_scope.cancel()
        finally:
            place.unlink(missing_ok=True)
            self._ended.set()

    async def aclose(self) -> None:
        """End every connection and remove the socket. Idempotent."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def _accept(self, listener: SocketListener, clients: TaskGroup) -> None:
        """Take no more at once than a session may have, so that a hostile server takes no descriptors."""
        places = anyio.Semaphore(self._gate.settings.connections)

        async def answer(client: SocketStream) -> None:
            async with client:
                try:
                    await self._answer(client)
                except HUNG_UP:
                    return
                except Exception:
                    # One connection's fault is not the gateway's: it ends, and the operator is told.
                    logger.exception("a connection through the door of %s failed", self._place)
                finally:
                    places.release()

        while True:
            await places.acquire()
            clients.start_soon(answer, await listener.accept())

    async def _answer(self, client: SocketStream) -> None:
        try:
            await self._account.pace()
            await self._serve(client)
        except EgressRefused as refused:
            await _tell(client, refused.verdict)

    async def _serve(self, client: SocketStream) -> None:
        asked, rest = await self._head(client)
        if isinstance(asked, Verdict):
            await self._refuse(asked)
            return
        most = self._gate.settings.connections
        async with self._account.place(f"{asked[0]}:{asked[1]}", most, self._recorder):
            verdict = await self._gate.admit(*asked, self._rules, self._recorder)
            await self._connected(client, verdict, rest)

    async def _refuse(self, verdict: Verdict) -> None:
        await record(self._recorder, verdict)
        raise EgressRefused(verdict)

    async def _head(self, client: SocketStream) -> tuple[tuple[str, int] | Verdict, bytes]:
        """Read a request; what follows its empty line belongs to the connection."""
        kept = b""
        with anyio.move_on_after(HEAD_SECONDS):
            while b"\r\n\r\n" not in kept:
                if len(kept) > MAX_HEAD or (kept and not kept[:1].isalpha()):
                    break
                try:
                    kept += await client.receive(CHUNK)
                except anyio.EndOfStream:
                    break
        head, mark, rest = kept.partition(b"\r\n\r\n")
        if not kept:
            raise anyio.EndOfStream
        if not mark or len(head) > MAX_HEAD:
            asked = kept[:MAX_HEAD].partition(b"\r\n")[0].decode("ascii", "replace")
            return refuse(EgressCode.BAD_REQUEST, "this is a proxy: send CONNECT host:port", asked), b""
        return read_connect(head + mark), rest

    async def _connected(self, client: SocketStream, verdict: Verdict, rest: bytes) -> None:
        async with (
            self._account.noted(verdict, self._recorder) as traffic,
            await self._gate.connect(verdict) as server,
        ):
            await client.send(ESTABLISHED)
            await self._relay(client, server, rest, traffic)

    async def _relay(self, client: SocketStream, server: SocketStream, rest: bytes, traffic: Traffic) -> None:
        """Pass bytes both ways until both ended, the budget is spent or the time is up."""
        settings = self._gate.settings
        end = anyio.current_time() + settings.longest

        def moved(size: int, up: bool) -> None:
            traffic.sent += size if up else 0
            traffic.received += 0 if up else size
            self._account.spend(size)
            watch.deadline = min(end, anyio.current_time() + settings.idle)

        async def pump(source: SocketStream, target: SocketStream, up: bool) -> None:
            try:
                if up and rest:
                    moved(len(rest), up)
                    await target.send(rest)
                async for data in source:
                    moved(len(data), up)
                    await target.send(data)
                await target.send_eof()
            except Spent:
                traffic.kind = "budget_spent"
                watch.cancel()
            except (*HUNG_UP, OSError):  # an end that cannot be passed on, since the other is gone
                watch.cancel()

        with anyio.CancelScope(deadline=anyio.current_time() + settings.idle) as watch:
            async with anyio.create_task_group() as both:
                both.start_soon(pump, client, server, True)
                both.start_soon(pump, server, client, False)
        if traffic.kind == "cut":
            late = watch.cancelled_caught and anyio.current_time() >= watch.deadline
            traffic.kind = "timed_out" if late else "closed"


async def _tell(client: ByteStream, verdict: Verdict) -> None:
    """Answer a refusal so that whoever reads the client's error learns why."""
    body = f"sandgate: {verdict.reason} ({verdict.code})\n".encode()
    head = (
        f"HTTP/1.1 {STATUS.get(verdict.code, '403 Forbidden')}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    await client.send(head.encode() + body)
