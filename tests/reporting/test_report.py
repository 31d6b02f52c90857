"""The report is one self-contained page that agrees with the run's summary, for any text in the questions."""

import base64
import csv
import json
import re
import zlib
from collections import Counter
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.dom.minidom import parseString

import numpy as np
import pytest
from PIL import Image

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.statistics import compare
from r2t2_jax.reporting import report, sections
from r2t2_jax.reporting.drawing import Drawing, fit_text, text_width
from r2t2_jax.reporting.failure_causes import CAUSES
from r2t2_jax.reporting.figures.accuracy import accuracy_figure, axis_names, radar_figure
from r2t2_jax.reporting.figures.cost import cost_figure
from r2t2_jax.reporting.figures.experts import expert_changes
from r2t2_jax.reporting.headline import headline
from r2t2_jax.reporting.page import svg_uri
from r2t2_jax.reporting.report import write_report
from r2t2_jax.reporting.results import ModelResults, StrategyRows, read_results
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.reading import open_run
from r2t2_jax.runs.run import Run
from tests.reporting.example_run import HOSTILE, STRATEGIES, B, make_run
from tests.reporting.page_reader import Element, read

FIGURES = ("accuracy", "cost", "families", "flow", "experts", "paths", "surrogate", "similarity")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("report"))
    write_report(folder, png=True)
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
        assert set(rows) == set(summary["strategies"]) == set(STRATEGIES)
        for name, row in rows.items():
            cells = [cell.text for cell in row.named("td")]
            assert cells[:2] + cells[4:] == _cells(summary["strategies"][name])


def _cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row, formatted independently."""
    low, high = (f"{100 * bound:.1f}" for bound in row["ci95"])
    turned = [str(row["wrong_to_right"]), str(row["right_to_wrong"])]
    return [f"{100 * row['accuracy']:.1f}", f"{low}–{high}", "–", *turned, str(row["evaluations_per_sample"]), "–"]


def test_methods_are_grouped_and_ordered_by_accuracy_with_paired_gains(run_folder: Path, document: Element) -> None:
    models = read_results(open_run(run_folder))
    for table, model in zip(document.classed("methods"), models, strict=True):
        groups = [
            [str(row.attributes["data-strategy"]) for row in body.named("tr") if "data-strategy" in row.attributes]
            for body in table.named("tbody")
        ]
        assert groups[0] == ["base"]
        assert [set(group) for group in groups[1:]] == [
            *({"ngd", "kernel_regression"}, {"uniform", "random_neighbors"}, {"oracle"}),
        ]
        for group in groups:
            accuracy = [model.strategies[name].right.mean() for name in group]
            assert accuracy == sorted(accuracy, reverse=True)
        for row in table.named("tr"):
            if (name := row.attributes.get("data-strategy")) not in (None, "base"):
                gain = compare(model.base.right, model.strategies[name].right).times(100)
                cells = [cell.text.replace("−", "-") for cell in row.named("td")[2:4]]
                assert cells == [f"{gain.gain:+.1f}", f"{gain.low:+.1f} to {gain.high:+.1f}"]
        assert "label-searched" in next(row.text for row in table.named("tr") if "oracle" in row.text)
    assert "upper bound" not in document.text.lower()


def test_the_page_loads_nothing_from_elsewhere(document: Element) -> None:
    assert document.named("script")
    assert not any("src" in script.attributes for script in document.named("script"))  # all data are in the page
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
    first = [view for view in document.classed("view") if view.attributes["data-view"] == "ngd"]
    sheets = {f"#{image.attributes['id']}" for image in document.named("image")}
    cards = [card for view in first for card in view.classed("r2t2-card")]
    assert len(cards) == 20  # ten of the best strategy for each model
    outcomes = [card.classed("outcome")[0].text for card in cards[:10]]
    assert set(outcomes) == {"wrong → right", "right → wrong", "right → right", "wrong → wrong"}
    for card in cards:
        (scene,) = card.named("svg")
        assert str(scene.attributes["aria-label"]).startswith("The image of example")
        assert scene.named("use")[0].attributes["href"] in sheets
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
        causes = Counter(row["cause"] for row in csv.DictReader(file) if row["strategy"] == "ngd")
    section = document.classed("causes")[0]  # of the first model's first view, which is that of the best strategy
    assert [term.text for term in section.named("dt")] == [
        f"{cause}: {causes[cause]}" for cause in CAUSES if causes[cause]
    ]
    assert len(section.named("dd")) == len(causes)
    listed = [row.named("td")[0].text for row in section.named("tbody")[0].named("tr")]
    assert 0 < len(listed) <= 12 and set(listed) <= set(causes)


def test_every_figure_has_a_caption_two_drawings_and_files(run_folder: Path, document: Element) -> None:
    figures = document.named("figure")
    assert len(figures) == 2 * len(set(FIGURES) - {"families", "experts"})  # these are tables of each strategy
    for figure in figures:
        assert len(figure.named("source")) == len(figure.named("img")) == 1
        assert len(str(figure.named("img")[0].attributes["alt"])) > 20
        assert figure.named("figcaption")[0].text.endswith(".")
    for name in FIGURES:
        image = Image.open(BytesIO((run_folder / "report" / f"toy-left-{name}.png").read_bytes()))
        assert image.width == 1440
        svg = parseString((run_folder / "report" / f"toy-left-{name}.svg").read_bytes()).documentElement
        assert svg.tagName == "svg" and svg.getElementsByTagName("text")
        with (run_folder / "report" / f"toy-left-{name}.csv").open(encoding="utf-8") as file:
            assert list(csv.DictReader(file))
    with (run_folder / "report" / "toy-left-flow.csv").open(encoding="utf-8") as file:
        steps = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
    for before, after in pairwise(steps):
        assert after["right"] == before["right"] + after["turned_right"] - after["turned_wrong"]
        assert after["right"] + after["wrong"] == B


def test_the_same_run_gives_the_same_bytes(run_folder: Path, tmp_path: Path) -> None:
    again = write_report(run_folder, tmp_path / "again.html", png=True)
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
    assert "the 8 largest of 11 experts" in page.classed("routing")[0].named("caption")[0].text
    assert "others" in [cell.text for cell in page.classed("matrix")[0].named("th")]


def test_a_run_with_base_only_has_a_report(tmp_path: Path) -> None:
    page = read(write_report(make_run(tmp_path, ("mine",), ("base",), images=False)).read_text(encoding="utf-8"))
    assert "No strategy re-routed." in page.named("header")[0].text
    assert not page.classed("r2t2-card") and not page.classed("cases")


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
    monkeypatch.setattr(sections, "figure_specs", lambda results, _: [accuracy_figure(results), cost_figure(results)])
    page, files = report.render_report(open_run(folder))
    assert page.index("All benchmarks") < page.index('<section id="')
    rows = list(csv.DictReader(files["radar.csv"].decode().splitlines()))
    assert list(rows[0]) == ["benchmark", "base", "ngd"]  # controls are left out
    for row, model in zip(rows, models, strict=True):
        assert row["benchmark"] == model.name
        for name in ("base", "ngd"):
            assert float(row[name]) == pytest.approx(model.strategies[name].right.mean())
    assert all(label in files["radar.svg"].decode() for label in (">one<", ">two<", ">three<"))
    assert not any(name.endswith(".png") for name in files)
    assert radar_figure(models[:2]) is None
    assert axis_names(["toy on one", "toy on two"]) == ["one", "two"]
    assert axis_names(["toy:a", "toy:b"]) == ["toy:a", "toy:b"]


def test_every_strategy_has_a_view_that_agrees_with_the_rows(run_folder: Path, document: Element) -> None:
    for box, model in zip(document.classed("views"), read_results(open_run(run_folder)), strict=True):
        views = {str(view.attributes["data-view"]): view for view in box.classed("view")}
        assert (
            next(iter(views)) == "ngd"
        )  # the best strategy without labels; all others follow, hidden by the script alone
        assert set(views) == set(STRATEGIES) - {"base"} and not any("hidden" in v.attributes for v in views.values())
        for name, view in views.items():
            failed = int((model.base.right & ~model.strategies[name].right).sum())
            assert f"{failed} turned wrong" in view.named("p")[0].text
            counts = [int(cell.text) for table in view.classed("matrix") for cell in table.named("td") if cell.text]
            assert sum(counts) == B
            rows = view.classed("dots")[0].named("tbody")[0].named("tr")
            for row in rows:
                base, after, gain = (float(cell.text.replace("−", "-")) for cell in row.named("td")[1:])
                assert gain == pytest.approx(after - base, abs=0.11)
            assert len(view.classed("shifts")[0].named("tbody")[0].named("tr")) == len(model.experts)


def test_all_cases_are_in_the_page_and_in_a_csv_file(run_folder: Path, document: Element) -> None:
    models = read_results(open_run(run_folder))
    blocks = {script.attributes["data-block"]: script.text for script in document.named("script") if script.attributes}
    for anchor, model in zip(("toy-left", "toy-right"), models, strict=True):
        data = unpacked(str(blocks[anchor]))
        assert [case[0] for case in data["cases"]] == model.ids
        for name, rows in model.strategies.items():
            assert [data["texts"][i] for i in data["answers"][name]] == rows.predictions
            assert data["right"][name] == "".join("01"[right] for right in rows.right.tolist())
        experts, columns = data["weights"]["ngd"][3]
        assert experts == [0, 1, 2]
        expected = model.router_weights[3, 1], model.strategies["ngd"].weights[3, 1]  # layer 2
        assert columns[2:] == [[round(1000 * float(weight)) for weight in weights] for weights in expected]
        neighbors = [data["references"][reference][0] for reference, _ in data["neighbors"]["ngd"][3]]
        assert neighbors == [model.references[name]["question"] for name in model.strategies["ngd"].neighbors[3]]
        with (run_folder / "report" / f"{anchor}-cases.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == model.ids
        assert [row["ngd right"] == "True" for row in rows] == model.strategies["ngd"].right.tolist()


def unpacked(block: str) -> dict[str, Any]:
    return json.loads(zlib.decompress(base64.b64decode(block)))


def test_data_beyond_the_size_of_a_page_are_files_next_to_it(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "figure_specs", lambda results, _: [accuracy_figure(results), cost_figure(results)])
    monkeypatch.setattr(report, "PAGE_BYTES", 1000)
    page = read(write_report(run_folder, tmp_path / "small page.html").read_text(encoding="utf-8"))
    sources = [script.attributes["src"] for script in page.named("script") if "src" in script.attributes]
    assert sources == [f"small%20page/{name}-data.js" for name in ("toy-left", "toy-right", "images")]
    assert not [script for script in page.named("script") if "data-block" in script.attributes]
    text = (tmp_path / "small page" / "toy-left-data.js").read_text()
    assert len(unpacked(text.rpartition('= "')[2].removesuffix('";\n'))["cases"]) == B


def test_the_headline_compares_the_best_method_with_base_and_controls(run_folder: Path, document: Element) -> None:
    text = document.named("header")[0].text
    for model in read_results(open_run(run_folder)):
        best = model.strategies["ngd"]
        assert best.right.mean() == max(model.strategies[name].right.mean() for name in ("ngd", "kernel_regression"))
        for control in ("uniform", "random_neighbors"):
            gain = compare(model.strategies[control].right, best.right).times(100)
            accuracy = 100 * model.strategies[control].right.mean()
            shown = f"{accuracy:.1f} %, {gain.gain:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f})"
            assert shown in text.replace("−", "-")
    verdicts = document.classed("verdicts")[0]
    assert {link.text for link in verdicts.named("a")} == set(STRATEGIES) - {"base"}


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({"ngd": (30, 0), "uniform": (5, 5)}, "Re-routing improves accuracy."),
        ({"ngd": (30, 0), "uniform": (30, 1)}, "improves accuracy, but is not shown to be better than uniform"),
        ({"ngd": (3, 2), "uniform": (0, 0)}, "No significant change with this many questions."),
        ({"ngd": (0, 30), "uniform": (0, 0)}, "Re-routing lowers accuracy."),
        ({"oracle": (30, 0)}, "No strategy without labels was run."),
        ({"uniform": (30, 0)}, "Only controls were run, no re-routing method."),
        ({"ngd": (1, 5), "atlas": (30, 1)}, "Re-routing improves accuracy."),
    ],
)
def test_verdicts(counts: dict[str, tuple[int, int]], verdict: str) -> None:
    right = {"base": np.arange(100) < 50}
    for name, (better, worse) in counts.items():
        right[name] = right["base"].copy()
        right[name][50 : 50 + better] = True
        right[name][:worse] = False
    result = headline(model_of_rows(right))
    assert result is not None and verdict in result.verdict
    assert result.best.strategy == ("atlas" if "atlas" in counts else next(iter(counts)))


def test_labels_of_other_questions_are_compared_with_the_unmodified_model_scored_by_them() -> None:
    counts = {"base": 50, "ngd": 52, "base_permuted": 20, "oracle_permuted": 60}
    result = headline(model_of_rows({name: np.arange(100) < count for name, count in counts.items()}))
    assert result is not None
    gains = {each.strategy: each.gain.gain for group in result.verdicts.values() for each in group}
    assert gains == pytest.approx({"ngd": 2.0, "oracle_permuted": 40.0})


def model_of_rows(right: dict[str, np.ndarray]) -> ModelResults:
    none, flat = np.zeros((100, 0)), np.full((100, 1, 2), 0.5)
    strategies = {
        name: StrategyRows(
            name, ["x"] * 100, row, flat, flat[:, None], none, [], none.astype(bool), none, [[]] * 100, none, none,
            np.zeros(100, bool), 2,
        )
        for name, row in right.items()
    }  # fmt: skip
    texts = [f"{i}" for i in range(100)]
    return ModelResults(
        "toy", ("a", "b"), ("l",), texts, ["f"] * 100, texts, [[]] * 100, flat, strategies, {}, {}, {}, {}
    )


def test_rows_of_a_benchmark_take_references_of_their_model_and_names_of_their_layers(tmp_path: Path) -> None:
    """As `r2t2 eval` records them: rows by model and benchmark, references by model, layer names in the summary."""
    saved = open_run(make_run(tmp_path, ("toy on one",), ("base", "ngd"), images=False))
    table = saved.references
    names = table.schema.get_field_index("model")
    saved.__dict__["references"] = table.set_column(names, "model", [["toy"] * table.num_rows])
    saved.run["models"]["toy on one"]["name"] = "toy"
    saved.summary["models"]["toy on one"]["layers"] = ["first mixer", "second mixer"]
    (model,) = read_results(saved)
    assert model.layers == ("first mixer", "second mixer")
    assert model.references["reference-3"]["question"] == "Which is <3>?"


@pytest.mark.parametrize("name", ["bank.json", "other"])
def test_a_folder_of_a_bank_is_refused_with_its_own_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("{}")
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("r2t2 bank inspect" if name == "bank.json" else "holds no run") in error


def test_half_built_banks_and_runs_without_answers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, cause in (("bank build", "once r2t2 bank build has completed it"), ("count", "no answers to report")):
        out = tmp_path / command
        with Run.open(out, command, {}, Plan([Part("rows", 2, 2)])) as run:
            for batch in run.todo(["rows"]):
                run.append(batch, [{"number": i} for i in range(batch.start, batch.stop)])
            run.finish({"sum": 1})
        assert main(["report", str(out)]) == 2
        error = capsys.readouterr().err
        assert cause in error and error.count("\n") == 1


def test_with_many_experts_the_text_names_experts_and_the_tables_keep_every_answer(tmp_path: Path) -> None:
    experts = tuple(f"expert {i}" for i in range(128))
    (model,) = read_results(open_run(make_run(tmp_path, ("mine",), ("base", "ngd"), experts, images=False)))
    changes = expert_changes(model)
    assert changes is not None
    before, after = (w.mean(axis=1).argmax(axis=1) for w in (model.router_weights, model.strategies["ngd"].weights))
    preferred = np.bincount(before).argmax()
    assert f"The router prefers expert {preferred}, which" in changes.text and "others share one row" in changes.text
    assert changes.changed == (before != after).mean()
    assert sum(int(table.sum()) for table in changes.tables.values()) == B
    assert len(changes.names) == 9 and changes.names[-1] == "others" and len(changes.shifts) == 12


def test_a_drawing_has_every_text_color_and_opacity_and_its_address_no_other_characters() -> None:
    drawing = Drawing(200, 100)
    drawing.line([(0, 0.25), (100, 99.96)], "#0072B2", opacity=0.55)
    texts = ["0.25", "0.125–0.75", "a \"b\" 'c' <d> & #e 3.14159", "$x_1$ \\alpha"]
    for text in [*texts, "a\x00b\nc"]:
        drawing.text((10, 20), text, angle=40)
    svg = drawing.svg()
    nodes = parseString(svg).documentElement.getElementsByTagName("text")
    assert [node.firstChild.data for node in nodes] == [*texts, "a�b c"]
    assert 'opacity="0.6"' not in svg.decode() and 'opacity="0.55"' in svg.decode()
    assert b'd="M0 0.2L100 100"' in svg
    for uri in (svg_uri(svg), svg_uri(b'<svg xmlns="s"><text a="it\'s">\'"#%</text></svg>')):
        content = unquote(uri.removeprefix("data:image/svg+xml,"))
        assert not re.search(r'[\s"<>#]', uri)
        assert parseString(content).documentElement.tagName == "svg"


def test_long_labels_are_cut_to_a_width() -> None:
    assert fit_text("short", 100) == "short"
    cut = fit_text("a very long name of a family of questions" * 9, 100)
    assert cut.endswith("…") and 80 < text_width(cut) <= 100


def test_a_large_page_packs_the_details_of_all_strategies_but_the_first(
    run_folder: Path, document: Element, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "figure_specs", lambda results, _: [accuracy_figure(results), cost_figure(results)])
    monkeypatch.setattr(report, "PAGE_BYTES", 1000)
    page = read(write_report(run_folder, tmp_path / "small.html").read_text(encoding="utf-8"))
    packed = {
        script.attributes["data-views"]: script.text
        for script in page.named("script")
        if "data-views" in script.attributes
    }
    assert list(packed) == ["toy-left", "toy-right"]
    for box, whole, text in zip(page.classed("views"), document.classed("views"), packed.values(), strict=True):
        details = unpacked(text)
        views, complete = box.classed("view"), whole.classed("view")
        assert views[0].text == complete[0].text  # of the best strategy, for readers without scripts
        assert [view.attributes["data-view"] for view in views[1:]] == list(details)
        for view, full in zip(views[1:], complete[1:], strict=True):
            heading, verdict, note = view.children
            assert (heading.text, verdict.text) == (full.children[0].text, full.children[1].text)
            assert note.attributes["class"] == "note packed"
            content = read(details[str(view.attributes["data-view"])])
            assert content.text == " ".join(child.text for child in full.children[2:])
