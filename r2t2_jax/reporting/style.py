"""Colors, markers and sizes that all figures share, and figures rendered to reproducible bytes.

The colors are those of Okabe & Ito (2008), which color-blind readers can distinguish; no color is used without a marker
or a label.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK, GRAY = "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#767676"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)  # yellow is too pale on white
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDE, NARROW = 7.2, 3.6  # inches: the width of a page's column and of a phone's screen

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
    draw: Callable[[bool], Figure]
    rows: list[dict[str, Any]]


@contextmanager
def shared_style() -> Iterator[None]:
    """Draw with the style sheet of all figures and without the user's own settings."""
    import matplotlib

    with as_file(files("r2t2_jax.reporting") / "report.mplstyle") as sheet:
        settings = matplotlib.rc_params_from_file(sheet, use_default_template=False)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # user settings would change the bytes
        matplotlib.rcParams.update(settings)
        yield


def new_figure(narrow: bool, height: float, narrow_height: float | None = None) -> Figure:
    """An empty figure, `height` inches high, or `narrow_height` on a narrow screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(NARROW, narrow_height or height) if narrow else (WIDE, height))


@dataclass(frozen=True)
class FigureDrawing:
    """A rendered figure: the wide drawing as SVG and PNG, the narrow one as SVG."""

    wide: bytes
    narrow: bytes
    png: bytes


def render_figure(spec: FigureSpec, only_png: bool = False) -> FigureDrawing:
    """Render a figure; call it inside `shared_style`. Letters that the font lacks are drawn as boxes.

    With `only_png` the SVG drawings are empty, for figures that a page shows as tables.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = spec.draw(False)
        if only_png:
            return FigureDrawing(b"", b"", _png(figure))
        wide = _svg(figure)
        return FigureDrawing(wide, _svg(spec.draw(True)), _png(figure))


def _svg(figure: Figure) -> bytes:
    """Lay the figure out once and draw it; `savefig` would draw it twice because of the layout engine."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    out = BytesIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = out.getvalue().decode("utf-8")
    return _smaller(text).encode("utf-8")


def _smaller(svg: str) -> str:
    """An SVG without comments, unused ids, empty groups and needless digits; equal styles become one class."""
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r"(?s)^.*?(?=<svg )|<metadata>.*?</metadata>|<!--.*?-->", "", svg)
    names = {name: f"i{number}" for number, name in enumerate(sorted(used))}  # colors are among them
    svg = re.sub(r' id="([^"]*)"', lambda match: f' id="{names[match[1]]}"' if match[1] in names else "", svg)
    svg = re.sub(r'(href="#|url\(#)([\w-]+)', lambda match: match[1] + names[match[2]], svg)
    svg = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", svg.replace("xlink:href", "href"))
    svg = re.sub(r' (?:d|x|y|width|height|viewBox|transform)="[^"]*"', lambda match: _tenths(match[0]), svg)
    svg = re.sub(r' d="([^"]*)"', lambda match: f' d="{_smaller_path(match[1])}"', svg)
    classes: dict[str, str] = {}
    svg = re.sub(r'style="([^"]*)"', lambda match: f'class="{classes.setdefault(match[1], f"s{len(classes)}")}"', svg)
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    svg = svg.replace("</style>", f"{rules}</style>", 1)
    return _without_bare_groups(re.sub(r"\s*\n\s*", "\n", svg).replace(">\n<", "><"))


def _tenths(attribute: str) -> str:
    """An attribute with its numbers cut to tenths of a point."""
    return re.sub(r"(?<=\d)\.0(?!\d)", "", re.sub(r"(\.\d)\d+", r"\1", attribute))


def _smaller_path(path: str) -> str:
    """The data of an SVG path with each command letter next to its numbers, and not repeated."""
    commands, last = [], ""
    for letter, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
        values = " ".join(numbers.split())
        commands.append(f" {values}" if letter == last and letter in "LCQ" else letter + values)
        last = letter
    return "".join(commands)


def _without_bare_groups(svg: str) -> str:
    """The SVG without `<g>` elements that have no attributes."""
    bare: list[bool] = []
    kept = []
    for part in re.split(r"(<g\b[^>]*>|</g>)", svg):
        if part == "</g>":
            kept += [] if bare.pop() else [part]
        elif re.match(r"<g\b", part) and not part.endswith("/>"):
            bare.append(part == "<g>")
            kept += [] if bare[-1] else [part]
        elif part != "<g/>":
            kept.append(part)
    return "".join(kept)


def _png(figure: Figure) -> bytes:
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(rcParams["savefig.dpi"])
    out = BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()
