"""Seed and time of an episode, as programs in its sandboxes are told of them. Pure.

The same seed and the same actions give the same observations, as far as programs go by these:

    SANDGATE_SEED       the episode's seed
    SANDGATE_EPOCH      when the episode began, in unix seconds: the same for every episode
    SOURCE_DATE_EPOCH   the same, by the name that build tools know

It is the time at which a policy's virtual clock starts.
"""

from __future__ import annotations

from gateway.core.policy.situation import VIRTUAL_START

__all__ = ["EPOCH", "episode_environment"]

EPOCH = int(VIRTUAL_START)


def episode_environment(seed: int) -> dict[str, str]:
    """Return what is added to the environment of an episode's programs."""
    return {"SANDGATE_SEED": str(seed), "SANDGATE_EPOCH": str(EPOCH), "SOURCE_DATE_EPOCH": str(EPOCH)}
