"""`hours`: times of the week in a time zone, such as `Mon-Fri 08:00-19:00 Europe/Paris`.

The days and the zone may be left out (every day, UTC). A span that ends before it starts runs past
midnight and belongs to the day it starts on. Ends are exclusive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.core.policy.wildcards import PatternError

__all__ = ["compile_hours"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(_DAYS)
_HOURS = re.compile(
    rf"(?:((?:{_DAY})(?:[-,](?:{_DAY}))*) )?"
    r"([0-2]\d):([0-5]\d)-([0-2]\d):([0-5]\d)"
    r"(?: ([A-Za-z0-9_+/-]{1,64}))?"
)
_FULL_DAY = 24 * 60


def compile_hours(spans: Sequence[str]) -> Callable[[float], bool]:
    """Return a test of unix seconds: whether one of the spans covers them; raises `PatternError`."""
    tests = [_compile(span) for span in spans]
    return lambda now: any(test(now) for test in tests)


def _compile(text: str) -> Callable[[float], bool]:
    match = _HOURS.fullmatch(text)
    if match is None:
        raise PatternError(f"hours are written 'Mon-Fri 08:00-19:00 Europe/Paris', not {text!r}")
    days = _days(match[1]) if match[1] else frozenset(range(7))
    start, end = int(match[2]) * 60 + int(match[3]), int(match[4]) * 60 + int(match[5])
    if start >= _FULL_DAY or end > _FULL_DAY or start == end:
        raise PatternError(f"{text!r}: a span goes from 00:00 to 24:00 and is not empty")
    zone = _zone(match[6] or "UTC")

    def test(now: float) -> bool:
        local = datetime.fromtimestamp(now, UTC).astimezone(zone)
        minute = local.hour * 60 + local.minute
        if start < end:
            return local.weekday() in days and start <= minute < end
        if minute >= start:
            return local.weekday() in days
        return minute < end and (local - timedelta(days=1)).weekday() in days

    return test


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, *more = [_DAYS.index(day) for day in part.split("-")]
        if len(more) > 1:
            raise PatternError(f"{part!r} is not a range of days: write Mon-Fri")
        last = more[0] if more else first
        days.update((first + step) % 7 for step in range((last - first) % 7 + 1))
    return frozenset(days)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PatternError(
            f"no time zone {name!r} is known here: see the IANA names, or install tzdata"
        ) from None
