"""Axes of a drawing: scales, ticks, grid and labels, and legends next to them; all lengths in points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from r2t2_jax.reporting.drawing import INK, TEXT_SIZE, TICK_SIZE, Drawing, Point, fit_text, text_width
from r2t2_jax.reporting.formatting import true_minus

FRAME, GRID = "#767676", "#dddddd"
TICK, PAD, LINE_HEIGHT = 3.0, 3.0, 12.0
KEY, KEY_GAP = 14.0, 12.0  # width of a sample in a legend, and the distance of its columns
WIDEST_LABEL = 0.42  # of the drawing; longer names of categories are cut
NICE_STEPS = (1, 2, 2.5, 5, 10)


class Area(NamedTuple):
    """A rectangle of a drawing."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Axis:
    """One axis: its limits, of which the first is at the left or at the bottom, and its ticks with their labels.

    Args:
        low, high: the limits.
        ticks: labels by value.
        label: of the axis.
        grid: whether lines go through the ticks.
        is_log: whether the scale is logarithmic.
        has_marks: whether the ticks have marks.
        angle: of the labels of a horizontal axis in degrees.
    """

    low: float
    high: float
    ticks: Mapping[float, str]
    label: str = ""
    grid: bool = False
    is_log: bool = False
    has_marks: bool = True
    angle: float = 0

    def share(self, value: float) -> float:
        """Where a value is: 0 at `low`, 1 at `high`."""
        low, high, value = (math.log(each) if self.is_log else each for each in (self.low, self.high, value))
        return (value - low) / (high - low)


def number_axis(low: float, high: float, label: str = "", grid: bool = False, most: int = 8) -> Axis:
    """A linear axis with at most about `most` ticks at round numbers."""
    exponent = math.floor(math.log10((high - low) / most))
    step = next(nice * 10**exponent for nice in NICE_STEPS if nice * 10**exponent * most >= (high - low) * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step)))
    digits += round(step * 10**digits, 6) % 1 != 0  # steps of 2.5
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = {number * step: true_minus(f"{number * step:,.{digits}f}") for number in range(first, last + 1)}
    return Axis(low, high, ticks, label, grid)


def with_margin(values: Sequence[float], share: float = 0.05) -> tuple[float, float]:
    """Limits around the values with a margin on both sides."""
    low, high = min(values), max(values)
    margin = share * (high - low) or 1.0
    return low - margin, high + margin


def name_axis(names: Sequence[str], label: str = "", angle: float = 0, downward: bool = False) -> Axis:
    """An axis with a name at each whole number, downward if it is vertical and the first is on top."""
    low, high = -0.5, len(names) - 0.5
    limits = (high, low) if downward else (low, high)
    return Axis(*limits, dict(enumerate(names)), label, has_marks=False, angle=angle)


def margins(drawing: Drawing, x: Axis, y: Axis, title: str = "") -> Area:
    """The room that ticks, labels and the title (lines separated by newlines) take on each side."""
    shown_y = [_shown(drawing, label) for label in y.ticks.values()]
    left = max(map(text_width, shown_y), default=0) + PAD + TICK * y.has_marks + (LINE_HEIGHT + 2) * bool(y.label)
    if x.angle:
        turn, shown = math.radians(x.angle), [_shown(drawing, label) for label in x.ticks.values()]
        height = max(map(text_width, shown)) * math.sin(turn) + TICK_SIZE * math.cos(turn)
        right = 2.0
    else:
        height = LINE_HEIGHT * max((label.count("\n") + 1 for label in x.ticks.values()), default=0)
        last = [label for value, label in x.ticks.items() if 0 <= x.share(value) <= 1][-1:]
        right = 2 + sum(text_width(label) / 2 for label in last) * (not y.ticks or max(map(x.share, x.ticks)) > 0.9)
    below = PAD + TICK * x.has_marks + height
    label_lines = (x.label.count("\n") + 1) * bool(x.label)
    below += LINE_HEIGHT * label_lines + 2 * bool(x.label)
    above = (LINE_HEIGHT + 1) * (title.count("\n") + 1) + 3 if title else 5
    return Area(left, above, right, below)


def _shown(drawing: Drawing, label: str) -> str:
    return fit_text(label, WIDEST_LABEL * drawing.width)


@dataclass(frozen=True)
class Axes:
    """A pair of axes in an area of a drawing, which `draw_axes` has drawn; shapes have positions in data."""

    drawing: Drawing
    area: Area
    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> Point:
        """The position of a point in the drawing."""
        left, top, right, bottom = self.area
        return left + (right - left) * self.x.share(x), bottom - (bottom - top) * self.y.share(y)

    def line(
        self,
        points: Sequence[Point],
        color: str,
        width: float = 1.6,
        marker: str = "",
        opacity: float = 1,
    ) -> None:
        """A line through points, with a marker at each if one is set."""
        places = [self.at(*point) for point in points]
        if len(places) > 1:
            self.drawing.line(places, color, width, opacity=opacity)
        for place in places if marker else ():
            self.drawing.marker(place, marker, color, size=3.5)

    def marker(self, x: float, y: float, shape: str, color: str, edge: str = "", size: float = 5.5) -> None:
        """One marker."""
        self.drawing.marker(self.at(x, y), shape, color, edge, size)

    def bar(self, corner: Point, opposite: Point, color: str, edge: str = "") -> None:
        """A rectangle between two points."""
        (x1, y1), (x2, y2) = self.at(*corner), self.at(*opposite)
        self.drawing.rectangle((min(x1, x2), min(y1, y2)), (abs(x2 - x1), abs(y2 - y1)), color, edge)

    def dashed_line(self, x: float | None = None, y: float | None = None) -> None:
        """A dashed line over the whole area, at a value of x or of y."""
        ends: list[Point] = []
        if x is not None:
            ends = [(x, self.y.low), (x, self.y.high)]
        if y is not None:
            ends = [(self.x.low, y), (self.x.high, y)]
        self.drawing.line([self.at(*end) for end in ends], "#000000", 0.9, dash="3.6 2.7")


def draw_axes(drawing: Drawing, area: Area, x: Axis, y: Axis, title: str = "", around: Area | None = None) -> Axes:
    """Draw frame, grid, ticks and labels; axes in one row or column share the room `around` them."""
    room = margins(drawing, x, y, title) if around is None else around
    inner = Area(area.left + room.left, area.top + room.top, area.right - room.right, area.bottom - room.bottom)
    axes = Axes(drawing, inner, x, y)
    _draw_grid(axes)
    _draw_ticks(axes)
    for number, line in enumerate(title.split("\n")):
        last = number - title.count("\n")
        drawing.text((inner.left, inner.top - 10 + last * (LINE_HEIGHT + 1)), line, size=9.5, color=INK, bold=True)
    for number, line in enumerate(x.label.split("\n")):
        half = text_width(line, TEXT_SIZE) / 2
        middle = min(max((inner.left + inner.right) / 2, half), drawing.width - half)
        place = middle, area.bottom - LINE_HEIGHT * (x.label.count("\n") - number) - 7
        drawing.text(place, line, "middle", TEXT_SIZE)
    if y.label:
        drawing.text((area.left + 5, (inner.top + inner.bottom) / 2), y.label, "middle", TEXT_SIZE, angle=90)
    return axes


def _draw_grid(axes: Axes) -> None:
    """The lines through the ticks, and the left and the lower edge of the area."""
    left, top, right, bottom = axes.area
    for value in axes.x.ticks if axes.x.grid else ():
        if 0 <= axes.x.share(value) <= 1:
            x, _ = axes.at(value, axes.y.low)
            axes.drawing.line([(x, top), (x, bottom)], GRID, 0.7)
    for value in axes.y.ticks if axes.y.grid else ():
        if 0 <= axes.y.share(value) <= 1:
            _, y = axes.at(axes.x.low, value)
            axes.drawing.line([(left, y), (right, y)], GRID, 0.7)
    axes.drawing.line([(left, top), (left, bottom), (right, bottom)], FRAME, 0.8)


def _draw_ticks(axes: Axes) -> None:
    left, _, _, bottom = axes.area
    drawing = axes.drawing
    for value, label in axes.x.ticks.items():
        x, _ = axes.at(value, axes.y.low)
        below = bottom + TICK * axes.x.has_marks
        if axes.x.has_marks:
            drawing.line([(x, bottom), (x, below)], FRAME, 0.8)
        if axes.x.angle:
            drawing.text((x, below + 5), _shown(drawing, label), "end", angle=axes.x.angle)
            continue
        for number, line in enumerate(label.split("\n")):
            drawing.text((x, below + PAD + 4 + LINE_HEIGHT * number), line, "middle")
    for value, label in axes.y.ticks.items():
        _, y = axes.at(axes.x.low, value)
        if axes.y.has_marks:
            drawing.line([(left - TICK, y), (left, y)], FRAME, 0.8)
        drawing.text((left - TICK * axes.y.has_marks - PAD, y), _shown(drawing, label), "end")


Key = Callable[[Drawing, Point], None]  # draws the sample of a legend around a point


def marker_key(shape: str, color: str, edge: str = "", size: float = 5.5, with_line: bool = False) -> Key:
    """The sample of a marker, on a line if there is one."""

    def draw(drawing: Drawing, at: Point) -> None:
        if with_line:
            drawing.line([(at[0] - KEY / 2, at[1]), (at[0] + KEY / 2, at[1])], color)
        drawing.marker(at, shape, color, edge, size)

    return draw


def color_key(color: str, opacity: float = 1, hatched: bool = False) -> Key:
    """The sample of an area."""

    def draw(drawing: Drawing, at: Point) -> None:
        left, top = at[0] - KEY / 2, at[1] - 3
        outline = f"M{left:.1f} {top:.1f}h{KEY}v6h-{KEY}Z"
        drawing.area(outline, color, opacity, hatched)

    return draw


def draw_legend(
    drawing: Drawing, keys: Sequence[tuple[str, Key]], columns: int, top: float = 0, centered: bool = False
) -> None:
    """Samples and labels in rows from `top` on, at the right edge or centered; `legend_height` is their height."""
    if not keys:
        return
    labels = [fit_text(label, 0.8 * drawing.width / min(columns, 2)) for label, _ in keys]
    widths = [max(map(text_width, labels[column::columns])) for column in range(min(columns, len(labels)))]
    total = sum(widths) + len(widths) * (KEY + PAD) + (len(widths) - 1) * KEY_GAP
    start = (drawing.width - total) / (2 if centered else 1) - (0 if centered else 2)
    for number, (label, (_, draw)) in enumerate(zip(labels, keys, strict=True)):
        row, column = divmod(number, columns)
        x = start + sum(widths[:column]) + column * (KEY + PAD + KEY_GAP)
        y = top + LINE_HEIGHT * (row + 0.5)
        draw(drawing, (x + KEY / 2, y))
        drawing.text((x + KEY + PAD, y), label, color=INK)


def legend_height(labels: int, columns: int) -> float:
    """The height of a legend, with a gap to its axes."""
    return LINE_HEIGHT * math.ceil(labels / columns) + 4
