"""The report of a run: one self-contained HTML file, and a folder with its figures (PNG) and their numbers (CSV).

Axis letters: B test samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.statistics import Comparison, paired_gain
from r2t2_jax.reporting.examples import Example, SelectedExample, make_example, select_examples
from r2t2_jax.reporting.failure_causes import CAUSES, count_causes, failure_causes, first_of_each_cause
from r2t2_jax.reporting.figures.accuracy import accuracy_figure, radar_figure
from r2t2_jax.reporting.figures.cost import cost_figure
from r2t2_jax.reporting.figures.experts import experts_figure
from r2t2_jax.reporting.figures.families import families_figure
from r2t2_jax.reporting.figures.flow import flow_figure
from r2t2_jax.reporting.figures.paths import paths_figure
from r2t2_jax.reporting.figures.similarity import similarity_figure
from r2t2_jax.reporting.figures.surrogate import surrogate_figure
from r2t2_jax.reporting.formatting import distinct_names, join_names, settings_line
from r2t2_jax.reporting.images import Images, find_images
from r2t2_jax.reporting.page import anchor, render_template
from r2t2_jax.reporting.results import BASE, ModelResults, read_results
from r2t2_jax.reporting.roles import ROLES, description, role
from r2t2_jax.reporting.style import FigureDrawing, FigureSpec, render_figure, shared_style
from r2t2_jax.reporting.tables import csv_table
from r2t2_jax.runs.atomic_io import atomic_folder, atomic_write, check_foreign
from r2t2_jax.runs.reading import open_run

if TYPE_CHECKING:
    from r2t2_jax.runs.reading import SavedRun

REPORT = "report.html"
FIGURES = ("accuracy", "cost", "families", "flow", "experts", "paths", "surrogate", "similarity")
FILE_NAME = rf".*-((methods|causes)\.csv|({'|'.join(FIGURES)})\.(png|csv))"  # of the files in the folder of a report
COMPARED_WITH = (BASE, "uniform", "random_neighbors", "kernel_regression")
MISSING_FIGURES = {  # by the figure's name: what is missing, and why a run may have no data for it
    "families": "accuracy by family (all questions belong to one family, or no strategy re-routed)",
    "flow": "answers from step to step (the run did not answer after every step: r2t2 eval --answer-steps)",
    "experts": "the leading expert (no strategy re-routed, or the model has only one expert)",
    "paths": "single samples step by step (no strategy of this run takes steps)",
    "surrogate": "whether the neighbors' loss predicts the question's own (the run did not record it along the path)",
    "similarity": "similarity against gain (no strategy of this run has neighbors, or the run did not record their "
    "similarities)",
}


def write_report(run_folder: Path | str, out: Path | str | None = None) -> Path:
    """Write a run's report, and a folder of the same name with its figures (PNG) and their numbers (CSV).

    The same run gives the same bytes.

    Args:
        run_folder: the folder of a complete run.
        out: the HTML file; by default `report.html` in the run's folder. The folder `report/` is written next to it.

    Returns:
        The HTML file.

    Raises:
        R2T2Error: there is no run, it is not complete, or the report cannot be written, as where the folder holds files
            of other programs.
    """
    saved = open_run(run_folder)
    path = Path(run_folder) / REPORT if out is None else Path(out)
    if path.suffix != ".html":
        raise R2T2Error(f"the report is one HTML file, so {path} must end in .html")
    if path.is_dir():
        raise R2T2Error(f"cannot write {path}: it is a folder; name a file")
    folder = path.with_suffix("")
    check_foreign(folder, lambda name: re.fullmatch(FILE_NAME, name) is not None, "a report")
    page, files = render_report(saved)
    try:
        atomic_folder(folder, lambda draft: _write_files(draft, files))
        atomic_write(path, lambda draft: draft.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise R2T2Error(f"cannot write the report {path}: {error.strerror or error}") from error
    return path


def render_report(saved: SavedRun) -> tuple[str, dict[str, bytes]]:
    """The HTML page, and by name the files of the folder next to it."""
    results = read_results(saved)
    selected = {model.name: select_examples(model) for model in results}
    ids = {model.ids[example.row] for model in results for example in selected[model.name]}
    images = find_images(saved, ids)
    with shared_style():
        anchors = distinct_names([model.name for model in results], anchor, "-")
        sections = [_model_section(model, anchors[model.name], selected[model.name], images) for model in results]
        radar = radar_figure(results)
        overview = {} if radar is None else {radar.name: Figure(radar, render_figure(radar))}
    page = render_template(
        "report.html.j2",
        title=f"Re-routing report: {join_names([model.name for model in results])}",
        command=saved.run.get("command", "run"),
        overview=overview,
        models=sections,
        settings=settings_line(saved.settings),
        versions=saved.run.get("versions", {}),
    )
    files = {name: content for section in sections for name, content in section.files().items()}
    for name, figure in overview.items():
        files |= {f"{name}.png": figure.drawing.png, f"{name}.csv": _csv(figure.spec.rows)}
    return page, files


@dataclass(frozen=True)
class Headline:
    """The result of the explained strategy in one sentence: accuracy, gain over `base`, answers that changed."""

    verdict: str
    strategy: str
    accuracy: float
    gain: Comparison  # in points
    wrong_to_right: int
    right_to_wrong: int


@dataclass(frozen=True)
class Figure:
    """A figure's texts and numbers, and its drawings."""

    spec: FigureSpec
    drawing: FigureDrawing


@dataclass(frozen=True)
class ModelSection:
    """Everything the report shows of one model.

    Args:
        name, n, base_accuracy: the model, its number of questions, and its accuracy without re-routing.
        anchor: its name as a file name and an HTML id, different for every model of the report.
        headline: `None` if no strategy re-routed.
        comparisons: gain in points of the explained strategy over each of `COMPARED_WITH` that the run has.
        methods: a row for each strategy.
        has_gap: whether the run has an upper bound, so that shares of the gap are defined.
        references: the numbers of candidate references and of those in the bank, if the summary has them.
        glossary: for each role, what its strategies do.
        families: the summary's rows by family; empty if there is only one family.
        figures, missing_figures: figures by name, and the reasons why others are missing.
        failures, listed_failures, causes: answers that turned wrong with their cause, those on the page, and counts.
        examples: single samples.
    """

    name: str
    anchor: str
    n: int
    base_accuracy: float
    headline: Headline | None
    comparisons: Mapping[str, Comparison]
    methods: Sequence[Mapping[str, Any]]
    has_gap: bool
    references: Mapping[str, int] | None
    glossary: Mapping[str, Mapping[str, str]]
    families: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Figure]
    missing_figures: Sequence[str]
    failures: Sequence[Mapping[str, Any]]
    listed_failures: Sequence[Mapping[str, Any]]
    causes: Sequence[Mapping[str, Any]]
    examples: Sequence[Example]

    def files(self) -> dict[str, bytes]:
        """The section's files in the folder next to the page, by name."""
        files = {"methods.csv": _csv([_method_record(row) for row in self.methods])}
        for name, figure in self.figures.items():
            files |= {f"{name}.png": figure.drawing.png, f"{name}.csv": _csv(figure.spec.rows)}
        if self.failures:
            files["causes.csv"] = _csv(self.failures)
        return {f"{self.anchor}-{name}": content for name, content in files.items()}


def _model_section(results: ModelResults, anchor: str, selected: list[SelectedExample], images: Images) -> ModelSection:
    strategies, families = results.summary["strategies"], results.summary["families"]
    specs = _figure_specs(results, selected)
    failures = failure_causes(results)
    return ModelSection(
        name=results.name,
        anchor=anchor,
        n=len(results.ids),
        base_accuracy=float(results.base.right.mean()),
        headline=_headline(results),
        comparisons=_comparisons(results),
        methods=[_method_row(results, name) for name in strategies],
        has_gap=any(row["gap_recovered"] is not None for row in strategies.values()),
        references=results.summary.get("references"),
        glossary=_glossary(results),
        families=families if len(families) > 1 else {},
        figures={spec.name: Figure(spec, render_figure(spec)) for spec in specs},
        missing_figures=[reason for name, reason in MISSING_FIGURES.items() if name not in {s.name for s in specs}],
        failures=failures,
        listed_failures=first_of_each_cause(failures),
        causes=[{"name": name, "n": n, "description": CAUSES[name]} for name, n in count_causes(failures).items()],
        examples=[make_example(results, example, images) for example in selected],
    )


def _figure_specs(results: ModelResults, selected: list[SelectedExample]) -> list[FigureSpec]:
    """The figures that this run has data for, in the order of the page."""
    specs = (
        accuracy_figure(results),
        cost_figure(results),
        families_figure(results),
        flow_figure(results),
        experts_figure(results),
        paths_figure(results, selected),
        surrogate_figure(results),
        similarity_figure(results),
    )
    return [spec for spec in specs if spec is not None]


def _gain_in_points(before: Bool[np.ndarray, "B"], after: Bool[np.ndarray, "B"]) -> Comparison:
    return Comparison(*(100 * share for share in paired_gain(before, after)))


def _headline(results: ModelResults) -> Headline | None:
    explained = results.explained
    if explained is None:
        return None
    gain = _gain_in_points(results.base.right, explained.right)
    if gain.low > 0:
        verdict = "Re-routing improves accuracy."
    elif gain.high < 0:
        verdict = "Re-routing lowers accuracy."
    else:
        verdict = "Re-routing makes no significant difference on this number of questions."
    return Headline(
        verdict=verdict,
        strategy=explained.name,
        accuracy=float(explained.right.mean()),
        gain=gain,
        wrong_to_right=int((~results.base.right & explained.right).sum()),
        right_to_wrong=int((results.base.right & ~explained.right).sum()),
    )


def _comparisons(results: ModelResults) -> dict[str, Comparison]:
    explained = results.explained
    others = [name for name in COMPARED_WITH if name in results.strategies]
    if explained is None or explained.name in others:
        return {}
    return {name: _gain_in_points(results.strategies[name].right, explained.right) for name in others}


def _method_row(results: ModelResults, strategy: str) -> dict[str, Any]:
    is_explained = results.explained is not None and results.explained.name == strategy
    return {
        "strategy": strategy,
        **results.summary["strategies"][strategy],
        "seconds": results.seconds.get(strategy),
        "css_class": "explained" if is_explained else role(strategy),
    }


def _method_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A method's row as the CSV file has it: without what depends on the machine or the page."""
    low, high = row["ci95"]
    record = {key: value for key, value in row.items() if key not in ("ci95", "seconds", "css_class")}
    return record | {"ci95_low": low, "ci95_high": high}


def _glossary(results: ModelResults) -> dict[str, dict[str, str]]:
    notes = {name: note for name in results.strategies if (note := description(name))}
    groups = {
        heading.capitalize(): {name: note for name, note in notes.items() if role(name) == key}
        for key, heading in ROLES.items()
    }
    return {heading: group for heading, group in groups.items() if group}


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return csv_table(rows).encode("utf-8")


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
