"""What the report of a run shows of each model, ready for the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2t2_jax.methods import BASE
from r2t2_jax.reporting.cases import case_data, case_rows, listed_cases, pack
from r2t2_jax.reporting.examples import (
    EXAMPLES_PER_OUTCOME,
    ONE_PER_OUTCOME,
    Example,
    SelectedExample,
    make_example,
    select_examples,
)
from r2t2_jax.reporting.failure_causes import CAUSES, count_causes, failure_causes, first_of_each_cause
from r2t2_jax.reporting.figures.accuracy import accuracy_figure
from r2t2_jax.reporting.figures.cost import cost_figure
from r2t2_jax.reporting.figures.experts import ExpertChanges, expert_changes, experts_figure
from r2t2_jax.reporting.figures.families import families_figure, family_rows
from r2t2_jax.reporting.figures.flow import flow_figure
from r2t2_jax.reporting.figures.paths import paths_figure
from r2t2_jax.reporting.figures.similarity import similarity_figure
from r2t2_jax.reporting.figures.surrogate import surrogate_figure
from r2t2_jax.reporting.headline import Headline, StrategyVerdict, headline, strategy_verdict
from r2t2_jax.reporting.images import ImageSheets
from r2t2_jax.reporting.page import anchor
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.roles import ROLES, description, role, tag
from r2t2_jax.reporting.style import Figure, FigureSpec, draw_figure
from r2t2_jax.reporting.tables import csv_table

Selection = Mapping[str, Sequence[SelectedExample]]  # by strategy
MISSING_FIGURES = {  # by the figure's name: what is missing, and why a run may have no data for it
    "families": "accuracy by family (all questions belong to one family, or no strategy re-routed)",
    "flow": "answers from step to step (the run did not answer after every step: r2t2 eval --answer-steps)",
    "experts": "the leading expert (no strategy re-routed, or the model has only one expert)",
    "paths": "single samples step by step (no strategy of this run takes steps)",
    "surrogate": "whether the neighbors' loss predicts the question's own (the run did not record it along the path)",
    "similarity": "similarity against gain (no strategy of this run has neighbors, or the run did not record their "
    "similarities)",
}
OF_EACH_STRATEGY = ("families", "experts")  # the page draws them as tables, for the strategy that the reader chooses


@dataclass(frozen=True)
class StrategyView:
    """What the page shows of the strategy that the reader chooses.

    Args:
        name, anchor, verdict: the strategy, its HTML id, and its comparison with `base`.
        families: rows of accuracies by family; empty if there is only one.
        experts: the experts before and after; `None` without data.
        failures, listed_failures, causes: answers that turned wrong with their cause, those on the page, and counts.
        examples: single samples.
        is_first: whether the page shows it before the reader chooses.
    """

    name: str
    anchor: str
    verdict: StrategyVerdict
    families: Sequence[Mapping[str, Any]]
    experts: ExpertChanges | None
    failures: Sequence[Mapping[str, Any]]
    listed_failures: Sequence[Mapping[str, Any]]
    causes: Sequence[Mapping[str, Any]]
    examples: Sequence[Example]
    is_first: bool


@dataclass(frozen=True)
class ModelSection:
    """Everything the report shows of one model.

    Args:
        name, n, base_accuracy: the model, its number of questions, and its accuracy without re-routing.
        anchor: its name as a file name and an HTML id, different for every model of the report.
        headline: `None` if no strategy re-routed.
        groups: headings, and a row for each strategy of the group, the most accurate first.
        has_gap: whether the run has `task_routing`, so that shares of the gap are defined.
        references: the numbers of candidate references and of those in the bank, if the summary has them.
        glossary: for each role, what its strategies do.
        families: the summary's rows by family; empty if there is only one family.
        figures, missing_figures: figures by name, and the reasons why others are missing.
        views: one for each strategy, that of the headline first.
        listed_cases: cases of the first view, for readers without scripts.
        case_data: all cases, packed for the page's script; empty if no strategy re-routed.
        case_rows: all cases, for the CSV file.
    """

    name: str
    anchor: str
    n: int
    base_accuracy: float
    headline: Headline | None
    groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]
    has_gap: bool
    references: Mapping[str, int] | None
    glossary: Mapping[str, Mapping[str, str]]
    families: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Figure]
    missing_figures: Sequence[str]
    views: Sequence[StrategyView]
    listed_cases: Sequence[Mapping[str, Any]]
    case_data: str
    case_rows: Sequence[Mapping[str, Any]]

    @property
    def page_figures(self) -> dict[str, Figure]:
        """The figures that the page shows as drawings."""
        return {name: figure for name, figure in self.figures.items() if name not in OF_EACH_STRATEGY}

    def files(self, png: bool = False) -> dict[str, bytes]:
        """The section's files in the folder next to the page, by name; with `png` also the figures as PNG."""
        methods = [row for _, rows in self.groups for row in rows]
        files = {"methods.csv": csv_bytes([_method_record(row) for row in methods])}
        for figure in self.figures.values():
            files |= figure_files(figure, png)
        if failures := [{"strategy": view.name, **row} for view in self.views for row in view.failures]:
            files["causes.csv"] = csv_bytes(failures)
        if self.case_rows:
            files["cases.csv"] = csv_bytes(self.case_rows)
        return {f"{self.anchor}-{name}": content for name, content in files.items()}


def select_all(results: ModelResults) -> Selection:
    """The examples of every strategy: ten of the explained one, and of each other one of every outcome."""
    if results.explained is None:
        return {}
    first = results.explained.name
    numbers = {name: EXAMPLES_PER_OUTCOME if name == first else ONE_PER_OUTCOME for name in results.ranking}
    return {name: select_examples(results.explaining(name), numbers[name]) for name in results.ranking}


def model_section(results: ModelResults, own_anchor: str, selection: Selection, sheets: ImageSheets) -> ModelSection:
    """The section of a model."""
    strategies, families = results.summary["strategies"], results.summary["families"]
    specs = figure_specs(results, selection)
    first = [] if results.explained is None else [results.explained.name]
    names = [*first, *(name for name in results.ranking if name not in first)]
    views = [_view(results.explaining(name), own_anchor, selection[name], sheets, name in first) for name in names]
    missing = [reason for name, reason in MISSING_FIGURES.items() if name not in {spec.name for spec in specs}]
    return ModelSection(
        name=results.name,
        anchor=own_anchor,
        n=len(results.ids),
        base_accuracy=float(results.base.right.mean()),
        headline=headline(results),
        groups=[
            (ROLES.get(key, "").capitalize(), [_method_row(results, name, own_anchor) for name in group])
            for key, group in results.groups.items()
        ],
        has_gap=any(row["gap_recovered"] is not None for row in strategies.values()),
        references=results.summary.get("references"),
        glossary=_glossary(results),
        families=families if len(families) > 1 else {},
        figures={spec.name: draw_figure(spec) for spec in specs},
        missing_figures=missing,
        views=views,
        listed_cases=listed_cases(results) if first else [],
        case_data=pack(case_data(results, sheets)) if first else "",
        case_rows=case_rows(results) if first else [],
    )


def figure_specs(results: ModelResults, selection: Selection) -> list[FigureSpec]:
    """The figures that this run has data for, in the order of the page.

    Those of paths, neighbors and experts explain one strategy: the best one that has the data.
    """
    explained = [] if results.explained is None else [results.explained.name]
    others = [name for key in ROLES for name in results.ranking if role(name) == key]
    candidates = [results.explaining(name) for name in dict.fromkeys((*explained, *others))]

    def draw_paths(candidate: ModelResults) -> FigureSpec | None:
        strategy = candidate.explained
        return None if strategy is None else paths_figure(candidate, list(selection[strategy.name]))

    draw: tuple[Callable[[ModelResults], FigureSpec | None], ...] = (
        families_figure,
        experts_figure,
        flow_figure,
        draw_paths,
        surrogate_figure,
        similarity_figure,
    )
    specs = [next(filter(None, map(figure, candidates)), None) for figure in draw]
    return [accuracy_figure(results), cost_figure(results), *(spec for spec in specs if spec is not None)]


def _view(
    results: ModelResults, model: str, selected: Sequence[SelectedExample], sheets: ImageSheets, is_first: bool
) -> StrategyView:
    assert results.explained is not None
    name, failures = results.explained.name, failure_causes(results)
    return StrategyView(
        name=name,
        anchor=view_anchor(model, name),
        verdict=strategy_verdict(results, name),
        families=family_rows(results) if len(results.summary["families"]) > 1 else [],
        experts=expert_changes(results),
        failures=failures,
        listed_failures=first_of_each_cause(failures),
        causes=[{"name": cause, "n": n, "description": CAUSES[cause]} for cause, n in count_causes(failures).items()],
        examples=[make_example(results, example, sheets) for example in selected],
        is_first=is_first,
    )


def view_anchor(model: str, strategy: str) -> str:
    """The HTML id of a strategy's view."""
    return f"{model}--{anchor(strategy)}"


def _method_row(results: ModelResults, strategy: str, model: str) -> dict[str, Any]:
    is_explained = results.explained is not None and results.explained.name == strategy
    return {
        "strategy": strategy,
        **results.summary["strategies"][strategy],
        "seconds": results.seconds.get(strategy),
        "css_class": "explained" if is_explained else role(strategy),
        "tag": tag(strategy),
        "verdict": None if strategy == BASE else strategy_verdict(results, strategy),
        "view": None if strategy == BASE else view_anchor(model, strategy),
    }


ON_PAGE_ONLY = ("ci95", "seconds", "css_class", "tag", "verdict", "view")  # of a method's row


def _method_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A method's row as the CSV file has it: without what depends on the machine or the page."""
    low, high = row["ci95"]
    record = {key: value for key, value in row.items() if key not in ON_PAGE_ONLY}
    bounds = {"ci95_low": low, "ci95_high": high}
    if row["verdict"] is None:
        return record | bounds | dict.fromkeys(("gain", "gain_low", "gain_high"))
    gain = row["verdict"].gain
    return record | bounds | {"gain": gain.gain, "gain_low": gain.low, "gain_high": gain.high}


def _glossary(results: ModelResults) -> dict[str, dict[str, str]]:
    notes = {name: note for name in results.strategies if (note := description(name))}
    groups = {
        heading.capitalize(): {name: note for name, note in notes.items() if role(name) == key}
        for key, heading in ROLES.items()
    }
    return {heading: group for heading, group in groups.items() if group}


def figure_files(figure: Figure, png: bool) -> dict[str, bytes]:
    """A figure as SVG, with `png` also as PNG, and its numbers as CSV, by file name."""
    name = figure.spec.name
    files = {f"{name}.svg": figure.wide.svg(), f"{name}.csv": csv_bytes(figure.spec.rows)}
    return files | ({f"{name}.png": figure.wide.png()} if png else {})


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as a CSV file."""
    return csv_table(rows).encode("utf-8")
