"""Charts are sound documents that show every name and value they were given, at its place."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.plot import Bars, Lines

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def numbers(svg: str, kind: str, attribute: str) -> list[float]:
    found = ElementTree.fromstring(svg).iter(SVG + kind)
    return [float(one.get(attribute, "")) for one in found if not one.get(attribute, "%").endswith("%")]


def test_bars_are_as_long_as_their_values_and_say_them(tmp_path: Path) -> None:
    Bars("a <title> & more", "ms", {"one": {"us": 10.0}, "two": {"us": 40.0}}).write(tmp_path / "bars.svg")
    svg = (tmp_path / "bars.svg").read_text()
    assert {"a <title> & more", "ms", "one", "two", "10", "40"} <= set(texts(svg))
    first, second = numbers(svg, "rect", "width")
    assert second == pytest.approx(4 * first, rel=0.01)


def test_bars_of_values_far_apart_grow_by_decades() -> None:
    svg = Bars("t", "ms", {"a": {"us": 1.0}, "b": {"us": 10.0}, "c": {"us": 100.0}}, log=True).svg()
    one, ten, hundred = numbers(svg, "rect", "width")
    assert hundred - ten == pytest.approx(ten - one, abs=1.1)


def test_lines_go_through_their_points_and_are_named(tmp_path: Path) -> None:
    Lines("t", "sessions", "steps/s", {"us": [(1, 100), (2, 200)], "peer": [(1, 50), (2, 50)]}).write(
        tmp_path / "lines.svg"
    )
    svg = (tmp_path / "lines.svg").read_text()
    assert {"sessions", "steps/s", "us", "peer"} <= set(texts(svg))
    low, high, flat, flat_too = numbers(svg, "circle", "cy")
    assert high < low < flat == flat_too


@pytest.mark.parametrize("values", [{}, {"one": {"us": 0.0}}, {"one": {"us": 0.0004}}])
def test_nothing_and_next_to_nothing_can_be_drawn(values: dict[str, dict[str, float]]) -> None:
    for log in (False, True):
        assert texts(Bars("t", "ms", values, log=log).svg())[0] == "t"
    assert texts(Lines("t", "x", "y", {"us": []}, log_y=True).svg())[0] == "t"
