"""Drawings as SVG: shapes and texts at positions in points, y downward; and the same drawing as PNG.

Coordinates are written to a tenth of a point, so that a page with many figures stays small.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import escape

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Point = tuple[float, float]
Style = dict[str, float | str]  # attributes of an element

FAMILY = "DejaVu Sans"  # of which Matplotlib has the files; Verdana, which browsers have, is as wide
TEXT_SIZE, TICK_SIZE = 9.0, 8.5
INK, SOFT_INK = "#1a1a1a", "#333333"
PIXELS_PER_POINT = 200 / 72  # of a PNG
NO_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that no XML may have

MARKER_SHAPES = {  # outlines of markers of size 1; one that is not closed has no area
    "o": "M-.5 0A.5 .5 0 1 1 .5 0A.5 .5 0 1 1-.5 0Z",
    "s": "M-.5-.5H.5V.5H-.5Z",
    "^": "M0-.5L.5 .5H-.5Z",
    "v": "M0 .5L.5-.5H-.5Z",
    "D": "M0-.7L.7 0L0 .7L-.7 0Z",
    "d": "M0-.7L.42 0L0 .7L-.42 0Z",
    "P": "M-.17-.5H.17V-.17H.5V.17H.17V.5H-.17V.17H-.5V-.17H-.17Z",
    "X": "M-.5-.25L-.25-.5L0-.25L.25-.5L.5-.25L.25 0L.5 .25L.25 .5L0 .25L-.25 .5L-.5 .25L-.25 0Z",
    "|": "M0-.5V.5",
    "x": "M-.5-.5L.5 .5M-.5 .5L.5-.5",
}


class Drawing:
    """Shapes on a white rectangle; later shapes cover earlier ones.

    Args:
        width, height: in points.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._shapes: list[str] = []
        self._definitions: dict[str, str] = {}  # id by content

    def line(self, points: Sequence[Point], color: str, width: float = 1.6, dash: str = "", opacity: float = 1) -> None:
        """A line through the points."""
        data = "M" + "L".join(map(_pair, points))
        style: Style = {"stroke": color, "stroke-width": width, "stroke-dasharray": dash, **_opacity(opacity)}
        self._add("path", {"d": data, "fill": "none", **style})

    def area(self, outline: str, color: str, opacity: float = 1, hatched: bool = False) -> None:
        """The inside of an outline, which is the data of an SVG path."""
        self._add("path", {"d": outline, "fill": color, **_opacity(opacity)})
        if hatched:
            lines = f'<path d="M-1 5L5-1M1 7L7 1" stroke="{color}"/>'
            tile = f'<pattern id="%s" width="6" height="6" patternUnits="userSpaceOnUse">{lines}</pattern>'
            self._add("path", {"d": outline, "fill": f"url(#{self._define(tile)})"})

    def rectangle(self, corner: Point, size: Point, color: str, edge: str = "") -> None:
        """A rectangle with its left upper corner and its width and height."""
        (x, y), (width, height) = corner, size
        style: Style = {"stroke": edge, "stroke-width": 0.7} if edge else {}
        self._add("rect", {"x": x, "y": y, "width": width, "height": height, "fill": color, **style})

    def marker(self, at: Point, shape: str, color: str, edge: str = "", size: float = 5.5) -> None:
        """A marker of `MARKER_SHAPES`, whose edge has its color unless another is set."""
        outline = MARKER_SHAPES[shape]
        fill = color if outline.endswith("Z") else "none"
        style = f'fill="{fill}" stroke="{edge or color}" stroke-width="{1 / size:.2f}" transform="scale({size:g})"'
        name = self._define(f'<path id="%s" d="{outline}" {style}/>')
        self._add("use", {"href": f"#{name}", "x": at[0], "y": at[1]})

    def text(
        self,
        at: Point,
        text: str,
        anchor: str = "start",
        size: float = TICK_SIZE,
        color: str = SOFT_INK,
        bold: bool = False,
        angle: float = 0,
    ) -> None:
        """One line of text, whose `anchor` (start, middle or end) and vertical middle are at the position.

        Args:
            at: position.
            text: any; characters that XML does not admit are replaced.
            anchor: which part of the text is at the position.
            size: of the font.
            color: of the text.
            bold: whether it is bold.
            angle: in degrees, counterclockwise.
        """
        if not text:
            return
        x, y = at
        middle = 0.36 * size  # from the baseline to the middle of a small letter with ascender
        style: Style = {
            "x": x,
            "y": y + middle,
            "text-anchor": "" if anchor == "start" else anchor,
            "font-size": size,
            "fill": color,
            "font-weight": "bold" if bold else "",
            "transform": f"rotate({-angle:g} {_number(x)} {_number(y)})" if angle else "",
        }
        self._add("text", style, NO_XML.sub("�", " ".join(text.split())))

    def svg(self) -> bytes:
        """The drawing as an SVG file."""
        width, height = _number(self.width), _number(self.height)
        size = f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}"'
        named = [content % name for content, name in self._definitions.items()]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FAMILY},Verdana,sans-serif">'
            f'<defs>{"".join(named)}</defs><rect width="100%" height="100%" fill="white"/>{"".join(self._shapes)}</svg>'
        ).encode()

    def png(self) -> bytes:
        """The drawing as a PNG file. Letters that the font lacks are drawn as boxes."""
        import resvg_py

        fonts = [str(_font_file(bold)) for bold in (False, True)]
        return bytes(
            resvg_py.svg_to_bytes(
                svg_string=self.svg().decode(),
                width=round(self.width * PIXELS_PER_POINT),
                dpi=96,
                skip_system_fonts=True,
                font_files=fonts,
                sans_serif_family=FAMILY,
            )
        )

    def _define(self, content: str) -> str:
        """The id of a definition, which a drawing holds once."""
        return self._definitions.setdefault(content, f"d{len(self._definitions)}")

    def _add(self, tag: str, attributes: Style, content: str | None = None) -> None:
        """An element with the attributes that are not empty."""
        texts = {
            name: escape(value) if isinstance(value, str) else _number(value)
            for name, value in attributes.items()
            if value != ""
        }
        written = "".join(f' {name}="{text}"' for name, text in texts.items())
        self._shapes.append(f"<{tag}{written}/>" if content is None else f"<{tag}{written}>{escape(content)}</{tag}>")


def text_width(text: str, size: float = TICK_SIZE, bold: bool = False) -> float:
    """The width of a line of text in points."""
    return _font(bold).getlength(" ".join(text.split())) * size / FONT_UNITS


def fit_text(text: str, width: float, size: float = TICK_SIZE) -> str:
    """The text, cut and with an ellipsis where it is wider than this."""
    if text_width(text, size) <= width:
        return text
    length = next((n for n in range(min(len(text), 200), 0, -1) if text_width(f"{text[:n]}…", size) <= width), 0)
    return f"{text[:length].rstrip()}…"


def path_data(start: Point, *commands: tuple[str, Sequence[Point]]) -> str:
    """The data of an SVG path that is closed: letters, and the points that each takes."""
    return f"M{_pair(start)}" + "".join(letter + " ".join(map(_pair, points)) for letter, points in commands) + "Z"


FONT_UNITS = 100  # size at which widths are measured


@cache
def _font(bold: bool) -> FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(_font_file(bold), FONT_UNITS, layout_engine=ImageFont.Layout.BASIC)


def _font_file(bold: bool) -> Path:
    """The font's file, which Matplotlib brings; Matplotlib is not imported."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"


def _opacity(opacity: float) -> Style:
    return {} if opacity == 1 else {"opacity": f"{opacity:g}"}


def _number(value: float) -> str:
    """A number to a tenth, without a needless zero."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"
