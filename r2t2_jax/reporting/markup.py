"""HTML built from Python: whatever is not already HTML is escaped, so that no question can break a page."""

from __future__ import annotations

import base64
from html import escape

VOID = ("br", "img", "source", "meta", "hr")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(element: str, /, *children: str | Html | None, **attributes: str | int | bool | None) -> Html:
    """An element. Children that are no `Html` are escaped; `class_` is `class`, `aria_label` is `aria-label`.

    An attribute that is `None` or False is left out, one that is True stands without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if element in VOID:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{joined(*children)}</{element}>")


def joined(*children: str | Html | None) -> Html:
    """Children side by side, escaped where need be; `None` is nothing."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def data_uri(kind: str, content: bytes) -> str:
    """A file inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _attribute(key: str, value: str | int | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'


def scrolling(table: Html, label: str) -> Html:
    """A table that scrolls on its own where the screen is narrow, and by keyboard."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
