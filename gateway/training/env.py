"""`Env`: an environment for code that blocks. The same conversation as `AsyncEnv`, without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self, TypeVar, cast

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

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
        self._talk = Conversation(Address.of(url, pack, token, timeout))
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
        snapshot: str | None = None,
    ) -> ResetResult:
        """Start another episode in a pristine workspace, over a new connection where the old one is lost.

        `task` is a task's id; `split` and `index` (from 0) choose among the pack's tasks in id order.
        `snapshot` is what `snapshot` returned: the workspace to start from instead.
        """
        wanted = reset_exchange(
            task=task, split=split, index=index, seed=seed, episode_id=episode_id, snapshot=snapshot
        )
        with self._turn:
            self._talk.snapshot = snapshot
            for _ in range(2):  # over the connection there is, then over a new one to the same session
                if self._connection is not None or self._talk.session:
                    with suppress(ConnectionLost, EpisodeUnavailable):
                        try:
                            return self._exchange(wanted)
                        except SnapshotElsewhere:
                            self.close()
            self._talk.forget()
            try:
                return self._exchange(wanted)
            except InvalidRequest:
                self._drop()  # no episode was started on it
                raise

    def step(self, action: Action) -> StepResult:
        """Take a step. What the policy denies and what a tool fails at is in the result."""
        return self._ask(step_exchange(action))

    def call(self, tool: str, arguments: JsonObject | None = None) -> StepResult:
        """Take the step that calls a tool."""
        return self._ask(call_exchange(tool, arguments))

    def code(self, code: str) -> StepResult:
        """Take the step that runs Python in the sandbox, with the tools as functions; see its `calls`."""
        return self._ask(code_exchange(code))

    def submit(self, answer: JsonValue = None) -> StepResult:
        """Take the last step: the task's rubric scores the workspace and the answer."""
        return self._ask(submit_exchange(answer))

    def tools(self) -> tuple[Tool, ...]:
        """Take the step that lists the tools, as the policy shows them."""
        return self._ask(tools_exchange())

    def snapshot(self) -> str:
        """Take the step that keeps the workspace, and return the id that a reset starts from.

        It goes with this session. Raises `SnapshotFailed` too; the episode goes on then.
        """
        return self._ask(snapshot_exchange())

    def state(self) -> EpisodeStatus:
        """Return how the episode stands; no step."""
        return self._ask(state_exchange())

    def close(self) -> None:
        """End the episode and the connection; the server has ended its side then. Idempotent."""
        connection, self._connection = self._connection, None
        self._talk.forget()
        if connection is None:
            return
        with suppress(ConnectionClosed, TimeoutError):
            connection.send(CLOSE_FRAME, text=True)
            connection.recv(CLOSE_SECONDS)
        connection.close()

    def _ask(self, exchange: Exchange[_Answer]) -> _Answer:
        with self._turn:
            if self._connection is None and not self._talk.session:
                raise self._talk.no_episode()
            return self._exchange(exchange)

    def _exchange(self, exchange: Exchange[_Answer]) -> _Answer:
        """Send once and read the answer, over a new connection where there is none any more."""
        connection, attached = self._connection, False
        if connection is None or (self._talk.session and connection.state is not State.OPEN):
            self._connection = connection = self._connected()
            attached = bool(self._talk.session)
        try:
            with suppress(ConnectionClosed):  # why it was closed may still be there to be read
                connection.send(exchange.frame, text=True)
            answer = connection.recv(self._talk.address.timeout)
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

    def _connected(self) -> ClientConnection:
        try:
            # Entered, not only called: from websockets 17 on, that alone is free of a warning.
            dial = cast("Callable[..., AbstractContextManager[ClientConnection]]", connect)
            return dial(self._talk.url, **self._talk.address.options()).__enter__()
        except CONNECTION_FAULTS as error:
            raise self._talk.fault(error) from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close_socket()
