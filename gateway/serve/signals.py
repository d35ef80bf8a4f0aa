"""Waiting that a signal may cut short: the one place that listens to SIGTERM and SIGINT."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

import anyio

__all__ = ["Signals", "ending_signals", "until_signal"]

Signals: TypeAlias = AsyncIterator[signal.Signals]


def ending_signals() -> AbstractContextManager[Signals]:
    """Return a receiver of the signals that ask the process to end; they do nothing else meanwhile."""
    return anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT)


async def until_signal(signals: Signals, work: Callable[[], Awaitable[object]]) -> None:
    """Run `work` to its end, or cancel it when the next signal comes."""
    async with anyio.create_task_group() as tasks:

        async def cut_short() -> None:
            await anext(signals)
            tasks.cancel_scope.cancel()

        tasks.start_soon(cut_short)
        await work()
        tasks.cancel_scope.cancel()
