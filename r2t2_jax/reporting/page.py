"""One self-contained page: nothing is loaded from anywhere, nothing is run."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files

from r2t2_jax.reporting.cases import Case, Neighbor, shown_routing
from r2t2_jax.reporting.tables import percent

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


MARKS = {True: "✓ right", False: "✗ wrong"}


def card(case: Case) -> Html:
    """A card, readable alone."""
    return tag(
        "article",
        tag(
            "header",
            tag("span", case.title, class_="title"),
            tag("span", case.family, class_="family") if case.family else None,
            _outcome(case),
        ),
        tag("div", _picture(case), _question(case), class_="asked"),
        tag("p", case.note, class_="note") if case.note else None,
        _neighbors(case),
        _routing(case),
        class_="r2t2-card",
    )


def _outcome(case: Case) -> Html | None:
    if case.right_before is None or case.right_after is None:
        return None
    word = {True: "right", False: "wrong"}
    before, after = word[case.right_before], word[case.right_after]
    return tag("span", f"{before} → {after}", class_=f"outcome {before}-{after}")


def _picture(case: Case) -> Html:
    if case.image is None:
        return tag("div", case.no_image, class_="scene no-image")
    return tag("img", src=data_uri("image/png", case.image), alt=f"The image of {case.title.lower()}", class_="scene")


def _question(case: Case) -> Html:
    rows = [
        _answer("router", case.answer_before, case.right_before),
        _answer(case.strategy, case.answer_after, case.right_after),
    ]
    if case.expected:
        rows.append(tag("tr", tag("th", "expected", scope="row"), tag("td", " or ".join(case.expected)), tag("td")))
    return tag("div", tag("p", case.question, class_="question"), tag("table", *rows, class_="answers"), class_="words")


def _answer(who: str, answer: str, right: bool | None) -> Html:
    mark = tag("span", MARKS[right], class_="right" if right else "wrong") if right is not None else None
    shown = tag("td", answer) if answer else tag("td", tag("em", "no answer"))
    return tag("tr", tag("th", who, scope="row"), shown, tag("td", mark))


def _neighbors(case: Case) -> Html | None:
    if not case.neighbors:
        return None
    head = tag("tr", tag("th", "neighbour"), tag("th", "answer"), tag("th", "weight", class_="number"))
    rows = [
        tag("tr", tag("td", _asked(neighbor)), tag("td", neighbor.answer or "–"), _measured(neighbor.share))
        for neighbor in case.neighbors
    ]
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="neighbors")


def _asked(neighbor: Neighbor) -> Html | str:
    return neighbor.question or tag("code", neighbor.id)


def _measured(share: float, top: bool = False) -> Html:
    """A share as a number over a bar, so that it can be read either way; the largest stands out in both."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    number = percent(share).replace("-", "−")
    return tag(
        "td",
        tag("strong" if top else "span", number, class_="value"),
        tag("span", class_="bar top" if top else "bar", style=f"width:{width}"),
        class_="number measured",
    )


def _routing(case: Case) -> Html:
    """A row for each expert, for each layer the weight before and after."""
    shown = shown_routing(case)
    groups = [tag("th", name, colspan=2, scope="colgroup") for name in shown.layers]
    heads = [tag("th", word, scope="col", class_="number") for _ in shown.layers for word in ("before", "after")]
    columns = [row for layer in range(len(shown.layers)) for row in (shown.before[layer], shown.after[layer])]
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(_measured(float(column[expert]), top=expert == int(column.argmax())) for column in columns),
        )
        for expert, name in enumerate(shown.experts)
    ]
    return tag(
        "table",
        tag("caption", f"{shown.caption}."),
        tag("thead", tag("tr", tag("th", "expert", rowspan=2, scope="col"), *groups), tag("tr", *heads)),
        tag("tbody", *rows),
        class_="routing",
    )
