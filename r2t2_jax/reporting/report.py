"""The report of a run: one HTML file that holds everything, and its figures and numbers as files beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.statistics import paired_gain
from r2t2_jax.reporting.cases import Case, Chosen, case_of, choose
from r2t2_jax.reporting.figures.accuracy import accuracy
from r2t2_jax.reporting.figures.cost import cost
from r2t2_jax.reporting.figures.experts import experts
from r2t2_jax.reporting.figures.families import families
from r2t2_jax.reporting.figures.flow import flow
from r2t2_jax.reporting.figures.paths import paths
from r2t2_jax.reporting.figures.similarity import similarity
from r2t2_jax.reporting.figures.surrogate import surrogate
from r2t2_jax.reporting.formatting import (
    BOUND,
    CONTROL,
    METHOD,
    ROLES,
    STRATEGY_NOTES,
    count,
    duration,
    listed,
    role,
    settings_line,
    shortened,
    signed,
    signed_span,
    span,
)
from r2t2_jax.reporting.images import Images, find_images
from r2t2_jax.reporting.page import Html, card, data_uri, joined, page, scrolling, tag
from r2t2_jax.reporting.results import BASE, ModelResults, StrategyRows, read_results
from r2t2_jax.reporting.style import Drawn, FigureSpec, render, shared_style
from r2t2_jax.reporting.tables import percent
from r2t2_jax.runs.atomic_io import atomic_write
from r2t2_jax.runs.reading import open_run

FAR = 0.1  # of all questions: those whose nearest neighbour is least alike
LISTED = 12
CAUSES = {  # in the order in which they are tried
    "no neighbour": "No reference weighed anything, or the strategy has no neighbours.",
    "far neighbours": "The nearest neighbour is less alike than for nine questions of ten.",
    "another family": "Most of the neighbours' weight lies on questions of other families.",
    "nothing learnt": "The neighbours' loss did not fall: there was nothing to follow.",
    "misled": "The neighbours' loss fell and the question's own rose: what helped them harms it.",
    "tipped over": "Both losses fell, yet another word came out on top.",
    "unexplained": "The run does not say enough: no losses along the path.",
}


def cause_rows(results: ModelResults) -> list[dict[str, Any]]:
    """A row for each answer that turned wrong: the question, both answers, the cause."""
    explained = results.explained
    if explained is None:
        return []
    lost = np.flatnonzero(results.base.right & ~explained.right)
    far = _far(explained)
    return [
        {
            "id": results.ids[i],
            "family": results.categories[i],
            "question": results.questions[i],
            "expected": results.answers[i][0] if results.answers[i] else "",
            "before": results.base.predictions[i],
            "after": explained.predictions[i],
            "cause": _cause(results, explained, i, bool(far[i])),
        }
        for i in lost.tolist()
    ]


def _far(explained: StrategyRows) -> Bool[np.ndarray, "B"]:
    if not explained.similarities.shape[1]:
        return np.zeros(len(explained.right), bool)
    nearest = explained.similarities.max(axis=1)
    return nearest < np.quantile(nearest, FAR)


def _cause(results: ModelResults, explained: StrategyRows, i: int, far: bool) -> str:
    if explained.used_fallback[i] or not explained.neighbors[i]:
        return "no neighbour"
    if far:
        return "far neighbours"
    if _foreign_share(results, explained, i) > 0.5:
        return "another family"
    if explained.losses.shape[1] < 2 or explained.own_losses.shape[1] < 2:
        return "unexplained"
    if explained.losses[i, -1] >= explained.losses[i, 0]:
        return "nothing learnt"
    return "misled" if explained.own_losses[i, -1] > explained.own_losses[i, 0] else "tipped over"


def _foreign_share(results: ModelResults, explained: StrategyRows, i: int) -> float:
    """The share of the kernel's weight on neighbours whose family is known and is not the question's."""
    weights, own = explained.kernel_weights[i], results.categories[i]
    families = [results.references.get(name, {}).get("category") for name in explained.neighbors[i]]
    foreign = np.array([bool(family) and bool(own) and family != own for family in families])
    return float(weights[foreign].sum() / weights.sum()) if weights.sum() > 0 else 0.0


def causes(results: ModelResults, rows: list[dict[str, Any]]) -> Html | None:
    """How often each cause, and the first cases of each."""
    if not rows:
        return None
    counts = {cause: sum(row["cause"] == cause for row in rows) for cause in CAUSES}
    terms = [
        joined(tag("dt", f"{cause}: {number:,}"), tag("dd", CAUSES[cause]))
        for cause, number in counts.items()
        if number
    ]
    head = [tag("th", title, scope="col") for title in ("cause", "family", "question", "expected", "after")]
    shown = sorted(rows, key=lambda row: list(CAUSES).index(row["cause"]))
    first = [row for cause in CAUSES for row in [one for one in shown if one["cause"] == cause][:4]][:LISTED]
    body = [
        tag(
            "tr",
            *(tag("td", shortened(str(row[key]), 90)) for key in ("cause", "family", "question", "expected", "after")),
        )
        for row in first
    ]
    return tag(
        "section",
        tag("h3", "Right answers that turned wrong, with a cause"),
        tag(
            "p",
            f"{count(len(rows), 'answer').capitalize()} turned wrong. Each has the first of these causes that applies; "
            f"{len(first):,} are listed, all of them in the CSV file beside this page.",
        ),
        tag("dl", *terms),
        scrolling(
            tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="causes"),
            f"Answers that turned wrong on {results.name}",
        ),
        class_="causes",
    )


if TYPE_CHECKING:
    from r2t2_jax.runs.reading import SavedRun

REPORT = "report.html"


def write_report(run_folder: Path | str, out: Path | str | None = None) -> Path:
    """Write a run's report, and a folder of the same name with its figures (PNG) and their numbers (CSV).

    The same run gives the same bytes.

    Args:
        run_folder: the folder of a complete run.
        out: the HTML file; `report.html` in the run's folder by default. `report/` stands beside it.

    Returns:
        The HTML file.

    Raises:
        R2T2Error: there is no run, it is not complete, or the report cannot be written.
    """
    saved = open_run(run_folder)
    path = Path(run_folder) / REPORT if out is None else Path(out)
    if path.suffix != ".html":
        raise R2T2Error(f"the report is one HTML file, so {path} must end in .html")
    document, files = render_report(saved)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path.with_suffix(""), lambda folder: _write_files(folder, files))
        atomic_write(path, lambda draft: draft.write_text(document, encoding="utf-8"))
    except OSError as error:
        raise R2T2Error(f"cannot write the report {path}: {error.strerror or error}") from error
    return path


def render_report(saved: SavedRun) -> tuple[str, dict[str, bytes]]:
    """The page, and the files beside it by name."""
    results = read_results(saved)
    chosen = {model.name: choose(model) for model in results}
    wanted = {model.ids[case.row] for model in results for case in chosen[model.name]}
    images = find_images(saved, wanted)
    files: dict[str, bytes] = {}
    with shared_style():
        models = [_model(model, chosen[model.name], images, files) for model in results]
    names = [model.name for model in results]
    title = f"Re-routing report: {listed(names)}"
    return page(title, _top(saved, results), *models, _foot(saved)), files


def _top(saved: SavedRun, results: list[ModelResults]) -> Html:
    return tag(
        "header",
        tag("p", f"r2t2 {saved.run.get('command', 'run')}", class_="kicker"),
        tag("h1", f"What re-routing did for {listed([model.name for model in results])}"),
        *(headline(model) for model in results),
        class_="top",
    )


def _foot(saved: SavedRun) -> Html:
    versions: Mapping[str, str] = saved.run.get("versions", {})
    lines = [f"Settings: {settings_line(saved.settings)}."] if saved.settings else []
    if versions:
        lines.append("Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    lines.append("Figures and their numbers lie beside this page as PNG and CSV. Method: R2-T2, arXiv 2502.20395.")
    return tag("footer", *(tag("p", line) for line in lines))


def _model(results: ModelResults, chosen: list[Chosen], images: Images, files: dict[str, bytes]) -> Html:
    pictures = [
        picture
        for picture in (
            accuracy(results),
            cost(results),
            families(results),
            flow(results),
            experts(results),
            paths(results, chosen),
            surrogate(results),
            similarity(results),
        )
        if picture is not None
    ]
    name = anchor(results.name)
    files[f"{name}-methods.csv"] = _csv(_method_rows(results))
    drawings = {picture.name: render(picture) for picture in pictures}
    for picture in pictures:
        files[f"{name}-{picture.name}.png"] = drawings[picture.name].png
        files[f"{name}-{picture.name}.csv"] = _csv(picture.rows)
    turned_wrong = cause_rows(results)
    if turned_wrong:
        files[f"{name}-causes.csv"] = _csv(turned_wrong)
    shown = [case_of(results, case, images.png(results.ids[case.row]), images.reason) for case in chosen]
    figures = {picture.name: figure(picture, drawings[picture.name]) for picture in pictures}
    return tag(
        "section",
        tag("h2", results.name),
        tag("h3", "Methods"),
        comparisons(results),
        methods(results),
        figures.pop("accuracy"),
        figures.pop("cost"),
        figures.pop("families", None),
        family_table(results),
        *figures.values(),
        absent(results, pictures),
        causes(results, turned_wrong),
        cases(shown),
        id=name,
        class_="model",
    )


def _method_rows(results: ModelResults) -> list[dict[str, object]]:
    rows = []
    for name, row in results.summary["strategies"].items():
        low, high = row["ci95"]
        rest = {key: value for key, value in row.items() if key != "ci95"}
        rows.append({"strategy": name, **rest, "ci95_low": low, "ci95_high": high})
    return rows


def _csv(rows: list[dict]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode("utf-8")


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


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


def figure(picture: FigureSpec, drawn: Drawn) -> Html:
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


def absent(results: ModelResults, drawn: Sequence[FigureSpec]) -> Html | None:
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
