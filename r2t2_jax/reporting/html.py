"""The report of a run: one HTML file that holds everything, and its figures and numbers as files beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting import sections
from r2t2_jax.reporting.cases import Chosen, case_of, choose
from r2t2_jax.reporting.causes import cause_rows, causes
from r2t2_jax.reporting.figures.accuracy import accuracy
from r2t2_jax.reporting.figures.cost import cost
from r2t2_jax.reporting.figures.experts import experts
from r2t2_jax.reporting.figures.families import families
from r2t2_jax.reporting.figures.flow import flow
from r2t2_jax.reporting.figures.paths import paths
from r2t2_jax.reporting.figures.similarity import similarity
from r2t2_jax.reporting.figures.surrogate import surrogate
from r2t2_jax.reporting.markup import Html, tag
from r2t2_jax.reporting.page import page
from r2t2_jax.reporting.pictures import Images, find_images
from r2t2_jax.reporting.results import ModelResults, read_results
from r2t2_jax.reporting.style import render, shared_style
from r2t2_jax.reporting.wording import listed, settings_line
from r2t2_jax.runs.files import publish
from r2t2_jax.runs.reading import open_run

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
        publish(path.with_suffix(""), lambda folder: _write_files(folder, files))
        publish(path, lambda draft: draft.write_text(document, encoding="utf-8"))
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
        *(sections.headline(model) for model in results),
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
    name = sections.anchor(results.name)
    files[f"{name}-methods.csv"] = _csv(_method_rows(results))
    drawings = {picture.name: render(picture) for picture in pictures}
    for picture in pictures:
        files[f"{name}-{picture.name}.png"] = drawings[picture.name].png
        files[f"{name}-{picture.name}.csv"] = _csv(picture.rows)
    turned_wrong = cause_rows(results)
    if turned_wrong:
        files[f"{name}-causes.csv"] = _csv(turned_wrong)
    shown = [case_of(results, case, images.png(results.ids[case.row]), images.reason) for case in chosen]
    figures = {picture.name: sections.figure(picture, drawings[picture.name]) for picture in pictures}
    return tag(
        "section",
        tag("h2", results.name),
        tag("h3", "Methods"),
        sections.comparisons(results),
        sections.methods(results),
        figures.pop("accuracy"),
        figures.pop("cost"),
        figures.pop("families", None),
        sections.family_table(results),
        *figures.values(),
        sections.absent(results, pictures),
        causes(results, turned_wrong),
        sections.cases(shown),
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
