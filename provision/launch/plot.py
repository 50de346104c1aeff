"""Line and bar charts as SVG text, for a report that needs no library and no network. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

#: A chart's size and the room around its axes, in SVG's units.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 220, 64, 14, 12, 30
#: So many points at most: a screen shows no more, and a long run has a hundred thousand steps.
MOST = 1200

Point = tuple[float, float | None]
Scale = Callable[[float], float]


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round numbers that span low to high: 1, 2 or 5 times a power of ten apart."""
    span = high - low or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        last += 1
    return tuple(i * step for i in range(first, last + 1))


def label(value: float) -> str:
    """A tick's number, short: 0.002, 1.5, 12k, 3e-05."""
    size = abs(value)
    if size >= 1000:
        return f"{value / 1000:g}k" if size < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.3g}"


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Every n-th point, and always the last."""
    every = max(1, math.ceil(len(points) / MOST))
    return [p for i, p in enumerate(points) if i % every == 0 or i == len(points) - 1]


def line_chart(title: str, points: Sequence[Point], unit: str = "") -> str:
    """Y over x; a y that is None (not a finite number) is a gap, and marked on the axis."""
    return lines_chart(title, {"": points}, unit)


def highest(lines: Mapping[str, Sequence[Point]]) -> str:
    """The name of the line whose middle value is the highest."""
    middles = {name: [y for _, y in line if y is not None] for name, line in lines.items()}
    return max(middles, key=lambda name: median(middles[name] or [-math.inf]))


def lines_chart(title: str, lines: Mapping[str, Sequence[Point]], unit: str = "") -> str:
    """One line for each name; of several the highest stands out, and is named."""
    points = [point for line in lines.values() for point in line]
    known = [(x, y) for x, y in points if y is not None]
    if not known:
        return ""
    ys, xs = ticks(min(y for _, y in known), max(y for _, y in known)), [x for x, _ in points]
    x_ticks = [t for t in ticks(min(xs), max(xs)) if min(xs) <= t <= max(xs)]
    wide = (max(xs) - min(xs)) or 1.0

    def at_x(x: float) -> float:
        return LEFT + (x - min(xs)) / wide * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(at_y(y), label(y)) for y in ys]
    parts += [
        f'<text class="t" x="{at_x(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{label(x)}</text>"
        for x in x_ticks
    ]
    top = highest(lines)
    for name, line in sorted(lines.items(), key=lambda item: item[0] == top):
        style = "l" if name == top else "o"
        parts += [_run(run, at_x, at_y, style) for run in _runs(thinned(line))]
    parts += [
        f'<circle class="bad" cx="{at_x(x):.1f}" cy="{HEIGHT - BOTTOM}" r="3"/>'
        for x, y in points
        if y is None
    ]
    last = next(y for _, y in reversed(lines[top]) if y is not None)
    named = f"{top} the highest, " if len(lines) > 1 else ""
    return _figure(f"{title}, {named}last {last:.4g}{unit}", "".join(parts), HEIGHT)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], unit: str = "") -> str:
    """A bar for each name."""
    if not bars:
        return ""
    top, row = max(value for _, value in bars) or 1.0, 20
    room = WIDTH - LEFT - RIGHT - 70
    parts = []
    for i, (name, value) in enumerate(bars):
        y, width = TOP + i * row, value / top * room
        parts.append(
            f'<text class="t" x="{LEFT - 6}" y="{y + 11}" text-anchor="end">{html.escape(name)}'
            f'</text><rect class="b" x="{LEFT}" y="{y}" width="{width:.1f}" height="14"/>'
            f'<text class="t" x="{LEFT + width + 6:.1f}" y="{y + 11}">{value:.3g}{unit}</text>'
        )
    return _figure(title, "".join(parts), 2 * TOP + row * len(bars))


def _grid(y: float, text: str) -> str:
    return (
        f'<line class="g" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="t" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _runs(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The points between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _run(run: Sequence[tuple[float, float]], at_x: Scale, at_y: Scale, style: str) -> str:
    where = [(at_x(x), at_y(y)) for x, y in run]
    if len(where) == 1:
        return f'<circle class="p" cx="{where[0][0]:.1f}" cy="{where[0][1]:.1f}" r="2.5"/>'
    return f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in where)}"/>'


def _figure(title: str, inside: str, height: int) -> str:
    name = html.escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{name}">{inside}</svg></figure>'
    )
