"""Seed and time of an episode, as programs in its sandboxes are told of them. Pure.

The same seed and the same actions give the same observations, as far as programs go by these:

    SANDGATE_SEED       the episode's seed
    SANDGATE_EPOCH      when the episode began, in unix seconds: the same for every episode
    SOURCE_DATE_EPOCH   the same, by the name that build tools know

It is the time at which a policy's virtual clock starts.
"""

from __future__ import annotations

from typing import TypeVar, cast

from pydantic import BaseModel

from gateway.core.policy.situation import VIRTUAL_START

__all__ = ["EPOCH", "SEED_MARK", "SEED_VARIABLE", "episode_environment", "seeded"]

EPOCH = int(VIRTUAL_START)

SEED_MARK = "${seed}"
"""Stands for the seed in a task, and in what a manifest writes of a server."""
SEED_VARIABLE = "SANDGATE_SEED"

_Model = TypeVar("_Model", bound=BaseModel)


def seeded(model: _Model, seed: int) -> _Model:
    """Return a task, or a part of one, with the seed in the place of each `${seed}`."""
    values = {name: getattr(model, name) for name in type(model).model_fields}
    changed = {name: new for name, value in values.items() if (new := _seeded(value, seed)) is not value}
    return model.model_copy(update=changed) if changed else model


def _seeded(value: object, seed: int) -> object:
    match value:
        case str():
            return value.replace(SEED_MARK, str(seed)) if SEED_MARK in value else value
        case BaseModel():
            return seeded(value, seed)
        case tuple():
            return tuple(_seeded(item, seed) for item in cast("tuple[object, ...]", value))
        case list():
            return [_seeded(item, seed) for item in cast("list[object]", value)]
        case dict():
            items = cast("dict[object, object]", value).items()
            return {name: _seeded(item, seed) for name, item in items}
        case _:
            return value


def episode_environment(seed: int) -> dict[str, str]:
    """Return what is added to the environment of an episode's programs."""
    return {SEED_VARIABLE: str(seed), "SANDGATE_EPOCH": str(EPOCH), "SOURCE_DATE_EPOCH": str(EPOCH)}
