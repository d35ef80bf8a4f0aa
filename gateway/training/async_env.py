"""`AsyncEnv`: an environment for code that awaits. One connection, one episode at a time.

A connection on which an answer is still due is out of step and never used again, whatever the
reason: a deadline, a cancellation, a fault.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.core.json_types import JsonObject, JsonValue
from gateway.training.codec import (
    CLOSE_FRAME,
    LIST_TOOLS,
    Exchange,
    call_action,
    reset_exchange,
    state_exchange,
    step_exchange,
    submit_action,
    tools_in,
)
from gateway.training.errors import (
    CapacityReached,
    ConnectionLost,
    EpisodeUnavailable,
    InvalidRequest,
    ProtocolBroken,
    ServerFailed,
)
from gateway.training.results import Action, EpisodeStatus, ResetResult, StepResult, Tool
from gateway.training.transport import CLOSE_SECONDS, CONNECTION_FAULTS, Address, fault_of

__all__ = ["AsyncEnv"]

_Answer = TypeVar("_Answer")


class AsyncEnv:
    """A served pack as an environment, on asyncio.

    `url` is what `sandgate serve --mode training` prints; `pack` is needed where several are served;
    `timeout` is in seconds, for one answer. Calls at the same time queue. Every method raises `EnvError`.
    """

    def __init__(
        self, url: str, pack: str | None = None, *, token: str | None = None, timeout: float = 120.0
    ) -> None:
        self._address = Address.of(url, pack, token, timeout)
        self._connection: ClientConnection | None = None
        self._turn = anyio.Lock()

    async def __aenter__(self) -> Self:
        """Return itself; the first reset connects."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the episode."""
        await self.aclose()

    async def reset(
        self,
        *,
        task: str | None = None,
        split: str | None = None,
        index: int | None = None,
        seed: int | None = None,
        episode_id: str | None = None,
    ) -> ResetResult:
        """Start another episode in a pristine workspace, over a new connection where the old one is lost.

        `task` is a task's id; `split` and `index` (from 0) choose among the pack's tasks in id order.
        """
        wanted = reset_exchange(task=task, split=split, index=index, seed=seed, episode_id=episode_id)
        async with self._turn:
            if self._connection is not None:
                with suppress(ConnectionLost):  # it was idle for long: connect again
                    return await self._exchange(self._connection, wanted)
            self._connection = connection = await self._connected()
            try:
                return await self._exchange(connection, wanted)
            except InvalidRequest:
                self._drop(connection)  # no episode was started on it
                raise

    async def step(self, action: Action) -> StepResult:
        """Take a step. What the policy denies and what a tool fails at is in the result."""
        return await self._ask(step_exchange(action))

    async def call(self, tool: str, arguments: JsonObject | None = None) -> StepResult:
        """Take the step that calls a tool."""
        return await self.step(call_action(tool, arguments or {}))

    async def submit(self, answer: JsonValue = None) -> StepResult:
        """Take the last step: the task's rubric scores the workspace and the answer."""
        return await self.step(submit_action(answer))

    async def tools(self) -> tuple[Tool, ...]:
        """Take the step that lists the tools, as the policy shows them."""
        return tools_in(await self.step(LIST_TOOLS))

    async def state(self) -> EpisodeStatus:
        """Return how the episode stands; no step."""
        return await self._ask(state_exchange())

    async def aclose(self) -> None:
        """End the episode and the connection; the server has ended its side then. Idempotent, shielded."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(ConnectionClosed):
            await connection.send(CLOSE_FRAME, text=True)
            await connection.recv()
        connection.transport.abort()

    async def _ask(self, exchange: Exchange[_Answer]) -> _Answer:
        async with self._turn:
            if self._connection is None:
                raise EpisodeUnavailable("there is no episode: reset first")
            return await self._exchange(self._connection, exchange)

    async def _exchange(self, connection: ClientConnection, exchange: Exchange[_Answer]) -> _Answer:
        try:
            with anyio.fail_after(self._address.timeout):
                with suppress(ConnectionClosed):  # why it was closed may still be there to be read
                    await connection.send(exchange.frame, text=True)
                answer = await connection.recv()
        except CONNECTION_FAULTS as error:
            self._drop(connection)
            raise fault_of(error, self._address) from error
        except BaseException:
            self._drop(connection)
            raise
        try:
            return exchange.read(answer)
        except (CapacityReached, ServerFailed, ProtocolBroken):
            self._drop(connection)
            raise

    async def _connected(self) -> ClientConnection:
        try:
            return await connect(self._address.url, **self._address.options())
        except CONNECTION_FAULTS as error:
            raise fault_of(error, self._address) from error

    def _drop(self, connection: ClientConnection) -> None:
        self._connection = None
        connection.transport.abort()
