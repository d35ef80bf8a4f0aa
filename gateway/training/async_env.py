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
from websockets.protocol import State

from gateway.core.json_types import JsonObject, JsonValue
from gateway.training.codec import (
    CLOSE_FRAME,
    Exchange,
    call_exchange,
    code_exchange,
    reset_exchange,
    snapshot_exchange,
    state_exchange,
    step_exchange,
    submit_exchange,
    tools_exchange,
)
from gateway.training.conversation import Conversation
from gateway.training.errors import (
    ConnectionLost,
    EnvError,
    EpisodeUnavailable,
    InvalidRequest,
    SnapshotElsewhere,
)
from gateway.training.results import Action, EpisodeStatus, ResetResult, StepResult, Tool
from gateway.training.transport import CLOSE_SECONDS, CONNECTION_FAULTS, Address

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
        self._talk = Conversation(Address.of(url, pack, token, timeout))
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
        snapshot: str | None = None,
    ) -> ResetResult:
        """Start another episode in a pristine workspace, over a new connection where the old one is lost.

        `task` is a task's id; `split` and `index` (from 0) choose among the pack's tasks in id order.
        `snapshot` is what `snapshot` returned: the workspace to start from instead.
        """
        wanted = reset_exchange(
            task=task, split=split, index=index, seed=seed, episode_id=episode_id, snapshot=snapshot
        )
        async with self._turn:
            self._talk.snapshot = snapshot
            for _ in range(2):  # over the connection there is, then over a new one to the same session
                if self._connection is not None or self._talk.session:
                    with suppress(ConnectionLost, EpisodeUnavailable):
                        try:
                            return await self._exchange(wanted)
                        except SnapshotElsewhere:
                            await self.aclose()
            self._talk.forget()
            try:
                return await self._exchange(wanted)
            except InvalidRequest:
                self._drop()  # no episode was started on it
                raise

    async def step(self, action: Action) -> StepResult:
        """Take a step. What the policy denies and what a tool fails at is in the result."""
        return await self._ask(step_exchange(action))

    async def call(self, tool: str, arguments: JsonObject | None = None) -> StepResult:
        """Take the step that calls a tool."""
        return await self._ask(call_exchange(tool, arguments))

    async def code(self, code: str) -> StepResult:
        """Take the step that runs Python in the sandbox, with the tools as functions; see its `calls`."""
        return await self._ask(code_exchange(code))

    async def submit(self, answer: JsonValue = None) -> StepResult:
        """Take the last step: the task's rubric scores the workspace and the answer."""
        return await self._ask(submit_exchange(answer))

    async def tools(self) -> tuple[Tool, ...]:
        """Take the step that lists the tools, as the policy shows them."""
        return await self._ask(tools_exchange())

    async def snapshot(self) -> str:
        """Take the step that keeps the workspace, and return the id that a reset starts from.

        It goes with this session. Raises `SnapshotFailed` too; the episode goes on then.
        """
        return await self._ask(snapshot_exchange())

    async def state(self) -> EpisodeStatus:
        """Return how the episode stands; no step."""
        return await self._ask(state_exchange())

    async def aclose(self) -> None:
        """End the episode and the connection; the server has ended its side then. Idempotent, shielded."""
        connection, self._connection = self._connection, None
        self._talk.forget()
        if connection is None:
            return
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(ConnectionClosed):
            await connection.send(CLOSE_FRAME, text=True)
            await connection.recv()
        connection.transport.abort()

    async def _ask(self, exchange: Exchange[_Answer]) -> _Answer:
        async with self._turn:
            if self._connection is None and not self._talk.session:
                raise self._talk.no_episode()
            return await self._exchange(exchange)

    async def _exchange(self, exchange: Exchange[_Answer]) -> _Answer:
        """Send once and read the answer, over a new connection where there is none any more."""
        connection, attached = self._connection, False
        if connection is None or (self._talk.session and connection.state is not State.OPEN):
            self._connection = connection = await self._connected()
            attached = bool(self._talk.session)
        try:
            with anyio.fail_after(self._talk.address.timeout):
                with suppress(ConnectionClosed):  # why it was closed may still be there to be read
                    await connection.send(exchange.frame, text=True)
                answer = await connection.recv()
        except CONNECTION_FAULTS as error:
            self._drop()
            raise self._talk.fault(error) from error
        except BaseException:
            self._talk.forget()
            self._drop()
            raise
        try:
            return self._talk.read(exchange, answer, attached=attached)
        except EnvError as error:
            if self._talk.ended_by(error):
                self._drop()
            raise

    async def _connected(self) -> ClientConnection:
        try:
            return await connect(self._talk.url, **self._talk.address.options())
        except CONNECTION_FAULTS as error:
            raise self._talk.fault(error) from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.transport.abort()
