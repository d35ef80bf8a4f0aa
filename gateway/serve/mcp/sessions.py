"""Which gateway session a request belongs to, in both eras, and who may use it.

With sessions (legacy): the id the SDK minted names the caller's sessions, one per pack, opened at
first use and closed with the connection. Without (modern): the `Sandgate-Session` header names one
in the principal's own namespace. An id is never a credential: only the principal that opened it may
use it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import anyio
from mcp.server.connection import Connection
from starlette.types import Scope

from gateway.core.calls import Principal
from gateway.core.json_types import JsonObject, JsonValue
from gateway.errors import ClientError, ShuttingDown, UnknownSession
from gateway.loop import Promise
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session
from gateway.serve.endings import OpenRequests
from gateway.serve.identity import principal_of
from gateway.serve.mcp.envelope import is_modern
from gateway.serve.mcp.requests import RequestContext, client_of

__all__ = [
    "Binding",
    "Bindings",
    "Sessions",
    "connection_of",
    "named",
    "scope_of",
    "session_name",
    "sessions_of",
]

_SESSION_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NAME = "sandgate.session_name"
_STATE = "sandgate.sessions"
_MINTING = "sandgate.minting"
_UNHEARD = 0.25
"""Of the idle time: so long the SDK may hear nothing of a session that is in use."""
_ENDING_SECONDS = 0.5
"""How long a request may take to be over once it is answered."""


def connection_of(ctx: RequestContext) -> Connection:
    """Return the SDK's state of the caller's connection: where things end with it."""
    # The SDK offers `Connection.exit_stack` to middleware, but no public way to the connection.
    return ctx.session._connection  # pyright: ignore[reportPrivateUsage]


def scope_of(ctx: RequestContext) -> Scope | None:
    """Return the ASGI scope of an HTTP request, `None` on stdio."""
    return None if ctx.request is None else ctx.request.scope


def session_name(header: str | None) -> str | None:
    """Return the name that a caller gave its session; raises `ClientError` for what is no name."""
    if header is not None and not _SESSION_NAME.fullmatch(header):
        raise ClientError("Sandgate-Session is 1 to 128 of A-Z a-z 0-9 _ -")
    return header


def named(scope: Scope, name: str | None) -> Scope:
    """Return the scope with the name that the caller gave its session."""
    return {**scope, _NAME: name}


@dataclass(slots=True)
class _Opened:
    """The gateway sessions of one legacy connection, by pack."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    sessions: dict[str, Session] = field(default_factory=dict[str, Session])


def _nothing(connection: Connection, session: Session) -> None:
    return None


def sessions_of(connection: Connection) -> list[Session]:
    """Return the gateway sessions that a legacy connection has opened."""
    opened: _Opened | None = connection.state.get(_STATE)
    return [] if opened is None else list(opened.sessions.values())


class Sessions:
    """Finds or opens the session of a request. `principal` is who speaks on stdio.

    `opened` is told of each session of a connection.
    """

    def __init__(self, gateway: Gateway, principal: Principal | None = None) -> None:
        self.opened: Callable[[Connection, Session], None] = _nothing
        self._gateway = gateway
        self._stdio_principal = principal

    async def of(self, ctx: RequestContext, pack: str) -> Session:
        """Return the caller's session with `pack`.

        Raises `UnknownSession` where it ended, `TooManySessions`, `ShuttingDown`, `SandboxError`.
        """
        principal, name = self._caller(ctx)
        if is_modern(ctx.protocol_version):
            session = await self._gateway.named_session(pack, principal, name, client_of(ctx))
            if session.principal != principal:
                # Another token of that name, with other groups or roles: it would be judged by those.
                raise UnknownSession(name or "default")
            return session
        return await self._of_connection(ctx, pack, principal)

    def _caller(self, ctx: RequestContext) -> tuple[Principal, str | None]:
        scope = scope_of(ctx)
        if scope is not None:
            return principal_of(scope), scope.get(_NAME)
        assert self._stdio_principal is not None, "a request without an HTTP scope outside stdio"
        return self._stdio_principal, None

    async def _of_connection(self, ctx: RequestContext, pack: str, principal: Principal) -> Session:
        connection = connection_of(ctx)
        opened: _Opened = connection.state.setdefault(_STATE, _Opened())
        async with opened.lock:
            session = opened.sessions.get(pack)
            if session is not None:
                # Raises if it was idle for too long: its files are gone, and the caller has to be told.
                return self._gateway.session(pack, session.id, principal)
            session = await self._gateway.open_session(
                pack, principal, session_id=connection.session_id, client=client_of(ctx)
            )
            opened.sessions[pack] = session
            self.opened(connection, session)
            connection.exit_stack.push_async_callback(self._gateway.close_session, session)
            return session


@dataclass(slots=True)
class _Minting:
    """The place of an id that is being minted, until a binding has it."""

    place: int | None


@dataclass(slots=True, eq=False)
class Binding:
    """A minted session id: whose it is, what it is busy with.

    `closed` is set once all of it ended, `listening` while its client listens to what the server asks.
    `asked`: its client said that it can be asked something; `questions` are those that it has not answered,
    of calls of which the SDK knows nothing. The SDK ends a session that it does not hear
    of; `fresh` says whether it has lately.
    """

    principal: Principal
    connection: Connection
    place: int
    asked: bool = True
    fresh_for: float = 0.0
    heard: float = 0.0
    in_flight: dict[str, Callable[[], object] | None] = field(
        default_factory=dict[str, "Callable[[], object] | None"]
    )
    freed: dict[str, anyio.Event] = field(default_factory=dict[str, anyio.Event])
    questions: dict[str, Promise[JsonObject]] = field(default_factory=dict[str, "Promise[JsonObject]"])
    put: int = 0
    streams: OpenRequests = field(default_factory=OpenRequests)
    closed: anyio.Event = field(default_factory=anyio.Event)
    listening: anyio.Event = field(default_factory=anyio.Event)

    def fresh(self, now: float) -> bool:
        """Whether the SDK has heard of the session so lately that it can do without this request."""
        return now - self.heard < self.fresh_for

    def begin(self, request_id: str, withdraw: Callable[[], object] | None = None) -> None:
        """Hold a request id until it is answered; raises `ClientError` if it is in use.

        `withdraw` ends a request of which the SDK knows nothing.
        """
        if request_id in self.in_flight:
            # The SDK would give one of the two the other's answer.
            raise ClientError(f"request id {request_id[:64]!r} is already waiting for its answer")
        self.in_flight[request_id] = withdraw

    def finish(self, request_id: str) -> None:
        """Let an id be used again."""
        del self.in_flight[request_id]
        if (freed := self.freed.pop(request_id, None)) is not None:
            freed.set()

    @asynccontextmanager
    async def answering(self, request_id: str | None) -> AsyncGenerator[None]:
        """Hold the id of a request that the SDK answers, if it has one: see `begin`."""
        if request_id is None:
            yield
            return
        if request_id in self.in_flight:
            # Its client may have the answer already and the request not be over here.
            with anyio.move_on_after(_ENDING_SECONDS):
                await self.freed.setdefault(request_id, anyio.Event()).wait()
        self.begin(request_id)
        try:
            yield
        finally:
            self.finish(request_id)

    @contextmanager
    def question(self) -> Generator[tuple[str, Promise[JsonObject]]]:
        """Give a question an id, and what becomes of it: the client's answer, a result or an error."""
        self.put += 1
        question_id, answer = f"sandgate-{self.put}", Promise[JsonObject]()
        self.questions[question_id] = answer
        try:
            yield question_id, answer
        finally:
            del self.questions[question_id]

    def answered(self, message: JsonValue) -> bool:
        """Take a client's answer to one of the `questions`; false if it is none."""
        if not isinstance(message, dict) or "method" in message:
            return False
        question_id = message.get("id")
        question = self.questions.get(question_id) if isinstance(question_id, str) else None
        if question is None:
            return False
        question.keep(message)
        return True

    def withdraw(self, request_id: str) -> None:
        """End a request that its client cancelled, where it is not the SDK that answers it."""
        withdraw = self.in_flight.get(request_id)
        if withdraw is not None:
            withdraw()


class Bindings:
    """The minted session ids of one endpoint, each bound to the principal that opened it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._bound: dict[str, Binding] = {}
        self._places = gateway.places.minted

    @contextmanager
    def opening(self, scope: Scope, principal: Principal) -> Generator[None]:
        """Hold a place while a request mints an id; raises `TooManySessions` or `ShuttingDown`."""
        if self._gateway.draining:
            raise ShuttingDown
        place = self._places.take(principal.name, self._gateway.settings.max_sessions_per_principal)
        minting = scope[_MINTING] = _Minting(place)
        try:
            yield
        finally:
            if minting.place is not None:
                self._places.free(minting.place)

    def bind(self, connection: Connection, scope: Scope, *, asked: bool) -> None:
        """Remember whose connection this is, until it closes."""
        session_id = connection.session_id
        minting: _Minting | None = scope.get(_MINTING)
        if session_id is not None and minting is not None and minting.place is not None:
            place, minting.place = minting.place, None
            self._places.name(place, session_id)
            idle = self._gateway.settings.session_idle
            principal, fresh_for = principal_of(scope), idle * _UNHEARD
            binding = self._bound[session_id] = Binding(principal, connection, place, asked, fresh_for)
            # Pushed first, so it is called last: after the sessions of this connection are closed.
            connection.exit_stack.callback(binding.closed.set)
            connection.exit_stack.callback(self.end, session_id)

    def end(self, session_id: str) -> None:
        """Forget an id and end its streams; it is unknown from now on. Idempotent."""
        if binding := self._bound.pop(session_id, None):
            self._places.free(binding.place)
            binding.streams.end()

    def known(self, session_id: str) -> Binding | None:
        """Return the binding of an id whose caller was admitted already."""
        return self._bound.get(session_id)

    def of(self, session_id: str, principal: Principal) -> Binding:
        """Return the caller's own binding; raises `UnknownSession`, also where it is somebody else's."""
        binding = self._bound.get(session_id)
        # The whole principal counts: another token of one name may have fewer groups or roles.
        if binding is None or binding.principal != principal:
            raise UnknownSession(session_id)
        return binding
