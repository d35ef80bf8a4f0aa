"""Speaks MCP to one tool server over its sandbox's pipes. Owns nothing but the conversation.

JSON-RPC by hand, because the bytes of a hostile server must neither kill the reader nor reach a
caller unchecked: every line passes the strict gate, is capped, and is matched to a call that
still waits for it. Wrong, double and late answers are counted and dropped. A call is sent once.
What the server says and asks meanwhile is passed on by `conversing`, if the call has a client for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup, TaskStatus

from gateway.core.calls import FailureKind, ServerError
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError, dumps, loads
from gateway.loop import current_loop
from gateway.runtime.conversing import (
    answer_inputs,
    answer_to,
    check_inputs,
    converse,
    inputs_of,
    needs_input,
    park,
)
from gateway.runtime.deadline import Deadline
from gateway.runtime.exchange import MOST_OPEN, MOST_QUESTIONS, Ask, Exchange, Note, UpstreamFailure
from gateway.runtime.framing import Frame, LineFramer, TooLong, answered_id
from gateway.runtime.hearing import Hearing
from gateway.runtime.listings import Listing, every_page
from gateway.runtime.opening import (
    LEGACY_VERSION,
    Offers,
    changes_of,
    discover,
    envelope,
    initialize,
    stream_of,
    without_stream,
)
from gateway.runtime.parking import Parked, Parking
from gateway.runtime.peer import NOBODY, ClientFacts, ClientPeer, Standing, lacking
from gateway.sandbox.contract import Sandbox

__all__ = ["PROTOCOL_VERSION", "Announced", "Upstream", "UpstreamFailure", "UpstreamSettings"]

PROTOCOL_VERSION = LEGACY_VERSION
_USUAL_READ, _LARGE_READ = 2**16, 2**18
"""Bytes taken of a server's output in one go."""
_MOST_ROUNDS = 8
_PATIENCE = 3
"""Of a client's time for one question: what all the questions of a call may take together."""
_MOST_FOLLOWED = 256
_MOST_STANDING = 16
_INVALID_REQUEST, _METHOD_NOT_FOUND, _INVALID_PARAMS = -32600, -32601, -32602
_CHANGES = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)

logger = logging.getLogger(__name__)

Announced = Callable[[str, JsonObject], None]
"""Is told at once what a server says that belongs to no call: a notification's method and parameters."""


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Deadlines in seconds, sizes in bytes. `client_timeout` is for one question to the client."""

    startup_timeout: float = 20.0
    call_timeout: float = 30.0
    max_result: int = 10_000_000
    client_timeout: float = 300.0

    def deadline(self, seconds: float | None = None) -> Deadline:
        """Return that of a request which begins now: by default a call's."""
        return Deadline(seconds or self.call_timeout, _PATIENCE * self.client_timeout)


def _nothing(method: str, params: JsonObject) -> None:
    return None


def _nobody() -> None:
    return None


class Upstream:
    """A conversation with one tool server. `start` it in a task group; `kill` ends server and reader.

    `stale` is true after the server announced that its tools changed, until `list_tools` is called.
    `client` is what the server is told of who it works for; `offers`, once started, what it said of
    itself.
    """

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        settings: UpstreamSettings,
        client: ClientFacts = NOBODY,
        announced: Announced = _nothing,
        standing: Callable[[], Standing | None] = _nobody,
    ) -> None:
        self.name = name
        self.sandbox = sandbox
        self.client = client
        self.offers = Offers(client.era, "")
        self.announced = announced
        self._standing = standing
        self._standing_asks = 0
        self._tasks: TaskGroup | None = None
        self.stale = False
        self.ended: UpstreamFailure | None = None
        self._hearing = Hearing(settings.max_result)
        self._settings = settings
        self._framer = LineFramer(settings.max_result)
        self._limits = JsonLimits(max_bytes=settings.max_result)
        self._waiting: dict[int, Exchange] = {}
        self._parking = Parking(settings.client_timeout, self._let_go)
        self._followed: dict[str, int] = {}
        self._next_id = 1
        self._writing = anyio.Lock()
        self._reading = anyio.CancelScope()

    async def start(self, tasks: TaskGroup) -> None:
        """Start the reader in `tasks` and open the conversation; raises `UpstreamFailure` (start_failed).

        `WrongEra`, where the server's process may know the other era only.
        """
        self._tasks = tasks
        await tasks.start(self._read)
        try:
            self.offers = await self._open()
        except UpstreamFailure as failure:
            message = f"server {self.name!r} did not start: {failure.message}"
            raise type(failure)(FailureKind.START_FAILED, message) from failure

    async def list_tools(self) -> list[JsonObject]:
        """Return the server's tool definitions as it sent them, over all pages; raises `UpstreamFailure`."""
        self.stale = False  # before asking: a change announced meanwhile counts
        try:
            return await self.list_all(Listing.TOOLS)
        except BaseException:
            self.stale = True
            raise

    async def list_all(self, what: Listing) -> list[JsonObject]:
        """Return what the server lists of a kind, as it sent it, over all pages; raises `UpstreamFailure`."""

        deadline = Deadline(self._settings.startup_timeout)

        async def page(params: JsonObject) -> JsonObject:
            return await self._request(what.method, params, None, deadline)

        return await every_page(self.name, what, page)

    async def request(self, method: str, params: JsonObject, peer: ClientPeer | None = None) -> JsonObject:
        """Send a request once and return its result object; raises `UpstreamFailure`.

        `peer` is the client that the server may ask and tell meanwhile.
        """
        deadline = self._settings.deadline()
        if self.offers.era == "legacy" and params.get("requestState") is not None:
            return await self._resume(method, params, peer, deadline)
        if self.offers.era == "modern" and method in ("resources/subscribe", "resources/unsubscribe"):
            return await self._follow(str(params.get("uri")), method == "resources/subscribe", deadline)
        return await self._request(method, params, peer, deadline)

    async def set_level(self, level: str) -> None:
        """Say which log messages are wanted, where the server logs; one that will not listen logs on."""
        if self.offers.era == "legacy" and self.offers.has("logging"):
            try:
                await self.request("logging/setLevel", {"level": level})
            except UpstreamFailure as failure:
                logger.warning("server %r does not take a log level: %s", self.name, failure)

    async def tell(self, method: str, params: JsonObject) -> None:
        """Pass on what the client says that is no request; bounded, for the server may not read."""
        with anyio.move_on_after(5):
            await self._send({"jsonrpc": "2.0", "method": method, "params": params})

    async def kill(self) -> None:
        """End the server; everything that waits fails with `cancelled`. Idempotent."""
        self._end(UpstreamFailure(FailureKind.CANCELLED, f"server {self.name!r} was stopped"))
        await self.sandbox.kill()

    # -- requests

    async def _request(
        self, method: str, params: JsonObject, peer: ClientPeer | None, deadline: Deadline
    ) -> JsonObject:
        """Send a request; what a server asks by its result is asked of a client that does not defer."""
        result = await self._exchange(method, params, peer, deadline)
        rounds = questions = 0
        while self.offers.era == "modern" and needs_input(result):
            check_inputs(result, {} if peer is None else peer.capabilities)
            if peer is not None and peer.defers:
                break
            open_now = len(inputs_of(result))
            rounds, questions = rounds + 1, questions + open_now
            if peer is None:
                raise self._broke("asks for input that this caller cannot give")
            if rounds > _MOST_ROUNDS or open_now > MOST_OPEN or questions > MOST_QUESTIONS:
                raise self._broke("asks for more than a client is asked in one call")
            more = await answer_inputs(peer, result, deadline, self._settings.client_timeout)
            result = await self._exchange(method, {**params, **more}, peer, deadline)
        return result

    def _broke(self, said: str) -> UpstreamFailure:
        return UpstreamFailure(FailureKind.PROTOCOL, f"server {self.name!r} {said}")

    async def _open(self) -> Offers:
        async def ask(method: str, params: JsonObject) -> JsonObject:
            return await self._exchange(method, params, None, Deadline(self._settings.startup_timeout))

        if self.client.era == "modern":
            offers = await discover(ask)
            if changes := changes_of(offers):
                await self._send(self._listen(changes))
            return offers
        offers = await initialize(ask, self.client)
        await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return offers

    def _listen(self, notifications: JsonObject) -> JsonObject:
        """Return a request whose answer is a stream of notifications; nobody waits for its end."""
        request_id, self._next_id = self._next_id, self._next_id + 1
        params = envelope({"notifications": notifications}, None)
        return {"jsonrpc": "2.0", "id": request_id, "method": "subscriptions/listen", "params": params}

    async def _follow(self, uri: str, wanted: bool, deadline: Deadline) -> JsonObject:
        """Begin or end to follow one resource, where servers have no requests for that: by its stream."""
        if not wanted:
            request_id = self._followed.pop(uri, None)
            if request_id is not None:
                await self._give_up(request_id, "nobody follows it any more")
        elif uri not in self._followed and len(self._followed) < _MOST_FOLLOWED:
            message = self._listen({"resourceSubscriptions": [uri]})
            request_id = message["id"]
            assert isinstance(request_id, int)
            exchange = self._waiting[request_id] = Exchange(request_id)
            await self._finish(exchange, "subscriptions/listen", deadline, message)
            self._followed[uri] = request_id
        return {}

    async def _exchange(
        self, method: str, params: JsonObject, peer: ClientPeer | None, deadline: Deadline
    ) -> JsonObject:
        if self.ended is not None:
            raise self.ended
        request_id, self._next_id = self._next_id, self._next_id + 1
        exchange = self._waiting[request_id] = Exchange(request_id, peer)
        if self.offers.era == "modern":
            params = envelope(params, peer)
        if peer is not None and peer.progress_token is not None:
            meta = params.get("_meta")
            own = {**(meta if isinstance(meta, dict) else {}), "progressToken": request_id}
            params = {**params, "_meta": own}
        message: JsonObject = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        return await self._finish(exchange, method, deadline, message)

    async def _finish(
        self, exchange: Exchange, method: str, deadline: Deadline, *messages: JsonObject
    ) -> JsonObject:
        """Send what begins or resumes an exchange; wait for its result, or for what it asks of a client."""
        parked: Parked | None = None
        try:
            if len(messages) == 1 and self._sent_at_once(messages[0]):
                messages = ()
                await self._answered(exchange, deadline)
            if messages or exchange.said:
                parked = await self._attended(exchange, deadline, messages)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._give_up(exchange.request_id, "the caller left")
            raise
        finally:
            if parked is None or exchange.settled:
                self._waiting.pop(exchange.request_id, None)
        if exchange.failure is not None:
            raise exchange.failure
        if exchange.message is not None:
            return self._result(exchange.message)
        if parked is not None:
            return await self._park(parked)
        await self._give_up(exchange.request_id, "deadline passed")
        raise UpstreamFailure(
            FailureKind.TIMEOUT, f"server {self.name!r} did not answer {method} within {deadline}"
        )

    async def _answered(self, exchange: Exchange, deadline: Deadline) -> None:
        """Wait for the end of an exchange, or for what is said before.

        Most calls end here, so this costs a timer and no more.
        """
        timer = current_loop().call_at(deadline.at, exchange.expire)
        try:
            await exchange.wait()
        finally:
            timer.cancel()

    async def _attended(
        self, exchange: Exchange, deadline: Deadline, messages: Sequence[JsonObject]
    ) -> Parked | None:
        """Send, then wait for the end and pass on what is said until then."""
        parked: Parked | None = None
        with deadline.enforced():
            for message in messages:
                await self._send(message)
            while parked is None and (exchange.said or not exchange.settled):
                await exchange.wait()
                if exchange.said:
                    parked = await self._pass_on(exchange, deadline)
        return parked

    def _sent_at_once(self, message: JsonObject) -> bool:
        """Send a message, if that needs no waiting."""
        if self.ended is not None or self._writing.locked():
            return False
        try:
            return self.sandbox.send_now(dumps(message) + b"\n")
        except anyio.BrokenResourceError:
            self._end(self._deaf())
            return True

    async def _pass_on(self, exchange: Exchange, deadline: Deadline) -> Parked | None:
        """Pass on what was said; return the questions that have to wait for another call."""
        await converse(exchange, self._send, deadline, self._settings.client_timeout)
        if exchange.settled:
            exchange.said.clear()  # a question whose call is over
            return None
        return await park(exchange, self._send) if exchange.said else None

    async def _park(self, parked: Parked) -> JsonObject:
        """Hold a suspended request for the call that brings the answers."""
        assert self._tasks is not None, "a request is suspended after the start"
        await self._parking.keep(parked, self._tasks)
        return parked.result()

    async def _let_go(self, exchange: Exchange, reason: str) -> None:
        self._waiting.pop(exchange.request_id, None)
        await self._give_up(exchange.request_id, reason)

    async def _resume(
        self, method: str, params: JsonObject, peer: ClientPeer | None, deadline: Deadline
    ) -> JsonObject:
        """Go on with a suspended request: bring the answers that these parameters carry."""
        parked = self._parking.find(params.get("requestState"))
        if parked is None or self.ended is not None:
            error = ServerError(_INVALID_PARAMS, "requestState is unknown or over: make the call anew")
            raise UpstreamFailure(FailureKind.SERVER_ERROR, error.message, error)
        answers = parked.answers(params)
        if answers is None:
            return parked.result()
        self._parking.take(parked)
        parked.exchange.peer = peer
        return await self._finish(parked.exchange, method, deadline, *answers)

    async def _give_up(self, request_id: int, reason: str) -> None:
        """Tell the server that nobody waits any more; bounded, for it may not read either."""
        params: JsonObject = {"requestId": request_id, "reason": reason}
        with anyio.move_on_after(0.5):
            await self._send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def _result(self, message: JsonObject) -> JsonObject:
        error = message.get("error")
        if isinstance(error, dict):
            raise UpstreamFailure(FailureKind.SERVER_ERROR, *_server_error(error))
        result = message.get("result")
        if not isinstance(result, dict):
            raise UpstreamFailure(
                FailureKind.PROTOCOL, f"server {self.name!r} answered without a result object"
            )
        return result

    async def _send(self, message: JsonObject) -> None:
        if self.ended is not None:
            return
        data = dumps(message) + b"\n"
        async with self._writing:
            try:
                await self.sandbox.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the reader sees the end too, and says how the server ended
            except anyio.get_cancelled_exc_class():
                # A frame may have gone out in part: nothing after it could be understood.
                self._end(self._deaf())
                raise

    def _deaf(self) -> UpstreamFailure:
        return UpstreamFailure(FailureKind.CRASHED, f"server {self.name!r} stopped reading its input")

    # -- answers

    async def _read(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            with self._reading:
                most = _USUAL_READ
                while self.ended is None:
                    data = await self.sandbox.receive(most)
                    if len(data) == most:
                        most = _LARGE_READ  # one who sends much at once does so again
                    self._hearing.begin()
                    for frame in self._framer.feed(data):
                        await self._take(frame)
                        if self._hearing.over():
                            await self._hearing.rest()
                    if complaint := self._hearing.complaint(self._framer.dropped):
                        self._end(UpstreamFailure(complaint[0], f"server {self.name!r} {complaint[1]}"))
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._died()
        except Exception:
            # A server's bytes must never end the gateway: a fault of ours ends this conversation only.
            logger.exception("reading from server %r failed", self.name)
            self._end(UpstreamFailure(FailureKind.PROTOCOL, f"server {self.name!r} could not be understood"))
        finally:
            self._end(UpstreamFailure(FailureKind.CANCELLED, f"server {self.name!r} was stopped"))
            with anyio.CancelScope(shield=True):
                await self.sandbox.kill()

    async def _died(self) -> None:
        """Name how it ended; a server that only closed its output is given a moment, then killed."""
        reason = "it closed its output"
        with anyio.move_on_after(0.5):
            reason = (await self.sandbox.wait()).reason
        tail = self.sandbox.stderr_tail().strip()
        logger.warning(
            "server %r ended: %s%s", self.name, reason, f"; stderr: {tail[-2000:]}" if tail else ""
        )
        self._end(UpstreamFailure(FailureKind.CRASHED, f"server {self.name!r} ended: {reason}"))

    def _end(self, failure: UpstreamFailure) -> None:
        if self.ended is None:
            self.ended = failure
            self._reading.cancel()
            self._parking.clear()
        for waiting in self._waiting.values():
            if not waiting.settled:
                waiting.fail(self.ended)

    async def _take(self, frame: Frame) -> None:
        if isinstance(frame, TooLong):
            said = f"sent {frame.length} bytes, over the limit of {self._settings.max_result}"
            self._refuse(answered_id(frame.head, frame.tail), FailureKind.TOO_LARGE, said)
            return
        if b"{" not in frame:
            self._hearing.noise()
            return
        try:
            message = loads(frame, self._limits)
        except StrictJsonError as error:
            kind = FailureKind.TOO_LARGE if error.code == "too_large" else FailureKind.PROTOCOL
            self._refuse(answered_id(frame, frame), kind, f"sent unacceptable JSON: {error}")
            return
        if not isinstance(message, dict):
            self._hearing.noise()
        elif "method" in message:
            await self._said(message)
        else:
            self._arrived(message)

    def _arrived(self, message: JsonObject) -> None:
        request_id = message.get("id")
        waiting = self._waiting.get(request_id) if type(request_id) is int else None
        if waiting is None or waiting.settled:
            self._hearing.noise()
            return
        self._hearing.answer()
        waiting.answer(message)

    def _refuse(self, request_id: int | None, kind: FailureKind, said: str) -> None:
        """Fail the one call that a refused frame answered, where it names one; else it was noise."""
        self._hearing.noise()
        waiting = self._waiting.get(request_id) if request_id is not None else None
        if waiting is not None and not waiting.settled:
            waiting.fail(UpstreamFailure(kind, f"server {self.name!r} {said}"))

    # -- what the server says of its own accord

    async def _said(self, message: JsonObject) -> None:
        method, params, request_id = message.get("method"), message.get("params"), message.get("id")
        params = params if isinstance(params, dict) else {}
        if not isinstance(method, str):
            self._hearing.noise()
        elif isinstance(request_id, int | str) and not isinstance(request_id, bool):
            await self._asked(request_id, method, params)
        else:
            self._told(method, params)

    async def _asked(self, request_id: int | str, method: str, params: JsonObject) -> None:
        """Put a question to the client of the call in flight; nobody to ask, and it is refused."""
        if method == "ping":
            answer: JsonObject = {"jsonrpc": "2.0", "id": request_id, "result": {}}
        else:
            error = self._refusal(Ask(request_id, method, params))
            if error is None:
                return
            answer = {"jsonrpc": "2.0", "id": request_id, "error": error}
        with anyio.move_on_after(5):
            await self._send(answer)

    def _refusal(self, ask: Ask) -> JsonObject | None:
        """Begin to ask, or return the error that the server gets instead."""
        exchange = self._latest()
        if self.offers.era == "legacy":  # a modern server asks by its results
            if exchange is not None and not exchange.say(ask):
                # What is too much for the client of a call is not asked elsewhere instead.
                return {"code": _INVALID_REQUEST, "message": "more than a client is asked in one call"}
            if exchange is not None or self._ask_standing(ask):
                return None
        return {"code": _METHOD_NOT_FOUND, "message": "not offered by this client"}

    def _ask_standing(self, ask: Ask) -> bool:
        """Put a question that belongs to no call to the session's client; `False` if there is no way."""
        standing = self._standing()
        if standing is None or self._tasks is None:
            return False
        if lacking(self.client.capabilities, ask.method, ask.params) != {}:
            return False
        if self._standing_asks >= _MOST_STANDING:
            return False
        self._standing_asks += 1
        self._tasks.start_soon(self._put_standing, standing, ask)
        return True

    async def _put_standing(self, standing: Standing, ask: Ask) -> None:
        try:
            with anyio.move_on_after(self._settings.client_timeout):
                await self._send(await answer_to(standing, ask))
        finally:
            self._standing_asks -= 1

    def _told(self, method: str, params: JsonObject) -> None:
        if method == "notifications/tools/list_changed":
            self.stale = True
        if method == "notifications/cancelled":
            self._withdrawn(params.get("requestId"))
        elif method == "notifications/progress":
            self._progressed(params)
        elif method in _CHANGES:
            self.announced(method, without_stream(params))
        elif method == "notifications/subscriptions/acknowledged":
            self._acknowledged(stream_of(params))
        else:
            exchange = self._latest()
            if exchange is None or not exchange.say(Note(method, params)):
                self.announced(method, params)

    def _latest(self) -> Exchange | None:
        """Return the call that a server most likely speaks of: the last begun that has a client.

        A server over pipes does not say which call it speaks of; all of them are of one session.
        """
        for exchange in reversed(self._waiting.values()):
            if exchange.peer is not None and not exchange.settled:
                return exchange
        return None

    def _progressed(self, params: JsonObject) -> None:
        token = params.get("progressToken")
        exchange = self._waiting.get(token) if type(token) is int else None
        if exchange is None or exchange.peer is None:
            self._hearing.noise()
            return
        own = {**params, "progressToken": exchange.peer.progress_token}
        exchange.say(Note("notifications/progress", own))

    def _acknowledged(self, request_id: JsonValue) -> None:
        """A stream of notifications is open: that is all its request waited for."""
        exchange = self._waiting.get(request_id) if type(request_id) is int else None
        if exchange is not None and not exchange.settled:
            exchange.answer({"result": {}})

    def _withdrawn(self, request_id: JsonValue) -> None:
        if not any(exchange.withdraw(request_id) for exchange in self._waiting.values()):
            self._hearing.noise()


def _server_error(error: JsonObject) -> tuple[str, ServerError]:
    code, message = error.get("code"), error.get("message")
    number = code if isinstance(code, int) and not isinstance(code, bool) else -32603
    text = message if isinstance(message, str) else "unspecified error"
    return f"{text} ({number})", ServerError(number, text, error.get("data"))
