"""The report is one self-contained page that agrees with the run's summary, for any text in the questions."""

import csv
import json
import re
from collections import Counter
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting import report
from r2t2_jax.reporting.failure_causes import CAUSES
from r2t2_jax.reporting.figures.accuracy import accuracy_figure, axis_names, radar_figure
from r2t2_jax.reporting.figures.cost import cost_figure
from r2t2_jax.reporting.report import write_report
from r2t2_jax.reporting.results import read_results
from r2t2_jax.runs.reading import open_run
from tests.reporting.example_run import HOSTILE, STRATEGIES, B, make_run
from tests.reporting.page_reader import Element, read

FIGURES = ("accuracy", "cost", "families", "flow", "experts", "paths", "surrogate", "similarity")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("report"))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def document(run_folder: Path) -> Element:
    return read((run_folder / "report.html").read_text(encoding="utf-8"))


def test_the_methods_table_has_the_numbers_of_the_summary(run_folder: Path, document: Element) -> None:
    models = json.loads((run_folder / "summary.json").read_text())["models"]
    tables = document.classed("methods")
    assert len(tables) == len(models) == 2
    for table, summary in zip(tables, models.values(), strict=True):
        rows = {
            str(row.attributes["data-strategy"]): row for row in table.named("tr") if "data-strategy" in row.attributes
        }
        assert list(rows) == list(summary["strategies"]) == list(STRATEGIES)
        for name, row in rows.items():
            assert [cell.text for cell in row.named("td")] == _cells(summary["strategies"][name])


def _cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row, formatted independently."""
    low, high = (f"{100 * bound:.1f}" for bound in row["ci95"])
    turned = [str(row["wrong_to_right"]), str(row["right_to_wrong"])]
    return [f"{100 * row['accuracy']:.1f}", f"{low}–{high}", "–", *turned, str(row["evaluations_per_sample"]), "–"]


def test_the_page_loads_nothing_and_runs_no_script(document: Element) -> None:
    assert not document.named("script")
    assert not document.named("link")
    addresses = [
        str(element.attributes[name])
        for element in document.all(lambda _: True)
        for name in ("src", "srcset", "href", "data", "action")
        if name in element.attributes
    ]
    assert addresses
    assert {address.partition(":")[0] if ":" in address else address[:1] for address in addresses} == {"data", "#"}
    assert not any(name.startswith("on") for element in document.all(lambda _: True) for name in element.attributes)
    assert not re.search(r"url\(|@import", document.named("style")[0].text)
    anchors = {element.attributes["id"] for element in document.all(lambda e: "id" in e.attributes)}
    assert {address[1:] for address in addresses if address.startswith("#")} <= anchors


def test_a_hostile_question_stays_text(document: Element) -> None:
    questions = [element for element in document.classed("question") if "alert" in element.text]
    assert questions
    assert all(element.text == HOSTILE and not element.children for element in questions)
    assert any("<counting>" in element.text for element in document.named("th"))


def test_examples_show_images_neighbors_and_failures(document: Element) -> None:
    cards = document.classed("r2t2-card")
    assert len(cards) == 20  # ten for each model
    outcomes = [card.classed("outcome")[0].text for card in cards[:10]]
    assert set(outcomes) == {"wrong → right", "right → wrong", "right → right", "wrong → wrong"}
    for card in cards:
        assert len(card.named("img")) == 1
        neighbors = card.classed("neighbors")[0].named("tbody")[0].named("tr")
        assert len(neighbors) == 3
        cells = [[cell.text for cell in row.named("td")] for row in neighbors]
        assert all(re.fullmatch(r"Which is <\d+>\?", row[0]) and row[1].endswith("& co") for row in cells)
        assert sum(float(row[2]) for row in cells) == pytest.approx(100, abs=0.2)
        for column in range(4):  # before and after in two layers: a Dirichlet draw sums to one
            rows = card.classed("routing")[0].named("tbody")[0].named("tr")
            assert sum(float(row.named("td")[column].text) for row in rows) == pytest.approx(100, abs=0.2)


def test_failures_are_listed_with_the_causes_of_the_csv_file(run_folder: Path, document: Element) -> None:
    with (run_folder / "report" / "toy-left-causes.csv").open(encoding="utf-8") as file:
        causes = Counter(row["cause"] for row in csv.DictReader(file))
    section = document.classed("causes")[0]
    assert [term.text for term in section.named("dt")] == [
        f"{cause}: {causes[cause]}" for cause in CAUSES if causes[cause]
    ]
    assert len(section.named("dd")) == len(causes)
    listed = [row.named("td")[0].text for row in section.named("tbody")[0].named("tr")]
    assert 0 < len(listed) <= 12 and set(listed) <= set(causes)


def test_every_figure_has_a_caption_two_drawings_and_files(run_folder: Path, document: Element) -> None:
    figures = document.named("figure")
    assert len(figures) == 2 * len(FIGURES)
    for figure in figures:
        assert len(figure.named("source")) == len(figure.named("img")) == 1
        assert len(str(figure.named("img")[0].attributes["alt"])) > 20
        assert figure.named("figcaption")[0].text.endswith(".")
    for name in FIGURES:
        image = Image.open(BytesIO((run_folder / "report" / f"toy-left-{name}.png").read_bytes()))
        assert image.width == 1440
        with (run_folder / "report" / f"toy-left-{name}.csv").open(encoding="utf-8") as file:
            assert list(csv.DictReader(file))
    with (run_folder / "report" / "toy-left-flow.csv").open(encoding="utf-8") as file:
        steps = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
    for before, after in pairwise(steps):
        assert after["right"] == before["right"] + after["turned_right"] - after["turned_wrong"]
        assert after["right"] + after["wrong"] == B


def test_the_same_run_gives_the_same_bytes(run_folder: Path, tmp_path: Path) -> None:
    again = write_report(run_folder, tmp_path / "again.html")
    assert again.read_bytes() == (run_folder / "report.html").read_bytes()
    names = sorted(path.name for path in (run_folder / "report").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (run_folder / "report" / name).read_bytes()


def test_a_report_without_images_says_what_is_missing(tmp_path: Path) -> None:
    experts = tuple(f"expert {i}" for i in range(11))
    folder = make_run(tmp_path, ("mine",), ("base", "kernel_regression"), experts, images=False)
    page = read(write_report(folder).read_text(encoding="utf-8"))
    assert page.named("h2")[0].text == "mine"
    assert "the run does not name its question set" in page.classed("no-image")[0].text
    note = next(element.text for element in page.classed("note") if element.text.startswith("Not shown"))
    assert "the run did not answer after every step" in note
    assert "no strategy of this run takes steps" in note
    assert "the 8 largest of 11 experts" in page.named("caption")[0].text


def test_a_run_with_base_only_has_a_report(tmp_path: Path) -> None:
    page = read(write_report(make_run(tmp_path, ("mine",), ("base",), images=False)).read_text(encoding="utf-8"))
    assert "No strategy re-routed." in page.named("header")[0].text
    assert not page.classed("r2t2-card")


def test_a_missing_question_set_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ("mine",))
    (tmp_path / "set.jsonl").unlink()
    page = read(write_report(folder).read_text(encoding="utf-8"))
    assert "the set could not be loaded" in page.classed("no-image")[0].text


@pytest.mark.parametrize("out", ["report.txt", "file/report.html"])
def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    folder = make_run(tmp_path, ("mine",), ("base",), images=False)
    with pytest.raises(R2T2Error, match=r"must end in \.html|cannot write the report"):
        write_report(folder, tmp_path / out)


def test_rows_of_another_version_are_refused_by_column(tmp_path: Path) -> None:
    saved = open_run(make_run(tmp_path, ("mine",), ("base",), images=False))
    saved.__dict__["rows"] = saved.rows.drop_columns(["used_fallback"])
    with pytest.raises(R2T2Error, match="have no column used_fallback: another version"):
        read_results(saved)


def test_an_unfinished_run_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path, ("mine",), ("base",), images=False)
    (folder / "summary.json").unlink()
    for path, cause in ((folder, "not complete"), (tmp_path, "holds no run")):
        assert main(["report", str(path)]) == 2
        error = capsys.readouterr().err
        assert cause in error
        assert error.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_three_benchmarks_are_shown_in_one_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path, ("toy on one", "toy on two", "toy on three"), ("base", "ngd", "uniform"), images=False)
    models = read_results(open_run(folder))
    monkeypatch.setattr(report, "_figure_specs", lambda results, _: [accuracy_figure(results), cost_figure(results)])
    page, files = report.render_report(open_run(folder))
    assert page.index("All benchmarks") < page.index('<section id="')
    rows = list(csv.DictReader(files["radar.csv"].decode().splitlines()))
    assert list(rows[0]) == ["benchmark", "base", "ngd"]  # controls are left out
    for row, model in zip(rows, models, strict=True):
        assert row["benchmark"] == model.name
        for name in ("base", "ngd"):
            assert float(row[name]) == pytest.approx(model.strategies[name].right.mean())
    assert Image.open(BytesIO(files["radar.png"])).format == "PNG"
    assert radar_figure(models[:2]) is None
    assert axis_names(["toy on one", "toy on two"]) == ["one", "two"]
    assert axis_names(["toy:a", "toy:b"]) == ["toy:a", "toy:b"]
