"""The records that each reader yields for its official files, written by hand."""

import base64
import csv
import json
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest

from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.prompts import as_prompt, question_of_document
from r2t2_jax.datasets.record import STYLES, Record
from r2t2_jax.datasets.validate import read_split
from r2t2_jax.metrics import METRICS, SET_SCORES
from r2t2_jax.metrics.mathvista import listed_choices
from tests.datasets.official import OFFICIAL, has_test_file, png, put

MOVA_LINE = {
    "image": "abc_images/70.png",
    "question": "Which?\nA. C\nB. two\nlines\nAnswer with the option's letter from the given choices directly.",
    "question_id": "70.png-3",
    "answer": "B",
}


def first(name: str, folder: Path, split: str | None = None) -> Record:
    OFFICIAL[name](folder)
    dataset = DATASETS[name]
    return read_split(dataset, folder, dataset.splits[0] if split is None else split).records[0]


EXPECTED: dict[str, dict[str, Any]] = {
    "vqav2": {"id": "42000", "question": "Is it red?", "answers": ("yes",) * 9 + ("no",), "category": "yes/no"},
    "cocoqa": {"id": "test/1", "question": "what is black", "answers": ("dog",), "category": "object"},
    "clevr": {"id": "7", "question": "How many cubes?", "answers": ("3",), "category": "count"},
    "aokvqa": {
        "id": "22jbM6gDxdaMaunuzgrsBB",
        "options": ("train", "taxi", "cab", "bus"),
        "answers": ("C",),
        "style": "letter",
    },
    "aokvqa_direct": {"answers": ("cab",) * 9 + ("taxi",), "options": (), "style": "word"},
    "tqa": {"id": "DQ_000001", "options": ("x", "y", "z"), "answers": ("B",), "category": "Multiple Choice"},
    "mathvista": {
        "id": "1",
        "question": "Hint: official\nQuestion: How long? (Unit: m)",
        "answers": ("1.2",),
        "style": "plain",
        "category": "maths",
    },
    "stvqa": {"id": "9", "answers": ("stop", "STOP"), "category": "coco-text"},
    "docvqa": {"id": "5", "answers": ("2", "page 2"), "category": "layout"},
    "mmbench": {
        "id": "7",
        "question": "Look.\nWhich\none?",
        "options": ("x", "y", "z"),
        "answers": ("B",),
        "style": "letter",
        "category": "ocr",
    },
    "mme": {"id": "existence/1.jpg#1", "question": "Is a here?", "answers": ("Yes",), "category": "existence"},
    "cvbench2d": {"id": "0", "options": ("3", "2", "1", "0"), "answers": ("C",), "category": "ADE20K/Count"},
    "cvbench3d": {"id": "1", "options": ("near", "far"), "answers": ("B",), "category": "Omni3D/Depth"},
    "gqa": {"id": "201307251", "question": "Is it overcast?", "answers": ("no",), "category": "verify"},
    "scienceqa": {
        "id": "5",
        "question": "Context: A map.\nWhich state?",
        "options": ("Maine", "Ohio"),
        "answers": ("B",),
        "category": "social science",
    },
    "ai2d": {"id": "0.png-0", "question": "What?", "options": tuple("wxyz"), "answers": ("D",), "category": "text"},
    "textvqa": {"id": "34602", "answers": ("dakota",) * 6 + ("dakota digital",) * 4, "style": "word"},
    "physbench": {
        "id": "2",
        "question": "Which falls first?",
        "options": ("the ball", "the feather", "neither", "both"),
        "answers": ("A",),
        "category": "dynamics",
    },
    "qbench": {
        "id": "00218.jpg#1",
        "question": "How sharp is the dog?",
        "options": ("Sharp", "Blurry", "Medium"),
        "answers": ("B",),
        "style": "letter",
        "category": "how, local distortion",
    },
    "easy_vqa": {"id": "test/0", "question": "what is the red shape?", "answers": ("circle",), "category": "shape"},
    "jsonl": {"id": "q1", "question": "What color?", "answers": ("red",), "split": "test"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_first_record_of_each_dataset(name: str, tmp_path: Path) -> None:
    record = first(name, tmp_path, "test" if name == "jsonl" else None)
    assert {field: getattr(record, field) for field in EXPECTED[name]} == EXPECTED[name]


def test_every_dataset_has_a_metric_and_a_license() -> None:
    assert set(OFFICIAL) == {name for name in DATASETS if name in OFFICIAL or not has_test_file(name)}
    for dataset in DATASETS.values():
        assert dataset.metric in METRICS and dataset.set_score in SET_SCORES
        assert dataset.license and dataset.files and dataset.role in ("reference", "evaluation", "other")
        assert "letter" in STYLES


def test_visual7w_lists_the_options_in_a_fixed_random_order(tmp_path: Path) -> None:
    record = first("visual7w", tmp_path)
    assert sorted(record.options) == ["Carpet.", "Cement.", "Tile.", "Wood."]
    assert record.options["ABCD".index(record.answers[0])] == "Wood."
    assert first("visual7w", tmp_path / "again").options == record.options


def test_mmbench_adds_the_circular_passes_that_a_file_lacks(tmp_path: Path) -> None:
    OFFICIAL["mmbench"](tmp_path)
    passes = read_split(DATASETS["mmbench"], tmp_path, "dev").records
    assert [record.id for record in passes] == ["7", "1000007", "2000007"]
    assert [record.options for record in passes] == [("x", "y", "z"), ("y", "z", "x"), ("z", "x", "y")]
    assert [record.answers[0] for record in passes] == ["B", "A", "C"]  # always y


def test_mmbench_reads_the_circular_passes_of_a_file(tmp_path: Path) -> None:
    OFFICIAL["mmbench"](tmp_path)
    path = tmp_path / "MMBench_DEV_EN.tsv"
    header, row = path.read_text(encoding="utf-8").split("\n", 1)
    image_of_another_row = row.split("\t")
    image_of_another_row[0], image_of_another_row[-3] = "1000007", "7"
    path.write_text(f"{header}\n{row}" + "\t".join(image_of_another_row), encoding="utf-8")
    records = read_split(DATASETS["mmbench"], tmp_path, "dev").records
    assert [record.id for record in records] == ["7", "1000007"]
    assert records[0].image == records[1].image


def test_mmbench_keeps_the_letters_behind_an_empty_column(tmp_path: Path) -> None:
    write_mmbench(tmp_path, [mmbench_row(C="nan", D="w", answer="D")])
    passes = read_split(DATASETS["mmbench"], tmp_path, "dev").records
    assert [record.options for record in passes] == [("x", "y", "", "w"), ("y", "w", "", "x"), ("w", "x", "", "y")]
    assert [record.answers[0] for record in passes] == ["D", "B", "A"]  # always w
    (invalid,) = read_rows(tmp_path, [mmbench_row(C="", D="w", answer="C")])
    assert "answer 'C' is not the letter of one of 4 options" in invalid.cause


def test_mmbench_reads_all_26_option_columns(tmp_path: Path) -> None:
    options = {letter: f"option {letter}" for letter in ascii_uppercase}
    passes = read_rows(tmp_path, [mmbench_row(**options, answer="Z")])
    assert len(passes) == 26 and passes[0].options[25] == "option Z" and passes[25].answers == ("A",)


def test_mmbench_reads_images_of_other_tables(tmp_path: Path) -> None:
    data = png()
    for cell in (base64.encodebytes(data).decode(), "data:image/png;base64," + base64.b64encode(data).decode()):
        assert read_rows(tmp_path, [mmbench_row(image=cell)])[0].image == data
    chain = [mmbench_row(), mmbench_row(index="8", image="7"), mmbench_row(index="9", image="8")]
    assert {record.image for record in read_rows(tmp_path, chain)} == {data}
    circle = [mmbench_row(image="8"), mmbench_row(index="8", image="7")]
    assert "the image is that of row 8, which names this row in turn" in read_rows(tmp_path, circle)[0].cause


def mmbench_row(**cells: str) -> dict[str, str]:
    row = {"index": "7", "question": "Which?", "hint": "", "A": "x", "B": "y", "C": "z", "answer": "B"}
    return row | {"category": "c", "image": base64.b64encode(png()).decode()} | cells


def write_mmbench(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "MMBench_DEV_EN.tsv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)


def read_rows(folder: Path, rows: list[dict[str, str]]) -> list[Any]:
    write_mmbench(folder, rows)
    return list(DATASETS["mmbench"].read(folder, "dev"))


def test_files_that_begin_with_a_dot_are_no_data(tmp_path: Path) -> None:
    for name, path in (("mme", "MME_Benchmark_release_version/count/._1.txt"), ("ai2d", "ai2d/questions/._0.png.json")):
        OFFICIAL[name](tmp_path / name)
        expected = read_split(DATASETS[name], tmp_path / name, DATASETS[name].splits[0]).records
        (tmp_path / name / path).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X\xb0")
        assert read_split(DATASETS[name], tmp_path / name, DATASETS[name].splits[0]).records == expected


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    OFFICIAL["cocoqa"](tmp_path)
    path = tmp_path / "test/questions.txt"
    path.write_bytes(path.read_bytes().replace(b"what is black", "what\u2028is\x0cbla\x85ck".encode()))
    assert first_of("cocoqa", tmp_path).question == "what\u2028is\x0cbla\x85ck"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert first_of("cocoqa", tmp_path).question == "what\u2028is\x0cbla\x85ck"
    OFFICIAL["mme"](tmp_path / "mme")
    path = next((tmp_path / "mme").glob("*/count/*.txt"))
    path.write_text("Is a\x0bhere? Please answer yes or no.\tYes\r\nIs b\u2029here?\tNo\r\n", encoding="utf-8")
    questions = [record.question for record in read_split(DATASETS["mme"], tmp_path / "mme", "perception").records]
    assert "Is a\x0bhere?" in questions and "Is b\u2029here?" in questions


def first_of(name: str, folder: Path) -> Any:
    return read_split(DATASETS[name], folder, DATASETS[name].splits[0]).records[0]


def test_textvqa_reads_the_ocr_tokens_of_llavas_prompts(tmp_path: Path) -> None:
    OFFICIAL["textvqa"](tmp_path)
    assert (first_of("textvqa", tmp_path).question, first_of("textvqa", tmp_path).context) == ("what brand?", "")
    line = "Reference OCR token: DAKOTA, DIGITAL"
    text = f"What brand?\n{line}\nAnswer the question using a single word or phrase."
    row = {"question_id": "003a8ae2ef43b901", "image": "003a8ae2ef43b901.jpg", "text": text, "category": "default"}
    put(tmp_path / "llava_textvqa_val_v051_ocr.jsonl", json.dumps(row) + "\n")
    assert (first_of("textvqa", tmp_path).question, first_of("textvqa", tmp_path).context) == ("What brand?", line)
    put(tmp_path / "llava_textvqa_val_v051_ocr.jsonl", json.dumps(row | {"question_id": "other"}) + "\n")
    (invalid,) = DATASETS["textvqa"].read(tmp_path, "val")
    assert "question 1: the file of prompts with OCR tokens has no question 'what brand?'" in invalid.cause
    (tmp_path / "llava_textvqa_val_v051_ocr.jsonl").unlink()
    put(tmp_path / "llava_textvqa_val_v051_ocr.json", [row])
    assert first_of("textvqa", tmp_path).context == line


@pytest.mark.parametrize(
    ("task", "name", "document"),
    [
        ("mmbench_en_dev", "mmbench", {"question": "Which\none?", "hint": "Look.", "A": "x", "B": "y"}),
        ("scienceqa_img", "scienceqa", {"question": "Which state?", "hint": "A map.", "choices": ["Maine", "Ohio"]}),
        ("mme", "mme", {"question": "Is a here? Please answer yes or no.", "answer": "Yes"}),
        (
            "mathvista_testmini",
            "mathvista",
            {"question": "?", "query": "Hint: official\nQuestion: How long? (Unit: m)"},
        ),
        ("gqa", "gqa", {"question": "Is it overcast?", "answer": "no"}),
        ("ai2d", "ai2d", {"question": "What?", "options": list("wxyz")}),
    ],
)
def test_documents_of_lmms_eval_have_the_questions_of_the_readers(
    task: str, name: str, document: dict[str, Any], tmp_path: Path
) -> None:
    assert question_of_document(task, document) == first(name, tmp_path).question


def test_documents_without_a_question() -> None:
    assert question_of_document("mmbench", {"question": "Which?", "hint": "nan"}) == "Which?"
    assert question_of_document("task", {"query": "?"}) == question_of_document("task", object()) == ""


def test_mathvista_builds_a_missing_query_and_answers_choices_by_letter(tmp_path: Path) -> None:
    OFFICIAL["mathvista"](tmp_path)
    record = read_split(DATASETS["mathvista"], tmp_path, "testmini").records[1]
    assert record.question == (
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
        "Question: How long?\nChoices:\n(A) 3 m\n(B) 4 m"
    )
    assert record.answers == ("B",) and record.options == ()  # the query lists them
    assert listed_choices(record.question) == ("3 m", "4 m")


def test_ai2d_reads_mova_s_question_file(tmp_path: Path) -> None:
    put(tmp_path / "test.jsonl", MOVA_LINE)
    (record,) = read_split(DATASETS["ai2d"], tmp_path, "test", images=False).records
    assert (record.question, record.options, record.answers) == ("Which?", ("C", "two\nlines"), ("B",))
    assert record.image == tmp_path / "abc_images/70.png" and record.category == "letters"


def test_mme_reads_both_layouts_and_every_subtask(tmp_path: Path) -> None:
    OFFICIAL["mme"](tmp_path)
    records = read_split(DATASETS["mme"], tmp_path, "perception").records
    assert len(records) == 20 and len({record.category for record in records}) == 10
    assert as_prompt(records[1].question, style=records[1].style) == (
        "Is b here?\nAnswer the question using a single word or phrase."
    )


def test_questions_without_an_image_are_skipped(tmp_path: Path) -> None:
    for name in ("scienceqa", "physbench", "gqa"):
        OFFICIAL[name](tmp_path / name)
        dataset = DATASETS[name]
        assert len(read_split(dataset, tmp_path / name, dataset.splits[0]).records) == 1
