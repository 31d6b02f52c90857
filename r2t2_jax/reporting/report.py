"""The report of a run: one HTML file, and a folder with its figures (SVG) and their numbers (CSV)."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup

from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.cases import inline_and_files, order_by_change, pack
from r2t2_jax.reporting.figures.accuracy import radar_figure
from r2t2_jax.reporting.formatting import distinct_names, join_names, settings_line
from r2t2_jax.reporting.images import ImageSheets, find_images
from r2t2_jax.reporting.page import anchor, data_uri, render_template
from r2t2_jax.reporting.results import ModelResults, read_results
from r2t2_jax.reporting.sections import ModelSection, Selection, figure_files, model_section, select_all
from r2t2_jax.reporting.style import draw_figure
from r2t2_jax.runs.atomic_io import atomic_folder, atomic_write, check_only_own
from r2t2_jax.runs.folder import read_json
from r2t2_jax.runs.reading import BANK_BUILD, open_run

if TYPE_CHECKING:
    from r2t2_jax.runs.reading import SavedRun

REPORT = "report.html"
FIGURES = ("accuracy", "cost", "families", "flow", "experts", "paths", "surrogate", "similarity")
FILE_NAME = (  # of the files in the folder of a report
    rf"[^/]*-((methods|causes|cases)\.csv|data\.js|({'|'.join(FIGURES)})\.(svg|png|csv))|radar\.(svg|png|csv)|images-data\.js"
)
PAGE_BYTES = 1_500_000  # of a page at most: beyond it, details are packed and data are files of the folder next to it
MAX_IMAGES = 1000  # of all cases, besides those of the examples
IMAGES = "images"  # name of the block of data with the images of all cases
INLINE_DATA = "<!-- data -->"  # where the page holds the blocks of data for which it has room


def write_report(run_folder: Path | str, out: Path | str | None = None, png: bool = False) -> Path:
    """Write a run's report, and a folder of the same name with its figures (SVG) and their numbers (CSV).

    The same run gives the same bytes.

    Args:
        run_folder: the folder of a complete run.
        out: the HTML file; by default `report.html` in the run's folder. The folder `report/` is written next to it.
        png: write the figures also as PNG, which takes longer than the page.

    Returns:
        The HTML file.

    Raises:
        R2T2Error: there is no run, it is not complete or has no answers to report, or the report cannot be written, as
            where the folder holds files of other programs.
    """
    refuse_bank(Path(run_folder), complete=True)
    saved = open_run(run_folder)
    if saved.run["command"] == BANK_BUILD:
        refuse_bank(Path(run_folder), complete=False)
    path = Path(run_folder) / REPORT if out is None else Path(out)
    if path.suffix != ".html":
        raise R2T2Error(f"the report is one HTML file, so {path} must end in .html")
    if path.is_dir():
        raise R2T2Error(f"cannot write {path}: it is a folder; name a file")
    folder = path.with_suffix("")
    is_tuning = saved.run["command"] == "tune"
    if not is_tuning:
        check_only_own(folder, lambda name: re.fullmatch(FILE_NAME, name) is not None, "a report")
    with _no_garbage_collection():
        page, files = (render_tuning(saved), {}) if is_tuning else render_report(saved, folder.name, png)
    try:
        if files:
            atomic_folder(folder, lambda draft: _write_files(draft, files))
        atomic_write(path, lambda draft: draft.write_text(page, encoding="utf-8", newline="\n"))
    except OSError as error:
        raise R2T2Error(f"cannot write the report {path}: {error.strerror or error}") from error
    return path


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the search for cyclic garbage, which would take a quarter of the time: rows are millions of lists."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def refuse_bank(folder: Path, complete: bool) -> None:
    """Refuse the folder of a bank, complete or half-built: another command has its report.

    Raises:
        R2T2Error: it is the folder of a bank.
    """
    from r2t2_jax.bank.manifest import MANIFEST

    if complete and not (folder / MANIFEST).exists():
        return
    first = "" if complete else ", once r2t2 bank build has completed it"
    raise R2T2Error(
        f"{folder} holds a bank, not a run: r2t2 bank inspect {folder} --html FILE writes its report{first}"
    )


def render_tuning(saved: SavedRun) -> str:
    """The HTML page of a run of `r2t2 tune`: the chosen settings, and a table of all that were measured."""
    from r2t2_jax.reporting.tables import preset_lines, settings_rows

    saved.summary  # noqa: B018  # refuses a run that is not complete
    preset = read_json(saved.folder / "preset.json")
    header, rows = settings_rows(preset["evidence"]["table"])
    return render_template(
        "tuning_report.html.j2",
        title=f"Tuned preset {preset['name']}",
        sentences=preset_lines(preset),
        settings=(header, rows),
    )


def render_report(saved: SavedRun, folder: str = "report", png: bool = False) -> tuple[str, dict[str, bytes]]:
    """The HTML page, and by name the files of the folder next to it, whose name the page needs."""
    results = read_results(saved)
    selections = [select_all(model) for model in results]
    sheets = _image_sheets(saved, results, selections)
    examples = sheets.of_group[0]
    anchors = distinct_names([model.name for model in results], anchor, "-")
    sections = [
        model_section(model, anchors[model.name], selection, sheets)
        for model, selection in zip(results, selections, strict=True)
    ]
    radar = radar_figure(results)
    overview = {} if radar is None else {radar.name: draw_figure(radar)}
    blocks = {section.anchor: section.case_data for section in sections if section.case_data}
    if further := range(examples, len(sheets.files)):
        blocks[IMAGES] = pack({n: [data_uri(sheets.files[n], "image/webp"), *sheets.size(n)] for n in further})
    context = {
        "title": f"Re-routing report: {join_names([model.name for model in results])}",
        "command": saved.run.get("command", "run"),
        "overview": overview,
        "models": sections,
        "sheets": [(n, sheets.files[n], *sheets.size(n)) for n in range(examples)],
        "settings": settings_line(saved.settings),
        "versions": {name: text for name, text in saved.run.get("versions", {}).items() if isinstance(text, str)},
    }
    details = {section.anchor: _view_details(section) for section in sections}
    page = render_template("report.html.j2", **context, details=details, packs_views=True)
    sizes = [page, *(text for views in details.values() for text in list(views.values())[1:]), *blocks.values()]
    if sum(len(text.encode("utf-8")) for text in sizes) > PAGE_BYTES:
        scripts = [_packed_views(name, views) for name, views in details.items() if len(views) > 1]
    else:
        page, scripts = render_template("report.html.j2", **context, details=details, packs_views=False), []
    room = PAGE_BYTES - len(page.encode("utf-8")) - sum(map(len, scripts))
    inside, outside = inline_and_files(blocks, room)
    scripts += [f'<script type="text/plain" data-block="{name}">{blocks[name]}</script>' for name in inside]
    scripts += [f'<script src="{quote(folder)}/{quote(name)}-data.js"></script>' for name in outside]
    files = {name: content for section in sections for name, content in section.files(png).items()}
    for figure in overview.values():
        files |= figure_files(figure, png)
    for name in outside:
        script = f'(window.r2t2Blocks = window.r2t2Blocks || {{}})["{name}"] = "{blocks[name]}";\n'
        files[f"{name}-data.js"] = script.encode("ascii")
    return page.replace(INLINE_DATA, "\n".join(scripts)), files


def _view_details(section: ModelSection) -> dict[str, Markup]:
    """The details of all strategies of a model, by strategy."""
    return {
        view.name: Markup(render_template("view_details.html.j2", view=view, model=section.name))
        for view in section.views
    }


def _packed_views(model: str, details: Mapping[str, str]) -> str:
    """The details of all strategies but the first, which the page's script shows when they are chosen."""
    others = {name: str(text) for name, text in list(details.items())[1:]}
    return f'<script type="text/plain" data-views="{model}">{pack(others)}</script>'


def _image_sheets(saved: SavedRun, results: Sequence[ModelResults], selections: Sequence[Selection]) -> ImageSheets:
    """Sheets of the images of two groups: of all examples, and of at most `MAX_IMAGES` other cases by change."""
    examples = {
        model.ids[example.row]: None
        for model, selection in zip(results, selections, strict=True)
        for selected in selection.values()
        for example in selected
    }
    by_change = [[model.ids[i] for i in order_by_change(model)] for model in results if model.explained is not None]
    in_turn = dict.fromkeys(name for names in zip_longest(*by_change) for name in names if name is not None)
    others = [name for name in in_turn if name not in examples][:MAX_IMAGES]
    return find_images(saved, {*examples, *others}).sheets([list(examples), others])


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
