"""A server's lines are taken in turns, so that one that prints without end leaves time for all others."""

from __future__ import annotations

from gateway.core.calls import FailureKind
from gateway.loop import current_loop
from gateway.runtime.upstream.hearing import MOST_NOISE, Hearing


def spend_a_turn() -> None:
    loop = current_loop()
    end = loop.time() + 0.01
    while loop.time() < end:
        pass


async def test_many_lines_that_take_long_cost_a_pause_and_few_never_do() -> None:
    hearing = Hearing(1_000)
    hearing.begin()
    spend_a_turn()
    taken = [hearing.over() for _ in range(100)]
    assert taken[:64] == [False] * 64
    assert all(taken[64:])
    await hearing.rest()
    assert not hearing.over()


async def test_others_run_in_a_pause() -> None:
    ran: list[int] = []
    current_loop().call_soon(ran.append, 1)
    await Hearing(1_000).rest()
    assert ran == [1]


def test_noise_is_forgiven_with_an_answer_and_has_an_end_without() -> None:
    hearing = Hearing(1_000)
    for _ in range(MOST_NOISE):
        hearing.noise()
    assert hearing.complaint(64_000) is None
    hearing.answer()
    for _ in range(MOST_NOISE + 1):
        hearing.noise()
    assert hearing.complaint(0) == (FailureKind.PROTOCOL, "writes line after line that is no answer")


def test_a_line_of_many_times_the_largest_result_has_no_end() -> None:
    found = Hearing(1_000).complaint(64_001)
    assert found == (FailureKind.TOO_LARGE, "writes a line without an end: 64001 bytes")
