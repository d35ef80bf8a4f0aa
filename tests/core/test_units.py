"""Sizes and durations in files."""

from __future__ import annotations

import pytest

from gateway.core.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4MB", 4_000_000),
        ("512Mi", 512 * 2**20),
        ("512MiB", 512 * 2**20),
        ("200KB", 200_000),
        ("1 Gi", 2**30),
        ("64k", 64_000),
        ("17", 17),
        ("17B", 17),
    ],
)
def test_a_size_is_decimal_or_with_an_i_binary(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "MB", "-4MB", "4.5MB", "4 apples", "0x10", "1e3", "9" * 40])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write 512Ki"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("30m", 1800.0),
        ("500ms", 0.5),
        ("2h", 7200.0),
        ("1d", 86_400.0),
        ("1.5s", 1.5),
        ("45", 45.0),
    ],
)
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("text", ["", "m", "-3s", "inf", "nan", "1e9", "3 weeks"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write 500ms"):
        parse_duration(text)


@pytest.mark.parametrize("value", [5, 2.5, None, [1]])
def test_anything_but_text_passes_to_the_next_check(value: object) -> None:
    assert parse_size(value) is value
    assert parse_duration(value) is value
