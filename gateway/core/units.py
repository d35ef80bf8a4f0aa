"""Sizes and durations as people write them in files: `4MB`, `512Mi`, `30s`, `10m`."""

from __future__ import annotations

import re

__all__ = ["parse_duration", "parse_size"]

_SIZE = re.compile(r"([0-9]{1,15})\s?(?:([kKMGT])(i?))?B?")
_SIZE_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s?(ms|s|m|h|d|)")
_DURATION_UNIT = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_size(value: object) -> object:
    """Return bytes for `4MB` (decimal), `512Mi` or `512MiB` (binary) and plain numbers.

    Anything but text passes unchanged, so that it can stand before a type check; raises `ValueError`.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size: write 512Ki, 4MB, 1Gi or a number of bytes")
    number, unit, binary = match.groups(default="")
    return int(number) * (1024 if binary else 1000) ** _SIZE_POWER[unit.upper()]


def parse_duration(value: object) -> object:
    """Return seconds for `500ms`, `30s`, `10m`, `2h`, `1d` and plain numbers.

    Anything but text passes unchanged, so that it can stand before a type check; raises `ValueError`.
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a duration: write 500ms, 30s, 10m, 2h or a number of seconds")
    return float(match[1]) * _DURATION_UNIT[match[2]]
