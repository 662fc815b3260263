"""Charts as inline SVG, for every page: no script, no network, colours from the page's stylesheet.

Each chart is drawn twice, for wide and for narrow screens, because an SVG that is merely scaled down takes its
letters with it; the stylesheet shows the one that fits. Tooltips are `<title>` elements, which also print nothing
and are read aloud.
"""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape
from msgspec import Struct

from tunesmith.planning.figures import number

WIDE, NARROW = 720, 340
"""Widths in pixels at which charts are drawn; on the page they scale a little to either side."""

LETTER = 7.2
"""About the width of a letter of the charts' type, in pixels."""

MARKED_POINTS = 200
"""Points with a tooltip of their own per series."""


class Series(Struct, frozen=True):
    """One line: `style` is the class that colours it, `points` are (x, y) in ascending x; `dots` marks each."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


class Flag(Struct, frozen=True):
    """A verdict at an x of a line chart: its text is a tooltip, its style colours it."""

    at: float
    text: str
    style: str


class Point(Struct, frozen=True):
    """One point of a scatter chart; its text is a tooltip, its style colours it."""

    x: float
    y: float
    text: str
    style: str


class Range(Struct, frozen=True):
    """A value with its interval on an interval chart."""

    name: str
    style: str
    value: float
    low: float
    high: float


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    marker: tuple[float, str] | None = None,
    flags: Sequence[Flag] = (),
) -> Markup:
    """Lines over a common x axis with ticks, a grid and tooltips; `marker` is a labelled vertical line at an x.

    A line of more points than the chart has pixels is thinned.
    """
    return _both(lambda width: _lines(series, x_label, y_label, marker, flags, width, 300 if width == WIDE else 240))


def thinned(points: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    """About `most` of `points`: of each stretch its lowest and its highest, so no spike is lost, and both ends."""
    if len(points) <= most:
        return points
    stretch = math.ceil(2 * len(points) / most)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), stretch):
        places = range(start, min(start + stretch, len(points)))
        kept |= {min(places, key=lambda place: points[place][1]), max(places, key=lambda place: points[place][1])}
    return [points[place] for place in sorted(kept)]


def scatter_chart(points: Sequence[Point], *, x_label: str, y_label: str, logarithmic: bool = False) -> Markup:
    """Points over an x axis, `logarithmic` where their x span orders of magnitude; the last point lies on top."""
    return _both(lambda width: _scatter(points, x_label, y_label, width, logarithmic=logarithmic))


def difference_chart(differences: Sequence[float], *, y_label: str) -> Markup:
    """One column a row, the largest gain first, up where the second model is better and down where it is worse."""
    return _both(lambda width: _differences(sorted(differences, reverse=True), y_label, width))


def bar_chart(bars: Sequence[tuple[str, float]], *, unit: str) -> Markup:
    """Horizontal bars with their labels and values, in the order given."""
    return _both(lambda width: _bars(bars, unit, width))


def histogram(values: Sequence[float], *, x_label: str, bins: int = 24) -> Markup:
    """How many of `values` fall into each of equal steps of a round width."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / bins or 1)
    start = math.floor(low / step) * step
    counts = [0] * (int((high - start) // step) + 1)
    for value in values:
        counts[int((value - start) // step)] += 1
    edges = [(start + index * step, count) for index, count in enumerate(counts)]
    return _both(lambda width: _columns(edges, step, x_label, width))


def interval_chart(ranges: Sequence[Range]) -> Markup:
    """Values with their intervals on one scale, one under the other; small enough for a table's cell."""
    width, row = 180, 18
    low, high = min(r.low for r in ranges), max(r.high for r in ranges)
    x = _scale(low, high, 8, width - 8)
    parts = []
    for index, item in enumerate(ranges):
        y = 11 + index * row
        title = f"<title>{escape(item.name)}: {item.value:.4g} ({item.low:.4g} to {item.high:.4g})</title>"
        parts.append(
            f'<g class="{item.style}">{title}<line x1="{x(item.low):.1f}" x2="{x(item.high):.1f}" y1="{y}" y2="{y}" '
            f'class="whisker"/><circle cx="{x(item.value):.1f}" cy="{y}" r="4.5" class="dot"/></g>'
        )
    height = 4 + len(ranges) * row
    label = "; ".join(f"{item.name} {item.value:.4g}" for item in ranges)
    return _svg(width, height, label, parts)


def range_chart(ranges: Sequence[Range], *, x_label: str, marker: tuple[float, str]) -> Markup:
    """Values with their intervals, one a row with its name, over one axis; `marker` is a labelled vertical line."""
    return _both(lambda width: _ranges(ranges, x_label, marker, width))


def stacked_bar(parts: Sequence[tuple[str, str, float]], total: float) -> Markup:
    """One horizontal bar of parts (name, style, value), as shares of `total`."""
    width, height, left = WIDE, 16, 0.0
    drawn = []
    for name, style, value in parts:
        size = width * value / total if total else 0.0
        drawn.append(
            f'<rect class="{style}" x="{left:.1f}" y="0" width="{size:.1f}" height="{height}">'
            f"<title>{escape(name)}: {value / total:.0%}</title></rect>"
        )
        left += size
    label = ", ".join(f"{name} {value / total:.0%}" for name, _, value in parts)
    return _svg(width, height, label, drawn, stretch=True)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    step = _round_step((high - low) / max(count, 1) or 1)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    marker: tuple[float, str] | None,
    flags: Sequence[Flag],
    width: int,
    height: int,
) -> Markup:
    right, top, bottom = 12, 14, 40
    points = [point for line in series for point in line.points]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    padding = (y_high - y_low) * 0.06 or 0.5
    y_low, y_high = 0.0 if 0 <= y_low <= padding else y_low - padding, y_high + padding
    y_ticks = ticks(y_low, y_high, 5)
    left = max(48.0, 14 + LETTER * max(len(_tick(tick)) for tick in y_ticks))
    x = _scale(x_low, x_high, left, width - right)
    y = _scale(y_low, y_high, height - bottom, top)

    parts = _y_axis(y, y_ticks, left, width - right)
    parts += _x_axis(x, ticks(x_low, x_high, 8 if width == WIDE else 5), x_label, left, width - right, height - bottom)
    parts.append(f'<text class="label" x="{left}" y="{top - 3}">{escape(y_label)}</text>')
    if marker is not None:
        at, name = marker
        anchor = "end" if x(at) > width / 2 else "start"
        shift = -6 if anchor == "end" else 6
        parts.append(f'<line class="marker" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(
            f'<text class="label" x="{x(at) + shift:.1f}" y="{top + 10}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    for index, flag in enumerate(flags):
        level = top + 18 + 20 * sum(abs(x(other.at) - x(flag.at)) < 18 for other in flags[:index])
        parts.append(
            f'<g class="flag {flag.style}"><title>{escape(flag.text)}</title>'
            f'<line x1="{x(flag.at):.1f}" x2="{x(flag.at):.1f}" y1="{level}" y2="{height - bottom}"/>'
            f'<circle cx="{x(flag.at):.1f}" cy="{level}" r="8"/>'
            f'<text x="{x(flag.at):.1f}" y="{level + 4}" text-anchor="middle">!</text></g>'
        )
    for line in series:
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in thinned(line.points, width))
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        parts += _marks(line, x_label, x, y)
    label = f"{y_label} by {x_label}: " + ", ".join(line.name for line in series)
    return _svg(width, height, label, parts)


def _scatter(points: Sequence[Point], x_label: str, y_label: str, width: int, *, logarithmic: bool) -> Markup:
    left, right, top, bottom, height = 48, 20, 14, 40, 240
    low, high = min(point.x for point in points), max(point.x for point in points)
    axis: Callable[[float], float] = math.log10 if logarithmic else float
    scale = _scale(axis(low), axis(high), left + 16, width - right)
    at = sorted({point.x for point in points})
    if logarithmic:
        at = [
            digit * 10.0**power for power in range(-9, 1) for digit in (1, 2, 5) if low <= digit * 10.0**power <= high
        ]

    def x(value: float) -> float:
        return scale(axis(value))

    y_low, y_high = min(point.y for point in points), max(point.y for point in points)
    padding = (y_high - y_low) * 0.08 or 0.5
    y = _scale(y_low - padding, y_high + padding, height - bottom, top)
    parts = _y_axis(y, ticks(y_low - padding, y_high + padding, 5), left, width - right)
    parts += _x_axis(x, at, x_label, left, width - right, height - bottom)
    parts.append(f'<text class="label" x="{left}" y="{top - 3}">{escape(y_label)}</text>')
    parts += [
        f'<g class="{point.style}"><circle class="dot" cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="5">'
        f"<title>{escape(point.text)}</title></circle></g>"
        for point in points
    ]
    return _svg(width, height, f"{y_label} by {x_label}: {len(points)} points", parts)


def _differences(differences: Sequence[float], y_label: str, width: int) -> Markup:
    left, right, top, bottom, height = 48, 12, 14, 14, 160
    y = _scale(min(0.0, *differences), max(0.0, *differences, 1e-9), height - bottom, top)
    step = (width - left - right) / len(differences)
    parts = _y_axis(y, ticks(min(0.0, *differences), max(0.0, *differences), 4), left, width - right)
    parts.append(f'<text class="label" x="{left}" y="{top - 3}">{escape(y_label)}</text>')
    for index, value in enumerate(differences):
        style = "gain" if value > 0 else "loss" if value < 0 else "same"
        parts.append(
            f'<rect class="{style}" x="{left + index * step:.1f}" y="{min(y(0), y(value)):.1f}" '
            f'width="{max(step - 0.5, 0.5):.1f}" height="{max(abs(y(value) - y(0)), 0.5):.1f}">'
            f"<title>{value:+.3g}</title></rect>"
        )
    return _svg(width, height, f"{y_label}, row by row", parts)


def _marks(line: Series, x_label: str, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    step = math.ceil(len(line.points) / MARKED_POINTS)
    shape = 'r="3.5" class="dot' if line.dots else 'r="7" class="hit'
    return [
        f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" {shape} {line.style}">'
        f"<title>{escape(line.name)}, {escape(x_label)} {px:g}: {py:.4g}</title></circle>"
        for px, py in line.points[::step]
    ]


def _bars(bars: Sequence[tuple[str, float]], unit: str, width: int) -> Markup:
    row, gutter = 26, min(max(len(name) for name, _ in bars), 24 if width == WIDE else 14) * LETTER + 14
    room = width - gutter - 84
    largest = max((value for _, value in bars), default=1) or 1
    parts = []
    for index, (name, value) in enumerate(bars):
        y, size = index * row + 4, room * value / largest
        shown = name if len(name) * LETTER + 14 <= gutter + 1 else name[: int(gutter / LETTER) - 3] + "…"
        parts.append(
            f"<g><title>{escape(name)}: {value:,g} {escape(unit)}</title>"
            f'<text class="name" x="{gutter - 8:.0f}" y="{y + 14}" text-anchor="end">{escape(shown)}</text>'
            f'<rect class="bar" x="{gutter:.0f}" y="{y}" width="{max(size, 1):.1f}" height="{row - 8}" rx="2"/>'
            f'<text class="tick" x="{gutter + size + 6:.1f}" y="{y + 14}">{value:,g}</text></g>'
        )
    return _svg(width, len(bars) * row + 6, f"{len(bars)} bars, {unit}", parts)


def _ranges(ranges: Sequence[Range], x_label: str, marker: tuple[float, str], width: int) -> Markup:
    row, top, gutter = 26, 22, 250 if width == WIDE else 12
    step = row if width == WIDE else 2 * row - 8  # on narrow screens the name stands above its interval
    bottom = top + step * len(ranges)
    low = min(0.0, *(item.low for item in ranges))
    high = max(marker[0], *(item.high for item in ranges))
    x = _scale(low, high, gutter, width - 16)
    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>'
        for tick in ticks(low, high, 5)
    ]
    parts.append(f'<line class="marker" x1="{x(marker[0]):.1f}" x2="{x(marker[0]):.1f}" y1="{top - 4}" y2="{bottom}"/>')
    parts.append(f'<text class="label" x="{x(marker[0]):.1f}" y="12" text-anchor="end">{escape(marker[1])}</text>')
    for index, item in enumerate(ranges):
        y = top + index * step + step - row / 2
        name = f'x="{gutter - 12}" y="{y + 4}" text-anchor="end"' if width == WIDE else f'x="0" y="{y - 12}"'
        parts.append(
            f'<g class="{item.style}"><title>{escape(item.name)}: {item.value:.4g} ({item.low:.4g} to {item.high:.4g})'
            f'</title><text class="name" {name}>{escape(item.name)}</text>'
            f'<line x1="{x(item.low):.1f}" x2="{x(item.high):.1f}" y1="{y}" y2="{y}" class="whisker"/>'
            f'<circle cx="{x(item.value):.1f}" cy="{y}" r="4.5" class="dot"/></g>'
        )
    parts += _x_axis(x, ticks(low, high, 5), x_label, gutter, width - 16, bottom)
    return _svg(width, bottom + 38, f"{x_label}: " + ", ".join(f"{r.name} {r.value:.4g}" for r in ranges), parts)


def _columns(edges: Sequence[tuple[float, int]], step: float, x_label: str, width: int) -> Markup:
    left, right, top, bottom, height = 44, 12, 14, 38, 200
    largest = max(count for _, count in edges)
    x = _scale(edges[0][0], edges[-1][0] + step, left, width - right)
    y = _scale(0, largest * 1.05, height - bottom, top)
    parts = _y_axis(y, ticks(0, largest, 4), left, width - right)
    for start, count in edges:
        wide = max(x(start + step) - x(start) - 1, 1)
        parts.append(
            f'<rect class="bar" x="{x(start):.1f}" y="{y(count):.1f}" width="{wide:.1f}" '
            f'height="{height - bottom - y(count):.1f}"><title>{start:g} to {start + step:g}: {count:,}</title></rect>'
        )
    x_ticks = ticks(edges[0][0], edges[-1][0] + step, 8 if width == WIDE else 5)
    parts += _x_axis(x, x_ticks, x_label, left, width - right, height - bottom)
    return _svg(width, height, f"Histogram of {x_label}", parts)


def _y_axis(y: Callable[[float], float], at: Sequence[float], left: float, right: float) -> list[str]:
    """Grid lines with their values to the left."""
    return [
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_tick(tick)}</text>'
        for tick in at
    ]


def _x_axis(
    x: Callable[[float], float], at: Sequence[float], label: str, left: float, right: float, y: float
) -> list[str]:
    """The axis with its values below and its label at the right end."""
    return [
        *(
            f'<text class="tick" x="{min(x(tick), right - LETTER * len(_tick(tick)) / 2 + 10):.1f}" y="{y + 18}" '
            f'text-anchor="middle">{_tick(tick)}</text>'
            for tick in at
        ),
        f'<line class="axis" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>',
        f'<text class="label" x="{right}" y="{y + 34}" text-anchor="end">{escape(label)}</text>',
    ]


def _tick(value: float) -> str:
    return f"{value:,.6g}" if abs(value) >= 1000 else number(value)


def _both(draw: Callable[[int], Markup]) -> Markup:
    return Markup('<div class="chart wide">{}</div><div class="chart narrow">{}</div>').format(draw(WIDE), draw(NARROW))


def _svg(width: float, height: float, label: str, parts: Sequence[str], *, stretch: bool = False) -> Markup:
    # Every part is made here, from numbers, class names and escaped text.
    ratio = ' preserveAspectRatio="none"' if stretch else ""
    head = f'<svg viewBox="0 0 {width:g} {height:g}"{ratio} role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough - 1e-12)
