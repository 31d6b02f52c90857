"""The parts of a report, top to bottom: what came out, methods, figures, cases."""

from __future__ import annotations

from collections.abc import Sequence

from r2t2_jax.evaluation.summary import paired_gain
from r2t2_jax.reporting.cards import card
from r2t2_jax.reporting.cases import Case
from r2t2_jax.reporting.markup import Html, data_uri, joined, scrolling, tag
from r2t2_jax.reporting.results import BASE, ModelResults
from r2t2_jax.reporting.style import Drawn, Picture
from r2t2_jax.reporting.tables import percent
from r2t2_jax.reporting.wording import (
    BOUND,
    CONTROL,
    METHOD,
    ROLES,
    STRATEGY_NOTES,
    count,
    duration,
    role,
    signed,
    signed_span,
    span,
)

RIVALS = (BASE, "uniform", "random_neighbors", "kernel_regression")


def anchor(name: str) -> str:
    """A model's name as the name of files and of places in the page."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def headline(results: ModelResults) -> Html:
    """What came out for one model, in two sentences and a list of paired comparisons."""
    explained = results.explained
    n = len(results.ids)
    base = percent(float(results.base.right.mean()))
    link = tag("a", results.name, href=f"#{anchor(results.name)}")
    if explained is None:
        return tag("p", link, f" answers {base} % of {count(n, 'question')} correctly. Nothing was re-routed.")
    gain, low, high = (100 * value for value in paired_gain(results.base.right, explained.right))
    won = int((~results.base.right & explained.right).sum())
    lost = int((results.base.right & ~explained.right).sum())
    if low > 0:
        verdict = "Re-routing helps."
    elif high < 0:
        verdict = "Re-routing harms."
    else:
        verdict = "Re-routing changes nothing that this many questions can show."
    return tag(
        "p",
        tag("strong", link, f": {verdict}"),
        f" The router’s own weights answer {base} % of {count(n, 'question')} correctly, {explained.name} "
        f"{percent(float(explained.right.mean()))} %: {signed(gain)} points (95 % interval {signed_span(low, high)}, "
        f"paired). {count(won, 'answer').capitalize()} turned right, {lost:,} turned wrong.",
    )


def comparisons(results: ModelResults) -> Html | None:
    """The explained strategy against its rivals on the same questions."""
    explained = results.explained
    rivals = [name for name in RIVALS if name in results.strategies]
    if explained is None or explained.name in rivals:
        return None
    items = []
    for rival in rivals:
        gain, low, high = (100 * value for value in paired_gain(results.strategies[rival].right, explained.right))
        items.append(tag("li", "against ", tag("code", rival), f": {signed(gain)} points ({signed_span(low, high)})"))
    lead = f"{explained.name} on the same questions, paired, with 95 % intervals:"
    return joined(tag("p", lead), tag("ul", *items, class_="gains"))


def methods(results: ModelResults) -> Html:
    """Every strategy with its interval, counts and cost; below it, what each does."""
    head = [
        "strategy", "right, %", "95 % interval", "share of gap, %", "wrong → right", "right → wrong", "evaluations",
        "time a case",
    ]  # fmt: skip
    cells = [tag("th", title, scope="col", class_=None if title == "strategy" else "number") for title in head]
    rows = [_method(results, name) for name in results.summary["strategies"]]
    kept = results.summary.get("references")
    note = "Wilson intervals. "
    if any(row["gap_recovered"] is not None for row in results.summary["strategies"].values()):
        note += "The gap is that from base to task_routing. "
    note += "Turned right and wrong are counted against base. An evaluation is a forward pass that depends on routing."
    if kept:
        note += f" The bank holds the {kept['kept']:,} of {kept['asked']:,} references answered correctly."
    return joined(
        scrolling(
            tag("table", tag("thead", tag("tr", *cells)), tag("tbody", *rows), class_="methods"),
            f"Methods on {results.name}",
        ),
        tag("p", note, class_="note"),
        _glossary(results),
    )


def _method(results: ModelResults, name: str) -> Html:
    row = results.summary["strategies"][name]
    seconds = results.seconds.get(name)
    numbers = [
        percent(row["accuracy"]),
        span(*row["ci95"]),
        "–" if row["gap_recovered"] is None else percent(row["gap_recovered"]).replace("-", "−"),
        f"{row['wrong_to_right']:,}",
        f"{row['right_to_wrong']:,}",
        f"{row['evaluations_per_case']:g}",
        "–" if seconds is None else duration(seconds),
    ]
    explained = results.explained is not None and results.explained.name == name
    return tag(
        "tr",
        tag("th", tag("code", name), scope="row"),
        *(tag("td", number, class_="number") for number in numbers),
        class_="explained" if explained else role(name),
        data_strategy=name,
    )


def _glossary(results: ModelResults) -> Html:
    parts = []
    for kind in (METHOD, CONTROL, BOUND):
        known = [name for name in results.strategies if role(name) == kind and name in STRATEGY_NOTES]
        if known:
            terms = [joined(tag("dt", tag("code", name)), tag("dd", STRATEGY_NOTES[name][1])) for name in known]
            parts.append(tag("div", tag("h4", ROLES[kind].capitalize()), tag("dl", *terms)))
    return tag("div", *parts, class_="glossary")


def family_table(results: ModelResults) -> Html | None:
    """Accuracy of every strategy by family, as a table that scrolls on its own."""
    families = results.summary["families"]
    if len(families) < 2:
        return None
    head = [tag("th", "strategy", scope="col"), *(_family_head(name, row["n"]) for name, row in families.items())]
    rows = [
        tag(
            "tr",
            tag("th", tag("code", name), scope="row"),
            *(tag("td", percent(row["accuracy"][name]), class_="number") for row in families.values()),
        )
        for name in results.summary["strategies"]
    ]
    return scrolling(
        tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="families"),
        f"Accuracy by family on {results.name}, %",
    )


def _family_head(name: str, n: int) -> Html:
    return tag("th", name or "unnamed", tag("br"), tag("small", f"n = {n:,}"), scope="col", class_="number")


def figure(picture: Picture, drawn: Drawn) -> Html:
    """A figure in two drawings, one for narrow screens."""
    wide, narrow = (data_uri("image/svg+xml", drawing) for drawing in (drawn.wide, drawn.narrow))
    return tag(
        "figure",
        tag("h3", picture.title),
        tag("figcaption", picture.text),
        tag(
            "picture",
            tag("source", media="(max-width: 640px)", srcset=narrow),
            tag("img", src=wide, alt=picture.alt),
        ),
    )


def absent(results: ModelResults, drawn: Sequence[Picture]) -> Html | None:
    """Which figures this run does not have the data for, and why."""
    names = {picture.name for picture in drawn}
    reasons = {
        "flow": "answers from step to step: this run did not answer after every step",
        "paths": "single samples step by step: no strategy here took steps",
        "families": "accuracy by family: the questions belong to one family",
        "surrogate": "whether the neighbours' loss predicts the question's own: nobody asked for it along the path",
        "similarity": "similarity against gain: no strategy here has neighbours, or the run does not keep how alike",
        "experts": "the leading expert: this run re-routed nothing, or there is one expert",
    }
    missing = [reason for name, reason in reasons.items() if name not in names]
    return tag("p", f"Not shown: {'; '.join(missing)}.", class_="note") if missing else None


def cases(shown: Sequence[Case]) -> Html | None:
    """The cards, and how they were chosen."""
    if not shown:
        return None
    failures = sum(case.right_after is False for case in shown)
    text = (
        f"{count(len(shown), 'question')}, {failures:,} of them answered wrongly in the end. Nobody picked them: three "
        "whose answer turned right, three that turned wrong, two that stayed right and two that stayed wrong, each the "
        "first of its family in the order of the test set. What a kind lacks, the others fill up. A neighbour’s weight "
        "is its share of the kernel, in percent; a model’s largest routing weight in each column stands out."
    )
    return tag(
        "section",
        tag("h3", "Cases"),
        tag("p", text),
        tag("div", *map(card, shown), class_="r2t2-cards"),
        class_="cases",
    )
