"""Colours, marks and sizes that all figures share, and figures as bytes that do not depend on when they were drawn.

Colours are those of Okabe & Ito (2008), which colour-blind readers tell apart; a mark or a label always stands beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK, GREY = "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#767676"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)  # yellow is too pale on white
MARKS = ("o", "s", "^", "D", "v", "P", "X")
WIDE, NARROW = 7.2, 3.6  # inches: the column of a page, and the screen of a telephone

KIND_COLORS = {
    "wrong → right": BLUE,
    "right → wrong": VERMILLION,
    "right → right": GREEN,
    "wrong → wrong": GREY,
}


@dataclass(frozen=True)
class FigureSpec:
    """One figure of a report.

    Args:
        name: of its files.
        title: the heading over it.
        alt: what it shows, for those who do not see it.
        text: what one sees and what it means, in sentences.
        draw: makes the figure; told whether it is for a narrow screen.
        rows: the numbers it shows, for its CSV file.
    """

    name: str
    title: str
    alt: str
    text: str
    draw: Callable[[bool], Figure]
    rows: list[dict[str, Any]]


@contextmanager
def shared_style() -> Iterator[None]:
    """The style sheet of all figures."""
    import matplotlib

    with as_file(files("r2t2_jax.reporting") / "report.mplstyle") as sheet:
        settings = matplotlib.rc_params_from_file(sheet, use_default_template=False)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are: equal runs give equal bytes
        matplotlib.rcParams.update(settings)
        yield


def new_figure(narrow: bool, height: float, narrow_height: float | None = None) -> Figure:
    """An empty figure, `height` inches high, or `narrow_height` on a narrow screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(NARROW, narrow_height or height) if narrow else (WIDE, height))


@dataclass(frozen=True)
class Drawn:
    """A picture as bytes: the wide drawing as SVG and PNG, the narrow one as SVG."""

    wide: bytes
    narrow: bytes
    png: bytes


def render(picture: FigureSpec) -> Drawn:
    """Draw a picture; call it inside `shared_style`."""
    figure = picture.draw(False)
    wide = _svg(figure)
    return Drawn(wide, _svg(picture.draw(True)), _png(figure))


def _svg(figure: Figure) -> bytes:
    """Lay the figure out, for good, and draw it: `savefig` draws everything twice where something lays out."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    out = BytesIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _png(figure: Figure) -> bytes:
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(rcParams["savefig.dpi"])
    out = BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()
