"""How deep a shelf of the pool is: grows with takers, shrinks without, pauses after failed starts."""

from __future__ import annotations

from typing import Any, cast

from gateway.runtime.pool_shelf import LONGEST_PAUSE, ReadyLease, Shelf

NOTHING: Any = None


def shelf(*, floor: int = 0, ready: int = 0) -> Shelf:
    made = Shelf(NOTHING, None, {}, floor, floor, used=0.0)
    made.ready.extend(cast("list[ReadyLease]", [object()] * ready))
    return made


def test_a_seed_that_is_asked_for_once_is_not_kept_ready() -> None:
    one = shelf()
    one.missed(0)
    assert one.missing(0) == 0


def test_depth_doubles_each_time_somebody_finds_nothing() -> None:
    one = shelf()
    depths: list[int] = []
    for _ in range(5):
        one.missed(0)
        depths.append(one.depth)
    assert depths == [0, 1, 2, 4, 8]


def test_taking_the_last_makes_it_one_deeper_and_taking_another_does_not() -> None:
    one = shelf(floor=2, ready=2)
    one.ready.popleft()
    one.found(0)
    assert one.depth == 2
    one.ready.popleft()
    one.found(0)
    assert (one.depth, one.missing(0)) == (3, 3)


def test_what_is_under_way_is_not_started_again() -> None:
    one = shelf(floor=3, ready=1)
    one.filling = 1
    assert one.missing(0) == 1


def test_depth_stays_within_bounds_and_halves_for_each_idle_while() -> None:
    one = shelf(floor=1)
    one.depth = 100
    seen: list[int] = []
    for now in (0, 61, 62, 121, 200, 300, 400):
        one.settle(now, 60, 8)
        seen.append(one.depth)
    assert seen == [8, 4, 4, 4, 2, 1, 1]


def test_each_failed_start_is_followed_by_a_longer_pause_with_an_end() -> None:
    one = shelf(floor=1)
    one.failed(0)
    assert one.missing(1.9) == 0
    assert one.missing(2) == 1
    for _ in range(20):
        one.failed(0)
    assert one.paused_until == LONGEST_PAUSE


def test_a_taker_ends_the_pauses() -> None:
    one = shelf(floor=1, ready=1)
    for _ in range(4):
        one.failed(0)
    one.ready.popleft()
    one.found(1)
    one.failed(10)
    assert one.paused_until == 12


def test_a_shelf_that_cannot_be_pristine_is_never_filled() -> None:
    one = shelf(floor=4)
    one.unfit = True
    assert one.missing(0) == 0
