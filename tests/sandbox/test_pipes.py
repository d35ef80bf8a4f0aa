"""The gateway's ends of a program's pipes: nothing lost, nothing half-written, nothing watched in vain."""

from __future__ import annotations

import os
import select
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from gateway.sandbox.pipes import Pipes


@pytest.fixture
async def pipes() -> AsyncIterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def theirs(pipes: Pipes) -> tuple[int, int]:
    """Return the program's stdin and stdout."""
    return pipes.theirs[0], pipes.theirs[1]


async def test_bytes_arrive_one_after_the_other_while_somebody_reads(pipes: Pipes) -> None:
    _, stdout = theirs(pipes)

    async def write(part: bytes) -> None:
        await anyio.wait_all_tasks_blocked()
        os.write(stdout, part)

    with anyio.fail_after(5):
        for part in (b"one", b"two", b"three"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write, part)
                assert await pipes.receive(100) == part


async def test_what_comes_while_nobody_reads_waits_in_the_pipe(pipes: Pipes) -> None:
    _, stdout = theirs(pipes)
    with anyio.move_on_after(0.01) as scope:
        await pipes.receive(100)
    assert scope.cancelled_caught
    os.write(stdout, b"kept")
    await anyio.sleep(0.02)
    with anyio.fail_after(1):
        assert await pipes.receive(100) == b"kept"


async def test_a_reader_that_is_cancelled_as_bytes_come_does_not_take_them_along(pipes: Pipes) -> None:
    _, stdout = theirs(pipes)
    for number in range(20):
        sent = b"%d" % number
        with anyio.move_on_after(0.01) as scope:

            async def cancel_as_it_comes(scope: anyio.CancelScope = scope, sent: bytes = sent) -> None:
                await anyio.lowlevel.checkpoint()
                os.write(stdout, sent)
                await anyio.lowlevel.checkpoint()
                scope.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_as_it_comes)
                if await pipes.receive(100) == sent:
                    continue
        with anyio.fail_after(1):
            assert await pipes.receive(100) == sent


async def test_the_end_is_told_to_who_waits_for_bytes(pipes: Pipes) -> None:
    async def close() -> None:
        await anyio.wait_all_tasks_blocked()
        pipes.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with pytest.raises(anyio.EndOfStream):
            await pipes.receive(100)
    with pytest.raises(anyio.EndOfStream):
        await pipes.receive(100)


async def test_a_short_message_is_written_at_once_or_not_at_all(pipes: Pipes) -> None:
    stdin, _ = theirs(pipes)
    line = b"x" * select.PIPE_BUF
    written = 0
    while pipes.send_now(line):
        written += 1
    assert not pipes.send_now(b"x" * (select.PIPE_BUF + 1))
    assert written > 0
    assert len(os.read(stdin, 2**20)) == written * select.PIPE_BUF
    assert pipes.send_now(b"more")


async def test_nothing_is_written_at_once_between_the_halves_of_a_long_message(pipes: Pipes) -> None:
    stdin, _ = theirs(pipes)
    long = b"y" * 200_000
    received = bytearray()
    os.set_blocking(stdin, False)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipes.send, long)
            await anyio.wait_all_tasks_blocked()
            assert not pipes.send_now(b"between")
            while len(received) < len(long):
                await anyio.wait_readable(stdin)
                received += os.read(stdin, 65_536)
    assert bytes(received) == long
