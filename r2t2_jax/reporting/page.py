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
        _style("page.css", "card.css"),
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n{tag("body", tag("main", *content))}\n</html>\n'


def card_style() -> Html:
    """What cards need to look as they should, in a page or in a notebook."""
    return _style("card.css")


def _style(*names: str) -> Html:
    sheets = [files("r2t2_jax.reporting").joinpath(name).read_text(encoding="utf-8") for name in names]
    return tag("style", Html("".join(sheets)))  # ours, and free of "</"; escaping would break its quotes
