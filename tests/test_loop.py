"""Promises: known once, to whoever waits, also after a cancellation."""

from __future__ import annotations

import anyio
import pytest

from gateway.loop import Promise, current_loop, running_task


async def test_a_kept_promise_gives_its_value_as_often_as_it_is_asked() -> None:
    promise: Promise[int] = Promise()
    current_loop().call_soon(promise.keep, 7)
    assert (await promise, await promise, promise.value) == (7, 7, 7)


async def test_a_broken_promise_raises_what_broke_it() -> None:
    promise: Promise[int] = Promise()
    promise.break_with(KeyError("lost"))
    with pytest.raises(KeyError, match="lost"):
        await promise


async def test_what_comes_second_changes_nothing() -> None:
    promise: Promise[int] = Promise()
    promise.keep(1)
    promise.keep(2)
    promise.break_with(KeyError("late"))
    assert await promise == 1


async def test_a_wait_that_was_cancelled_can_be_taken_up_again() -> None:
    promise: Promise[str] = Promise()
    with anyio.move_on_after(0.01) as scope:
        await promise
    assert scope.cancelled_caught
    promise.keep("still there")
    assert await promise == "still there"


async def test_a_task_ends_itself_where_it_waits() -> None:
    ended: list[str] = []

    async def work() -> None:
        current_loop().call_soon(running_task().cancel)
        try:
            await anyio.sleep(5)
        except anyio.get_cancelled_exc_class():
            ended.append("here")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
    assert ended == ["here"]
