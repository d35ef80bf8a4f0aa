"""The gateway's ends of a program's pipes: nothing lost, nothing half-written, nothing watched in vain."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from gateway.sandbox.pipes import LARGEST_PIPE, PIPE_BYTES, Pipes


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


async def test_a_long_message_is_written_at_once_into_a_pipe_that_grows_for_it(pipes: Pipes) -> None:
    stdin, _ = theirs(pipes)
    long = b"y" * 200_000
    assert pipes.send_now(long)
    assert not pipes.send_now(long)  # not while something waits in it
    assert os.read(stdin, 2**20) == long
    assert not pipes.send_now(b"y" * (LARGEST_PIPE + 1))
    assert pipes.send_now(long)


async def test_a_long_message_waits_where_the_pipe_may_not_grow(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int, command: int, size: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError
        return real(fd, command, size)

    real = fcntl.fcntl
    monkeypatch.setattr(fcntl, "fcntl", refused)
    assert not pipes.send_now(b"y" * (PIPE_BYTES + 1))
    assert pipes.send_now(b"y" * PIPE_BYTES)


async def test_a_reader_that_takes_the_room_away_breaks_the_pipe(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin, _ = theirs(pipes)

    def shrunk(fd: int, size: int) -> int:
        fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, 4096)
        return size

    monkeypatch.setattr("gateway.sandbox.pipes._enlarged", shrunk)
    with pytest.raises(anyio.BrokenResourceError):
        pipes.send_now(b"y" * 50_000)
    assert not pipes.send_now(b"more")
    with pytest.raises(anyio.BrokenResourceError):
        await pipes.send(b"more")


async def test_what_is_written_at_once_is_read_at_once_from_the_second_time_on(pipes: Pipes) -> None:
    _, stdout = theirs(pipes)
    os.set_blocking(stdout, False)
    long = b"y" * 200_000
    received, rest = b"", memoryview(long)
    while len(received) < len(long):
        rest = rest[os.write(stdout, rest) :]
        received += await pipes.receive(LARGEST_PIPE)
    assert received == long
    assert os.write(stdout, long) == len(long)
    assert await pipes.receive(LARGEST_PIPE) == long


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
