"""The garbage collector of a process that serves: it leaves alone what was there before the first call.

What a call leaves behind goes by its reference counts. Walks over modules, schemas and policies, which
stay for good, were the twentieth part of a call.
"""

from __future__ import annotations

import gc

__all__ = ["settle_heap"]

_YOUNG = 5_000
"""New objects until the collector looks at them; by its own default 700, the growth of some twenty calls."""


def settle_heap() -> None:
    """Take what there is for good, and look at what comes less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
