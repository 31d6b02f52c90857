"""One self-contained page: nothing is loaded from anywhere, nothing is run."""

from __future__ import annotations

from importlib.resources import files

from r2t2_jax.reporting.markup import Html, tag


def page(title: str, *content: Html) -> str:
    """A whole HTML document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        style_element(),
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n{tag("body", tag("main", *content))}\n</html>\n'


def style_element() -> Html:
    """The style sheet, shared by reports and by answers shown in a notebook."""
    sheet = files("r2t2_jax.reporting").joinpath("report.css").read_text(encoding="utf-8")
    return tag("style", Html(sheet))  # ours, and free of "</"; escaping would break its quotes
