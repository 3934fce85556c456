"""Charts as SVG inside a page: bars, lines, a histogram, a disk and a tree; numbers and no script.

Colours are classes of ``report.css``, so that a chart follows the light or dark theme. Each chart
has a text for a screen reader, and what it shows can be read as numbers beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.gallery.markup import Markup, escape

if TYPE_CHECKING:
    from hyperpq.explore import CodewordDisk, Tree

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 34
_SERIES = 6


def bars(values: Sequence[float], label: str, *, axis: str, top: float | None = None) -> Markup:
    """A bar for each value, numbered from 0.

    Parameters
    ----------
    values : sequence of float
        Values; the axis begins at 0.
    label : str
        What the chart shows, for a screen reader.
    axis : str
        What is counted along the horizontal axis.
    top : float, optional
        The end of the vertical axis; the largest value by default.
    """
    low, high = min(0.0, *values), max(0.0, *values, top or 0.0)
    frame = _Frame((-0.5, len(values) - 0.5), (low, high))
    width = max(1.0, min(40.0, frame.width / len(values) * 0.72))
    parts = [frame.axes(axis, whole=True)]
    for number, value in enumerate(values):
        y, base = frame.y(value), frame.y(0.0)
        parts.append(
            f'<rect class="c0" x="{frame.x(number) - width / 2:.1f}" y="{min(y, base):.1f}" '
            f'width="{width:.1f}" height="{abs(base - y):.1f}">'
            f"<title>{number}: {_text(value)}</title></rect>"
        )
    return _svg(label, parts)


def lines(
    series: Mapping[str, Sequence[float]], x: Sequence[float], label: str, *, axis: str
) -> Markup:
    """A line for each series over common values of x."""
    values = [value for own in series.values() for value in own]
    frame = _Frame((min(x), max(x)), (min(values), max(values)))
    parts = [frame.axes(axis)]
    for number, (name, own) in enumerate(series.items()):
        points = " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in zip(x, own, strict=True))
        parts.append(
            f'<polyline class="l{number % _SERIES}" points="{points}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return _svg(label, parts, legend=list(series) if 1 < len(series) <= _SERIES else [])


def histogram(
    series: Mapping[str, NDArray[np.float64]], label: str, *, axis: str, bins: int = 48
) -> Markup:
    """Shares of the values of each series in common bins."""
    low = min(float(own.min()) for own in series.values())
    high = max(float(own.max()) for own in series.values())
    if high <= low:
        high = low + 1.0
    edges = np.linspace(low, high, bins + 1)
    shares = {name: np.histogram(own, edges)[0] / len(own) * 100 for name, own in series.items()}
    frame = _Frame((low, high), (0.0, max(float(own.max()) for own in shares.values())))
    parts = [frame.axes(axis)]
    for number, (name, own) in enumerate(shares.items()):
        corners = [(low, 0.0)]
        for left, right, share in zip(edges[:-1], edges[1:], own.tolist(), strict=True):
            corners += [(float(left), share), (float(right), share)]
        corners.append((high, 0.0))
        points = " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in corners)
        parts.append(
            f'<polygon class="a{number % _SERIES}" points="{points}">'
            f"<title>{escape(name)}</title></polygon>"
        )
    return _svg(label, parts, legend=list(series))


def disk(shown: CodewordDisk, label: str) -> Markup:
    """The codewords of a subspace, each as large as it is used, with rings at equal distances.

    It is drawn up to the farthest codeword. An unused codeword is a hollow circle.
    """
    size, radii = 240, np.linalg.norm(shown.positions, axis=1)
    reach = float(radii.max()) * 1.1 or 1.0
    largest = max(1, int(shown.usage.max()))
    parts = []
    step = _nice(float(shown.distances.max()) / 2)
    for distance in np.arange(1, 5) * step:
        ring = _radius(shown, float(distance)) / reach * size / 2
        if 0 < ring <= size / 2:
            parts.append(f'<circle class="ring" cx="120" cy="120" r="{ring:.1f}"/>')
            if ring < 106:
                parts.append(_words(120, 117 - ring, f"{distance:g}", anchor="middle"))
    for (x, y), usage in zip(shown.positions.tolist(), shown.usage.tolist(), strict=True):
        place = f'cx="{120 + x / reach * 120:.1f}" cy="{120 - y / reach * 120:.1f}"'
        if usage:
            parts.append(
                f'<circle class="c0 soft" {place} r="{1 + 5 * (usage / largest) ** 0.5:.1f}"/>'
            )
        else:
            parts.append(f'<circle class="hollow" {place} r="2.5"/>')
    return Markup(
        f'<svg class="disk" viewBox="0 0 {size} {size}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def icicle(tree: Tree, label: str) -> Markup:
    """The clusters of a tree: one line for each level, each cluster as wide as it is large."""
    width, line = 960, 44
    n, top = max(1, len(tree.ids)), max((c.spread for c in tree.clusters), default=0.0) or 1.0
    parts = []
    for level in range(len(tree.levels)):
        for cluster in tree.at_level(level):
            x, wide = cluster.start / n * width, cluster.size / n * width
            shade = min(5, int(6 * cluster.spread / top))
            parts.append(
                f'<rect class="s{shade}" x="{x:.2f}" y="{level * line}" width="{wide:.2f}" '
                f'height="{line - 2}">'
                f"<title>{escape(cluster.title)}: {cluster.size:,}</title></rect>"
            )
            room = int((wide - 8) / 6.2)
            if room >= 4:
                name = (
                    cluster.title if len(cluster.title) <= room else cluster.title[: room - 1] + "…"
                )
                parts.append(_words(x + 5, level * line + 18, name, kind="name"))
                parts.append(_words(x + 5, level * line + 34, f"{cluster.size:,}", kind="count"))
    height = line * len(tree.levels)
    return Markup(
        f'<svg class="icicle" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


class _Frame:
    """Where values are in a chart, and its axes."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self._across, self._up = _widened(across), _widened(up)
        self.width, self.height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(self, value: float) -> float:
        low, high = self._across
        return _LEFT + (value - low) / (high - low) * self.width

    def y(self, value: float) -> float:
        low, high = self._up
        return _TOP + (high - value) / (high - low) * self.height

    def axes(self, axis: str, *, whole: bool = False) -> str:
        """Lines and numbers of both axes, and what is along the horizontal one."""
        parts = []
        for tick in _ticks(*self._up):
            y = self.y(tick)
            parts.append(
                f'<line class="grid-line" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(_words(_LEFT - 6, y + 4, _text(tick), anchor="end"))
        for tick in _ticks(*self._across):
            if whole and tick != int(tick):
                continue
            place = self.x(tick), _HEIGHT - _BOTTOM + 15
            parts.append(_words(*place, _text(tick), anchor="middle"))
        parts.append(_words(_WIDTH - _RIGHT, _HEIGHT - 3, axis, anchor="end"))
        return "".join(parts)


def _svg(label: str, parts: Sequence[str], legend: Sequence[str] = ()) -> Markup:
    names = "".join(
        f'<li><svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">'
        f'<rect class="c{number}" width="12" height="12" rx="2"/></svg> {escape(name)}</li>'
        for number, name in enumerate(legend)
    )
    listed = f'<ul class="legend">{names}</ul>' if names else ""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>{listed}'
    )


def _words(x: float, y: float, text: str, *, kind: str = "tick", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _nice(step: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is no larger."""
    if not step > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return power * max(factor for factor in (1, 2, 5) if factor * power <= step * (1 + 1e-9))


def _ticks(low: float, high: float) -> list[float]:
    step = _nice((high - low) / 4)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 10):.4g}"


def _radius(shown: CodewordDisk, distance: float) -> float:
    """Where a distance to the centre is on a disk."""
    if shown.geometry == "lorentz":
        return math.tanh(math.sqrt(-shown.curvature) * distance / 2)
    if shown.geometry == "sphere":
        angle = math.sqrt(shown.curvature) * distance
        return math.tan(angle / 2) if angle <= math.pi / 2 else 0.0
    return distance / (float(shown.distances.max()) or 1.0)
