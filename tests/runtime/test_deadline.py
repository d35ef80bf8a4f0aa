"""How long a call may take: standing still adds what was waited, and never more than the patience."""

from __future__ import annotations

import anyio
import pytest

from gateway.runtime.upstream.deadline import Deadline


async def test_questions_that_overlap_stop_the_time_once_and_give_back_what_they_did_not_need() -> None:
    deadline = Deadline(5, patience=100)
    began = deadline.at - 5
    with deadline.standing_still():
        assert deadline.at == pytest.approx(began + 105, rel=0, abs=1e-6)
        with deadline.standing_still():
            assert deadline.at == pytest.approx(began + 105, rel=0, abs=1e-6)
        assert deadline.at == pytest.approx(began + 105, rel=0, abs=1e-6)
        await anyio.sleep(0.01)
    assert deadline.waited > 0
    assert deadline.at == pytest.approx(began + 5 + deadline.waited, rel=0, abs=1e-6)


async def test_patience_that_is_spent_adds_nothing_any_more() -> None:
    deadline = Deadline(1_000, patience=0.05)
    at = deadline.at
    for _ in range(3):
        with deadline.standing_still():
            await anyio.sleep(0.06)
    assert deadline.waited == pytest.approx(0.05)
    assert deadline.at == pytest.approx(at + 0.05, rel=0, abs=1e-6)
    assert str(deadline) == "1000 s and 0.05 s of waiting for the client"


async def test_what_is_done_under_it_ends_with_it_even_while_it_stands_still() -> None:
    deadline = Deadline(0.05, patience=0.05)
    with anyio.fail_after(60), deadline.enforced(), deadline.standing_still():
        await anyio.sleep_forever()
    assert deadline.left == 0
