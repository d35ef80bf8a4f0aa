"""`VectorEnv`: n episodes side by side, stepped at the same time by code that blocks.

An event loop in a thread of its own holds the n connections; a slot's fault is a value in its place.
"""

from __future__ import annotations

import atexit
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, cast

import anyio
from anyio.from_thread import start_blocking_portal

from gateway.training.async_env import AsyncEnv
from gateway.training.errors import EnvError, InvalidRequest
from gateway.training.results import Action, ResetResult, StepResult

__all__ = ["ResetOptions", "VectorEnv"]

ResetOptions: TypeAlias = Mapping[str, str | int | None]
"""What one slot's reset asks for: `task`, `split`, `index`, `seed`, `episode_id`, `snapshot`."""

_Result = TypeVar("_Result")
_Wanted = TypeVar("_Wanted")
_OPTIONS = {"task", "split", "index", "seed", "episode_id", "snapshot"}


class VectorEnv:
    """`n` environments of one served pack; the arguments are those of `Env`.

    Results come in slot order. Where a slot fails, its `EnvError` stands in its place and harms no other;
    a reset of the slot starts it anew. Not for several threads at once.
    """

    def __init__(
        self,
        url: str,
        n: int,
        pack: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        if n < 1:
            raise InvalidRequest(f"{n} environments: ask for at least one")
        self._opened = ExitStack()
        self._portal = self._opened.enter_context(start_blocking_portal())
        try:
            self._envs = [AsyncEnv(url, pack, token=token, timeout=timeout) for _ in range(n)]
        except BaseException:
            self._opened.close()
            raise
        # Left open, it would hold up the interpreter's end: the loop's thread is gone before the portal is.
        atexit.register(self.close)

    def __len__(self) -> int:
        """Return how many slots there are."""
        return len(self._envs)

    def __enter__(self) -> Self:
        """Return itself; the first reset connects."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every episode."""
        self.close()

    def reset(
        self, options: ResetOptions | Sequence[ResetOptions | None] | None = None
    ) -> tuple[ResetResult | EnvError | None, ...]:
        """Start an episode in every slot, with the same options or each with its own.

        `None` in a slot's place leaves its episode alone; so is its result.
        """
        wanted = [options or {}] * len(self) if options is None or isinstance(options, Mapping) else options
        return self._each(_reset, wanted)

    def step(self, actions: Sequence[Action | None]) -> tuple[StepResult | EnvError | None, ...]:
        """Take one step in every slot, all at the same time. `None` in a slot's place takes none."""
        return self._each(AsyncEnv.step, actions)

    def close(self) -> None:
        """End every episode and the connections. Idempotent."""
        try:
            if self._envs:
                self._portal.call(_close_all, self._envs)
        finally:
            self._envs = []
            self._opened.close()
            atexit.unregister(self.close)

    def _each(
        self, act: Callable[[AsyncEnv, _Wanted], Awaitable[_Result]], wanted: Sequence[_Wanted | None]
    ) -> tuple[_Result | EnvError | None, ...]:
        if len(wanted) != len(self):
            raise InvalidRequest(f"{len(wanted)} entries for {len(self)} environments: give one for each")
        return tuple(self._portal.call(_gather, act, self._envs, wanted))


async def _gather(
    act: Callable[[AsyncEnv, _Wanted], Awaitable[_Result]],
    envs: Sequence[AsyncEnv],
    wanted: Sequence[_Wanted | None],
) -> list[_Result | EnvError | None]:
    results: list[_Result | EnvError | None] = [None] * len(envs)

    async def one(slot: int, want: _Wanted) -> None:
        try:
            results[slot] = await act(envs[slot], want)
        except EnvError as error:
            results[slot] = error

    async with anyio.create_task_group() as tasks:
        for slot, want in enumerate(wanted):
            if want is not None:
                tasks.start_soon(one, slot, want)
    return results


async def _reset(env: AsyncEnv, options: ResetOptions) -> ResetResult:
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InvalidRequest(f"no reset option {unknown[0]!r}; there are: {', '.join(sorted(_OPTIONS))}")
    return await env.reset(**cast("dict[str, Any]", dict(options)))


async def _close_all(envs: Sequence[AsyncEnv]) -> None:
    async with anyio.create_task_group() as tasks:
        for env in envs:
            tasks.start_soon(env.aclose)
