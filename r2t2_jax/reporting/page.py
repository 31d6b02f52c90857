"""Renders the HTML templates of `templates/`: pages that load nothing from elsewhere and need no scripts to be read."""

from __future__ import annotations

import base64
import math
import re
import string
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from r2t2_jax.reporting.formatting import (
    duration,
    join_names,
    percent,
    percent_interval,
    plural,
    shorten,
    signed,
    signed_interval,
    true_minus,
)

UNQUOTED = {*string.ascii_letters, *string.digits, *"-_.~!$()*,/:;=@'%"}  # in the address of a drawing


def render_template(name: str, **context: Any) -> str:
    """The text of `templates/NAME` with the context filled in; every value is escaped for HTML."""
    text = _environment().get_template(name).render(**context)
    return re.sub(r"\s*\n\s*", "\n", text)  # the indentation of templates would be a quarter of a page


def anchor(name: str) -> str:
    """A model's name as a file name and an HTML id: every character but letters and digits becomes a dash."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def data_uri(content: bytes, media_type: str) -> str:
    """A file as a `data:` address, so that the page holds it itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def svg_uri(drawing: bytes) -> str:
    """An SVG as a `data:` address with percent-encoded characters, which is shorter than base64."""
    text = drawing.decode("utf-8")
    text = re.sub(r"<[^<>']*>", lambda tag: tag[0].replace('"', "'"), text)  # a quotation mark takes three characters
    text = text.replace("%", "%25")
    for letter in set(text) - UNQUOTED:  # `quote` takes the time of every letter, even of those that it keeps
        text = text.replace(letter, quote(letter))
    return f"data:image/svg+xml,{text}"


def bar_width(share: float) -> str:
    """A share as the CSS width of a bar, from `0.0%` to `100.0%`."""
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def share_of(value: float, largest: float) -> str:
    """A value as the CSS position or width on an axis from 0 to `largest`."""
    return bar_width(value / largest if largest > 0 else 0.0)


def level(count: int, largest: int) -> str:
    """The CSS class of a cell that is the darker the larger its count is, `l1` to `l9`; empty for 0."""
    return f"l{max(1, math.ceil(9 * count / largest))}" if count else ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("r2t2_jax.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "anchor": anchor,
        "bar_width": bar_width,
        "data_uri": data_uri,
        "duration": duration,
        "join_names": join_names,
        "level": level,
        "percent": percent,
        "plural": plural,
        "share_of": share_of,
        "shorten": shorten,
        "signed": signed,
        "svg_uri": svg_uri,
        "true_minus": true_minus,
    }
    environment.globals |= {"percent_interval": percent_interval, "signed_interval": signed_interval}
    return environment
