"""Limits: how much a rule has granted, by calls, bytes and a token bucket. Mutable, and pure otherwise.

A call is charged when it is allowed and before it runs, so that calls in flight count; what did not
run is given back, and what a result weighs is added when it is known. Counters go by the policy's
file and rule id, so that they outlive a reload. Time never runs backwards for a bucket: of two
clocks the later one counts, which can only deny.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

from gateway.core.calls import Principal
from gateway.core.json_types import JsonObject
from gateway.core.policy.model import Rule
from gateway.core.policy.request import Request
from gateway.core.policy.situation import Charge, LimitKey
from gateway.core.strict_json import dumps

__all__ = ["Counter", "CounterStore", "Counters", "counter_of"]


def counter_of(rule: Rule, file: str) -> Callable[[JsonObject, Request], Charge] | None:
    """Return what a call costs the rule's limit; `None` for a rule without one."""
    limit = rule.limit
    if limit is None:
        return None
    whose = _WHOSE[limit.per]
    weighs = limit.bytes is not None

    def charge(arguments: JsonObject, request: Request) -> Charge:
        key = LimitKey(file, rule.id, whose(request))
        return Charge(limit, key, len(dumps(arguments)) if weighs else 0)

    return charge


_WHOSE: dict[str, Callable[[Request], str]] = {
    "session": lambda request: "session",
    "principal": lambda request: _identity(request.principal),
    "tool": lambda request: _counted_name(request),
    "server": lambda request: request.server,
}


def _counted_name(request: Request) -> str:
    """Return the tool's name; a server's resources, whose names anybody can make up, count together."""
    return request.name if request.target == "tool" else f"{request.target}:{request.server}"


def _identity(who: Principal) -> str:
    return repr((who.name, who.client, who.user))


@dataclass(slots=True)
class Counter:
    """What has been granted under one key; `tokens` are those of its bucket, if it has one, at `at`."""

    calls: int = 0
    bytes: int = 0
    tokens: float | None = None
    at: float = 0.0

    def available(self, rate: tuple[int, float], now: float) -> float:
        """Return the bucket's tokens at `now`; a bucket starts full and holds as many as its rate counts."""
        most, period = rate
        if self.tokens is None:
            return float(most)
        return min(float(most), self.tokens + max(0.0, now - self.at) * most / period)


class CounterStore(Protocol):
    """Where counters are kept: a dict does."""

    def get(self, key: LimitKey, /) -> Counter | None:
        """Return a counter, `None` if nothing was charged yet."""
        ...

    def __setitem__(self, key: LimitKey, counter: Counter, /) -> None:
        """Keep a counter as it is now."""
        ...


@dataclass(slots=True)
class Counters:
    """What has been granted so far, by key: one of a session, and one of the whole gateway.

    `lock` is held from asking to charging, and while a charge changes, where others count in `store` too.
    """

    store: CounterStore = field(default_factory=dict[LimitKey, Counter])
    lock: AbstractContextManager[None] = field(default_factory=nullcontext)

    def branch(self) -> Counters:
        """Return counters that stand where these, of one session, do and count apart from here on."""
        own = cast("dict[LimitKey, Counter]", self.store)
        return Counters({key: replace(counter) for key, counter in own.items()})

    def spent(self, charge: Charge, now: float) -> bool:
        """Whether there is no room for the charge."""
        counter = self.store.get(charge.key) or Counter()
        limit = charge.limit
        if limit.calls is not None and counter.calls >= limit.calls:
            return True
        if limit.bytes is not None and counter.bytes + charge.size > limit.bytes:
            return True
        return limit.rate is not None and counter.available(limit.rate, now) < 1.0

    def reserve(self, charge: Charge, now: float) -> None:
        """Charge one call."""
        with self.lock:
            counter = self.store.get(charge.key) or Counter()
            counter.calls += 1
            counter.bytes += charge.size
            rate = charge.limit.rate
            if rate is not None:
                counter.tokens = counter.available(rate, now) - 1.0
                counter.at = max(now, counter.at)
            self.store[charge.key] = counter

    def release(self, charge: Charge) -> None:
        """Give back what a call was charged that did not run."""
        with self.lock:
            counter = self.store.get(charge.key)
            if counter is None:
                return
            counter.calls -= 1
            counter.bytes -= charge.size
            if charge.limit.rate is not None and counter.tokens is not None:
                counter.tokens = min(float(charge.limit.rate[0]), counter.tokens + 1.0)
            self.store[charge.key] = counter

    def settle(self, charge: Charge, result_bytes: int) -> None:
        """Add what the result of a call that ran weighs."""
        if charge.limit.bytes is not None:
            with self.lock:
                counter = self.store.get(charge.key) or Counter()
                counter.bytes += result_bytes
                self.store[charge.key] = counter
