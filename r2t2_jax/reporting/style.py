"""Colors, markers and sizes that all figures share, and figures as files.

The colors are those of Okabe & Ito (2008), which color-blind readers can distinguish; no color is used without a marker
or a label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from r2t2_jax.reporting.drawing import Drawing

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK, GRAY = "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#767676"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)  # yellow is too pale on white
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDE, NARROW = 518.4, 259.2  # points: the width of a page's column and of a phone's screen

OUTCOME_COLORS = {
    "wrong → right": BLUE,
    "right → wrong": VERMILLION,
    "right → right": GREEN,
    "wrong → wrong": GRAY,
}


@dataclass(frozen=True)
class FigureSpec:
    """One figure of a report.

    Args:
        name: name of its files, without a suffix.
        title: heading above it.
        alt: alternative text for readers who cannot see it.
        text: caption: what it shows and what follows from it, in sentences.
        draw: draws the figure; its argument is whether the screen is narrow.
        rows: the numbers that it shows, for its CSV file.
    """

    name: str
    title: str
    alt: str
    text: str
    draw: Callable[[bool], Drawing]
    rows: list[dict[str, Any]]


def new_drawing(narrow: bool, height: float, narrow_height: float | None = None) -> Drawing:
    """An empty drawing, `height` points high, or `narrow_height` on a narrow screen."""
    return Drawing(NARROW, narrow_height or height) if narrow else Drawing(WIDE, height)


@dataclass(frozen=True)
class Figure:
    """A figure's texts and numbers, and its drawings for both widths."""

    spec: FigureSpec
    wide: Drawing
    narrow: Drawing


def draw_figure(spec: FigureSpec) -> Figure:
    """Draw a figure for both widths."""
    return Figure(spec, spec.draw(False), spec.draw(True))
