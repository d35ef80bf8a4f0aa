"""`Env`: an environment for code that blocks. The same conversation as `AsyncEnv`, without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self, TypeVar, cast

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

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

__all__ = ["Env"]

_Answer = TypeVar("_Answer")


class Env:
    """A served pack as an environment.

    `url` is what `sandgate serve --mode training` prints; `pack` is needed where several are served;
    `timeout` is in seconds, for one answer. Calls of several threads queue. Every method raises `EnvError`.
    """

    def __init__(
        self, url: str, pack: str | None = None, *, token: str | None = None, timeout: float = 120.0
    ) -> None:
        self._address = Address.of(url, pack, token, timeout)
        self._connection: ClientConnection | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        """Return itself; the first reset connects."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the episode."""
        self.close()

    def reset(
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
        with self._turn:
            if self._connection is not None:
                with suppress(ConnectionLost):  # it was idle for long: connect again
                    return self._exchange(self._connection, wanted)
            self._connection = connection = self._connected()
            try:
                return self._exchange(connection, wanted)
            except InvalidRequest:
                self._drop(connection)  # no episode was started on it
                raise

    def step(self, action: Action) -> StepResult:
        """Take a step. What the policy denies and what a tool fails at is in the result."""
        return self._ask(step_exchange(action))

    def call(self, tool: str, arguments: JsonObject | None = None) -> StepResult:
        """Take the step that calls a tool."""
        return self.step(call_action(tool, arguments or {}))

    def submit(self, answer: JsonValue = None) -> StepResult:
        """Take the last step: the task's rubric scores the workspace and the answer."""
        return self.step(submit_action(answer))

    def tools(self) -> tuple[Tool, ...]:
        """Take the step that lists the tools, as the policy shows them."""
        return tools_in(self.step(LIST_TOOLS))

    def state(self) -> EpisodeStatus:
        """Return how the episode stands; no step."""
        return self._ask(state_exchange())

    def close(self) -> None:
        """End the episode and the connection; the server has ended its side then. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(ConnectionClosed, TimeoutError):
            connection.send(CLOSE_FRAME, text=True)
            connection.recv(CLOSE_SECONDS)
        connection.close()

    def _ask(self, exchange: Exchange[_Answer]) -> _Answer:
        with self._turn:
            if self._connection is None:
                raise EpisodeUnavailable("there is no episode: reset first")
            return self._exchange(self._connection, exchange)

    def _exchange(self, connection: ClientConnection, exchange: Exchange[_Answer]) -> _Answer:
        try:
            with suppress(ConnectionClosed):  # why it was closed may still be there to be read
                connection.send(exchange.frame, text=True)
            answer = connection.recv(self._address.timeout)
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

    def _connected(self) -> ClientConnection:
        try:
            # Entered, not only called: from websockets 17 on, that alone is free of a warning.
            dial = cast("Callable[..., AbstractContextManager[ClientConnection]]", connect)
            return dial(self._address.url, **self._address.options()).__enter__()
        except CONNECTION_FAULTS as error:
            raise fault_of(error, self._address) from error

    def _drop(self, connection: ClientConnection) -> None:
        self._connection = None
        connection.close_socket()
