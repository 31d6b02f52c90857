"""Renders the HTML templates of `templates/`: self-contained pages that load nothing and run no script."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

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


def render_template(name: str, **context: Any) -> str:
    """The text of `templates/NAME` with the context filled in; every value is escaped for HTML."""
    return _environment().get_template(name).render(**context)


def anchor(name: str) -> str:
    """A model's name as a file name and an HTML id: every character but letters and digits becomes a dash."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def data_uri(content: bytes, media_type: str) -> str:
    """A file as a `data:` address, so that the page holds it itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def bar_width(share: float) -> str:
    """A share as the CSS width of a bar, from `0.0%` to `100.0%`."""
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


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
        "percent": percent,
        "plural": plural,
        "shorten": shorten,
        "signed": signed,
        "true_minus": true_minus,
    }
    environment.globals |= {"percent_interval": percent_interval, "signed_interval": signed_interval}
    return environment
