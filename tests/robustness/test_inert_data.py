"""Data does not act: images start no program, names stay below their folder, and text is text wherever it is shown."""

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from xml.dom.minidom import parseString

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.table import Table

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.contact_sheet import contact_sheet
from r2t2_jax.datasets.images import FORMATS, decode_image, encoded_image
from r2t2_jax.datasets.registry import load_jsonl
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.axes import Area, draw_axes, name_axis, number_axis
from r2t2_jax.reporting.expert_page import map_page
from r2t2_jax.reporting.formatting import plain_console
from r2t2_jax.reporting.page import anchor, render_template
from r2t2_jax.reporting.style import new_drawing
from r2t2_jax.reporting.tables import csv_table, latex_table, markdown_table
from r2t2_jax.routes.expert_map import map_experts
from r2t2_jax.routes.expert_steering import boost_rules
from r2t2_jax.runtime.csv_cells import read_csv, write_csv
from r2t2_jax.runtime.typed_files import open_array, read_parquet, read_text
from tests.robustness.writers import facts, recorded_samples

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(hello) print\n"
SCRIPT = '"><script>alert(1)</script>'


def encoded(kind: str, size: tuple[int, int] = (24, 16)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def refusal(image: Path | bytes) -> str:
    with pytest.raises(R2T2Error) as error:
        encoded_image(image, "line 1")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_image_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path / 'STARTED'}\nexit 1\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "i.png").write_bytes(POSTSCRIPT)
    assert "i.png: not an image of the formats PNG, JPEG, WEBP, GIF, BMP, TIFF" in refusal(tmp_path / "i.png")
    assert "not an image" in refusal(POSTSCRIPT)
    assert not (tmp_path / "STARTED").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_permitted_format_is_read(kind: str) -> None:
    assert decode_image(encoded_image(encoded(kind), "line 1")).shape == (16, 24, 3)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "DDS", "JPEG2000", "SGI", "PDF"])
def test_every_other_format_is_refused(kind: str) -> None:
    assert "not an image" in refusal(encoded(kind))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "no regular file" in refusal(tmp_path / "pipe.png")  # and does not wait for a writer
    assert "no regular file" in refusal(Path("/dev/zero"))
    assert "no regular file" in refusal(tmp_path)
    assert "cannot read image" in refusal(tmp_path / "a\0b.png")
    assert "it does not exist" in refusal(tmp_path / "none.png")


def test_pipes_in_place_of_other_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (
        read_text,
        lambda path: open_array(path, ("float32",), (3,), "make it again"),
        lambda path: read_parquet(path, "make it again"),
    ):
        with pytest.raises(R2T2Error, match="no regular file"):
            read(tmp_path / "pipe")


def test_sizes_are_known_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "long.png").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    assert "1,099,511,627,776 bytes; at most" in refusal(tmp_path / "long.png")
    monkeypatch.setattr("r2t2_jax.datasets.images.MAX_PIXELS", 24 * 16 - 1)
    assert "it has 24 x 16 pixels; at most 383" in refusal(encoded("PNG"))


def test_other_content_is_called_by_its_name() -> None:
    assert "not an image but a Git LFS pointer" in refusal(b"version https://git-lfs.github.com/spec/v1\n")
    assert "not an image but an HTML page" in refusal(b"<!doctype html><p>log in</p>")
    assert "not an image but an empty file" in refusal(b"")


@pytest.mark.parametrize("kind", FORMATS)
@given(position=st.integers(0, 2000), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_images_are_read_or_refused(kind: str, position: int, value: int, cut: bool) -> None:
    raw = bytearray(encoded(kind))
    raw[position % len(raw)] = value
    content = bytes(raw[: position % len(raw)] if cut else raw)
    try:
        decode_image(encoded_image(content, "line 1"))
    except R2T2Error:
        return


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png", "a/../../secret.png"])
def test_images_of_questions_stay_below_their_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    image = f"{tmp_path}{name}" if name.startswith("/") else name
    line = {"image": image, "question": "?", "answer": "a"}
    (tmp_path / "set" / "q.jsonl").write_text(json.dumps(line))
    with pytest.raises(R2T2Error, match=r"q\.jsonl:1: image .* is not below"):
        load_jsonl(tmp_path / "set" / "q.jsonl")
    (tmp_path / "set" / "q.jsonl").write_text(json.dumps(line | {"image": "set/../secret.png"}))
    load_jsonl(tmp_path / "set" / "q.jsonl", images=tmp_path)


def test_cells_of_csv_files_are_no_formulas() -> None:
    cells = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "-0.5", "+1.5", "red", -0.5]
    lines = csv_table([{"=name": cell} for cell in cells]).splitlines()
    assert lines == [
        "'=name",
        "'=1+1",
        "'+cmd|' /C calc'!A0",
        "'-2+3",
        "'@SUM(A1)",
        "'\t=1",
        "-0.5",
        "+1.5",
        "red",
        "-0.5",
    ]


def test_categories_of_a_map_are_no_formulas_and_stay_the_groups_of_experts_steer(tmp_path: Path) -> None:
    names = ["=1+1", "-2+3", "'=1", "a\nb", "c\u2028d", SCRIPT, "'", "-0.5", 'x,"y"']
    columns = {name: [0.5] * len(names) for name in ("usage_difference", "usage_q")}
    texts = {"factor": ["category"] * len(names), "group": names, "layer": ["0"] * len(names), "expert": names}
    write_csv(tmp_path / "experts.csv", pa.table(texts | columns))
    with (tmp_path / "experts.csv").open(newline="", encoding="utf-8") as file:
        cells = [row["group"] for row in csv.DictReader(file)]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))] == ["-0.5"]
    assert [row["group"] for row in read_csv(tmp_path / "experts.csv", "map again")] == names
    for name in names:
        assert list(boost_rules(tmp_path, name, "all", 1.0, "std", "all", None)[0]["boost"]) == [name]


@pytest.mark.parametrize("content", ['a,b\n"1', "a,a\n1,2\n", "a,b\n1\n", "a\n" + "x" * 200_000, "<!doctype html>"])
def test_damaged_maps_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "experts.csv").write_text(content)
    with pytest.raises(R2T2Error, match=r"experts\.csv"):
        boost_rules(tmp_path, "size", "all", 1.0, "std", "all", None)


def test_names_in_maps_of_experts_are_no_html() -> None:
    samples = [replace(each, category=f"{SCRIPT}{each.id}") for each in recorded_samples(0) * 3]
    named = replace(facts(), layers=(SCRIPT, "1"), experts=("a", SCRIPT, "c"))
    maps = map_experts(samples, named, ("category",), permutations=20, rate=1.0)
    page = map_page(SCRIPT, maps, named, 1.0, 20)
    assert "<script>alert" not in page and page.count("&lt;script") >= 4


def test_cells_of_latex_tables_are_no_commands() -> None:
    table = latex_table(["name", "n"], [["[1cm] \\input{x}\n\n*", "1"], ["$x$\x00%#&_{}^~", "2"]])
    assert r"{[}1cm{]} \textbackslash{}input\{x\} {*} & 1 \\" in table
    assert r"\$x\$\%\#\&\_\{\}\textasciicircum{}\textasciitilde{} & 2 \\" in table


def test_cells_of_markdown_tables_are_no_markup() -> None:
    table = markdown_table(["name"], [["<img src=x>|\n[a](javascript:b)"], ["1 < 2"]])
    assert table.splitlines()[2:] == ["| &lt;img src=x>\\| \\[a\\](javascript:b) |", "| 1 < 2 |"]


@pytest.mark.parametrize("name", ["price: $5% or $6%", "$100_$200", "costs $5 and $6", "颜色", r"\alpha $\frac$", "%s"])
def test_names_in_figures_are_no_mathematics(name: str) -> None:
    drawing = new_drawing(False, 72)
    draw_axes(drawing, Area(0, 0, 500, 72), number_axis(0, 1), name_axis([name]))
    assert name in [node.firstChild.data for node in parseString(drawing.svg()).getElementsByTagName("text")]
    assert drawing.png().startswith(b"\x89PNG")


def test_markup_in_tables_is_printed_as_it_is() -> None:
    out = io.StringIO()
    table = Table("name", title="[/b] :smile:")
    table.add_row("[red]x[/red] [/nothing]")
    plain_console(file=out, width=60, color_system=None).print(table, "[link=file:///x]y[/link]")
    assert all(text in out.getvalue() for text in ("[/b] :smile:", "[red]x[/red] [/nothing]", "[link=file:///x]y"))


def test_text_in_pages_is_no_html() -> None:
    sample = Sample(SCRIPT, np.zeros((4, 4, 3), np.uint8), SCRIPT, (SCRIPT,), options=(SCRIPT,), category=SCRIPT)
    page = contact_sheet(SCRIPT, [SCRIPT], [sample])
    assert "<script" not in page and page.count("&lt;script") >= 6
    assert "<script" not in render_template("cards.html.j2", examples=[])
    assert anchor("../../x\0\n") == "------x--"
