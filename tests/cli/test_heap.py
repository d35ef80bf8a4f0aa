"""The collector of a serving process, in a process of its own: what was there stays, what is new goes."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, weakref
from gateway.cli.heap import settle_heap

class Knot:
    def __init__(self):
        self.itself = self

default = gc.get_threshold()[0]
settle_heap()
tied = weakref.ref(Knot())
kept = [Knot() for _ in range(default)]
rare = tied() is not None
kept += [Knot() for _ in range(gc.get_threshold()[0])]
print(gc.get_freeze_count() > 1_000, rare, tied() is None)
"""


def test_a_serving_process_walks_over_new_objects_only_and_less_often() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["True", "True", "True"]
