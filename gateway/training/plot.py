"""Charts as SVG, written by hand: horizontal bars and lines. No dependency, and no reading of results.

Texts are escaped; colours are told apart by people who see few of them. A chart is a value:

    Bars("Session start", "ms", {"cold": {"bubblewrap": 950.0}, "forked": {"bubblewrap": 43.0}}).write(path)
    Lines("Steps per second", "sessions", "steps/s", {"sandgate": [(1, 800), (16, 950)]}).write(path)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["Bars", "Lines"]

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f")
WIDTH, HEIGHT, TITLE, LEGEND, EDGE = 760, 420, 34, 24, 16
LETTER = 6.6
"""Width of a letter, on average: what labels need is estimated."""
BAR, GAP = 16, 10
STEPS = (1, 2, 2.5, 5, 10)
TICKS = 5


@dataclass(frozen=True)
class Bars:
    """Groups of bars: label -> series -> value. `log` draws decades, for values far apart."""

    title: str
    unit: str
    groups: Mapping[str, Mapping[str, float]]
    log: bool = False

    def svg(self) -> str:
        """Return the document."""
        names = list(dict.fromkeys(name for group in self.groups.values() for name in group))
        values = [value for group in self.groups.values() for value in group.values()]
        left = EDGE + 8 + LETTER * max((len(label) for label in self.groups), default=0)
        axis = _Axis.over([*values, 0.0], self.log, left, WIDTH - 90)
        top = TITLE + (LEGEND if len(names) > 1 else 0) + 8
        rows, bottom = list[str](), top
        for label, group in self.groups.items():
            height = BAR * len(group)
            rows.append(_text(left - 8, bottom + height / 2 + 4, label, anchor="end"))
            for place, (name, value) in enumerate(group.items()):
                rows += _bar(axis, bottom + place * BAR, value, COLOURS[names.index(name) % len(COLOURS)])
            bottom += height + GAP
        grid = [_line(axis.at(tick), top - 4, axis.at(tick), bottom) for tick in axis.ticks]
        marks = [_text(axis.at(tick), bottom + 14, _number(tick), anchor="middle") for tick in axis.ticks]
        foot = _text((left + WIDTH - 90) / 2, bottom + 32, self.unit, anchor="middle")
        legend = list(_legend(names)) if len(names) > 1 else []
        return _document(self.title, bottom + 44, [*grid, *marks, *rows, *legend, foot])

    def write(self, path: Path) -> None:
        """Write the document to `path`."""
        path.write_text(self.svg(), encoding="utf-8")


@dataclass(frozen=True)
class Lines:
    """Lines through points: series -> [(x, y), ...], `x` rising. `log_x` and `log_y` draw decades."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False

    def svg(self) -> str:
        """Return the document."""
        points = [point for line in self.series.values() for point in line]
        top = TITLE + LEGEND + 16
        across = _Axis.over([x for x, _ in points], self.log_x, 78, WIDTH - EDGE - 8)
        up = _Axis.over([y for _, y in points] + ([] if self.log_y else [0.0]), self.log_y, HEIGHT - 52, top)
        grid = [_line(across.begin, up.at(tick), across.end, up.at(tick)) for tick in up.ticks]
        marks = [_text(across.begin - 8, up.at(tick) + 4, _number(tick), anchor="end") for tick in up.ticks]
        xs = sorted({x for x, _ in points})
        below = xs if len(xs) <= 2 * TICKS else across.ticks
        marks += [_text(across.at(x), up.begin + 18, _number(x), anchor="middle") for x in below]
        drawn = [
            part
            for place, line in enumerate(self.series.values())
            for part in _polyline([(across.at(x), up.at(y)) for x, y in line], COLOURS[place % len(COLOURS)])
        ]
        names = [
            _text((across.begin + across.end) / 2, HEIGHT - 12, self.x, anchor="middle"),
            _text(EDGE, top - 10, self.y),
        ]
        return _document(self.title, HEIGHT, [*grid, *marks, *drawn, *_legend(list(self.series)), *names])

    def write(self, path: Path) -> None:
        """Write the document to `path`."""
        path.write_text(self.svg(), encoding="utf-8")


@dataclass(frozen=True)
class _Axis:
    """Values `low` to `high` over the pixels `begin` to `end`, with round marks."""

    low: float
    high: float
    log: bool
    begin: float
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], log: bool, begin: float, end: float) -> _Axis:
        if log:
            positive = [value for value in values if value > 0] or [1.0]
            first = math.floor(math.log10(min(positive)))
            last = max(math.ceil(math.log10(max(positive))), first + 1)
            ticks = tuple(10.0**power for power in range(first, last + 1))
        else:
            low, high = min(values, default=0.0), max(values, default=1.0)
            step = _round_step((high - low) or abs(high) or 1.0)
            first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
            ticks = tuple(step * number for number in range(first, last + 1))
        return cls(ticks[0], ticks[-1], log, begin, end, ticks)

    def at(self, value: float) -> float:
        """Return the pixel of a value; what a logarithm cannot show stands at the low end."""
        if self.log:
            value = max(value, self.low)
            part = math.log10(value / self.low) / math.log10(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)


def _round_step(span: float) -> float:
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    return next(power * step for step in STEPS if power * step * TICKS >= span * 0.999)


def _bar(axis: _Axis, top: float, value: float, colour: str) -> Iterator[str]:
    end = axis.at(value)
    yield (
        f'<rect x="{axis.begin:.1f}" y="{top + 1:.1f}" width="{max(1.0, end - axis.begin):.1f}" '
        f'height="{BAR - 2}" fill="{colour}"/>'
    )
    yield _text(max(axis.begin + 1, end) + 5, top + 12, _number(value))


def _polyline(points: Sequence[tuple[float, float]], colour: str) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    x = float(EDGE)
    for place, name in enumerate(names):
        colour = COLOURS[place % len(COLOURS)]
        yield f'<rect x="{x:.1f}" y="{TITLE + 4}" width="10" height="10" fill="{colour}"/>'
        yield _text(x + 15, TITLE + 13, name)
        x += 15 + LETTER * len(name) + 18


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#e3e3e3"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.1g}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#333">'
    )
    name = f'<text x="{EDGE}" y="22" font-size="15" font-weight="600">{escape(title)}</text>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', name, *parts, "</svg>"]) + "\n"
