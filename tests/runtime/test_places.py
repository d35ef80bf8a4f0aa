"""Places and counters in memory that several processes share: limits hold exactly, a name has one holder."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gateway.core.policy.limits import Counters
from gateway.core.policy.model import Limit
from gateway.core.policy.situation import Charge, LimitKey
from gateway.errors import TooManySessions
from gateway.runtime.places import PlaceTables
from gateway.runtime.shared_memory import SharedMemory

RACING = """
import sys
from gateway.core.policy.model import Limit
from gateway.core.policy.situation import Charge, LimitKey
from gateway.errors import TooManySessions
from gateway.runtime.shared_memory import SharedMemory

memory, own = SharedMemory(int(sys.argv[1])), int(sys.argv[2])
places, counters = memory.tables(own), memory.counters()
charge = Charge(Limit.model_validate({"calls": 700}), LimitKey("policy.yaml", "few", "ann"), 0)
taken = granted = 0
names = []
for number in range(1000):
    try:
        places.sessions.take("ann", 900)
        taken += 1
    except TooManySessions:
        pass
    with counters.lock:
        if not counters.spent(charge, 0.0):
            counters.reserve(charge, 0.0)
            granted += 1
    if number < 200:
        names.append(places.names.claim(f"name-{number}")[0])
print(taken, granted, *names)
"""


def test_processes_that_race_take_exactly_what_there_is() -> None:
    memory = SharedMemory.make(1000)
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", RACING, str(memory.fd), str(own)],
            pass_fds=[memory.fd],
            stdout=subprocess.PIPE,
            text=True,
        )
        for own in (1, 2, 3)
    ]
    said = [process.communicate(timeout=60)[0].split() for process in racing]
    assert sum(int(words[0]) for words in said) == 900
    assert sum(int(words[1]) for words in said) == 700
    holders = [words[2:] for words in said]
    assert holders[0] == holders[1] == holders[2]
    assert len(holders[0]) == 200
    os.close(memory.fd)


def test_what_a_dead_worker_held_is_free_and_its_names_are_nobodys() -> None:
    memory = SharedMemory.make(4)
    one, two = memory.tables(1), memory.tables(2)
    for number in range(2):
        one.minted.take("ann", 4, f"one-{number}")
        two.minted.take("bob", 4, f"two-{number}")
    with pytest.raises(TooManySessions):
        two.minted.take("ann", 4)
    assert (two.minted.holder("one-0"), one.minted.holder("two-1")) == (1, 2)
    memory.tables(0).free_all_of(1)
    assert (two.minted.holder("one-0"), two.minted.holder("two-1")) == (None, 2)
    two.minted.take("ann", 1)
    with pytest.raises(TooManySessions, match="principal 'ann' already has 1 sessions"):
        two.minted.take("ann", 1)
    os.close(memory.fd)


def test_a_place_that_was_given_back_is_found_by_nothing() -> None:
    places = PlaceTables.alone(2).episodes
    place = places.take("ann", 1, "first")
    assert places.holder("first") == 1
    places.free(place)
    assert places.holder("first") is None
    assert places.take("ann", 1, "second") == place
    places.name(place, "third")
    assert (places.holder("second"), places.holder("third")) == (None, 1)


@pytest.mark.parametrize("limit", [{"calls": 2}, {"bytes": 20}, {"rate": "2/h"}])
def test_shared_counters_count_as_those_of_one_process_do(limit: dict[str, object]) -> None:
    memory = SharedMemory.make(1)
    charge = Charge(
        Limit.model_validate(limit), LimitKey("policy.yaml", "rule", "ann"), 10 if "bytes" in limit else 0
    )

    def story(counters: list[Counters]) -> list[bool]:
        spent: list[bool] = []
        for number in range(6):
            one, other = counters[number % 2], counters[(number + 1) % 2]
            spent.append(one.spent(charge, float(number)))
            if not spent[-1]:
                one.reserve(charge, float(number))
            if number == 2:
                other.release(charge)
        return spent

    alone = Counters()
    assert story([memory.counters(), memory.counters()]) == story([alone, alone])
    os.close(memory.fd)
