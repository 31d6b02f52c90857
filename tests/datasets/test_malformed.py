"""Malformed official files: each gives a one-line error with exit code 2 and no written file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.datasets.catalog import DATASETS
from tests.datasets.official import OFFICIAL, cvbench, cvbench_row, has_test_file, jpg, mmbench, png, put

Damage = Callable[[Path], object]

VQA_Q, VQA_A = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
VQA_IMAGE = "val2014/COCO_val2014_000000000042.jpg"
CLEVR_Q = "CLEVR_v1.0/questions/CLEVR_val_questions.json"
TQA = "tqa_train_val_test/val/tqa_v1_val.json"
DATA = ("--data-dir", "/nowhere")  # never written
MME = "MME_Benchmark_release_version"


def cut(name: str) -> Damage:
    """Cut off the end of the file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def missing(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def with_content(name: str, content: Any) -> Damage:
    return lambda folder: put(folder / name, content)


def change(name: str, *path: str | int, to: Any) -> Damage:
    """Change one value of a JSON file; `...` removes it."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        inside = content
        for key in path[:-1]:
            inside = inside[key]
        if to is ...:
            del inside[path[-1]]
        else:
            inside[path[-1]] = to
        put(folder / name, content)

    return damage


def duplicate(name: str, member: str) -> Damage:
    """Append the first record of a list to the list."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content[member].append(content[member][0])
        put(folder / name, content)

    return damage


def without_column(folder: Path) -> None:
    row = {name: value for name, value in cvbench_row().items() if name != "source"}
    pq.write_table(pa.Table.from_pylist([row]), folder / "test.parquet")


MALFORMED: list[tuple[str, Damage, str]] = [
    ("vqav2", cut(VQA_Q), f"{VQA_Q}: not JSON, perhaps cut off"),
    ("vqav2", with_content(VQA_Q, b"\xff\xfe\x00"), f"{VQA_Q}: not UTF-8 text"),
    ("vqav2", with_content(VQA_Q, [1]), "expected an object, found [1]: is this the official file?"),
    ("vqav2", with_content(VQA_Q, {"rows": []}), "expected a member 'questions', found rows"),
    ("vqav2", change(VQA_Q, "questions", to={}), "expected a member 'questions'"),
    ("vqav2", change(VQA_Q, "questions", to=[]), "has no usable record in split 'val'"),
    ("vqav2", change(VQA_Q, "info", "version", to="1.0"), "this is version 1.0 of VQA; version 2.0 is required"),
    ("vqav2", change(VQA_Q, "data_subtype", to="train2014"), "contains the split 'train2014', not 'val2014'"),
    ("vqav2", change(VQA_Q, "questions", 0, "question_id", to="42000"), 'must be an integer, not "42000"'),
    ("vqav2", change(VQA_Q, "questions", 0, "image_id", to=...), "question 1: 'image_id' is missing"),
    ("vqav2", change(VQA_Q, "questions", 1, "question", to="  "), "question 2: 'question' is empty"),
    ("vqav2", change(VQA_Q, "questions", 1, to="What?"), 'question 2: expected an object, found "What?"'),
    ("vqav2", duplicate(VQA_Q, "questions"), "question 3: id '42000' occurs twice"),
    ("vqav2", missing(VQA_A), f"expected the annotations file .*{VQA_A}, which does not exist"),
    ("vqav2", change(VQA_A, "annotations", 0, to=...), "question 42000 has no annotation in"),
    ("vqav2", change(VQA_A, "annotations", 0, "answers", to="yes"), "'answers' must be a list of answers"),
    (
        "vqav2",
        change(VQA_A, "annotations", 0, "answers", 3, to={"answer": 1}),
        "an answer in 'answers' is not",
    ),
    ("vqav2", missing(VQA_IMAGE), f"cannot read image .*{VQA_IMAGE}: it does not exist"),
    ("vqav2", with_content(VQA_IMAGE, jpg()[:200]), "cannot read image .*jpg: "),
    ("vqav2", with_content(VQA_IMAGE, "<html>"), "cannot read image .*jpg: not an image"),
    ("vqav2", with_content(VQA_IMAGE, b""), "cannot read image .*jpg: not an image"),
    ("visual7w", change("dataset_v7w_telling.json", "images", to=7), "expected a member 'images'"),
    (
        "visual7w",
        change("dataset_v7w_telling.json", "images", 0, "qa_pairs", 0, "multiple_choices", to=["a", "b"]),
        "expected 3 wrong choices, found 2",
    ),
    ("visual7w", change("dataset_v7w_telling.json", "images", 0, "split", to="train"), "no usable record in split"),
    ("cocoqa", missing("test/types.txt"), "expected the file .*test/types.txt, which does not exist"),
    ("cocoqa", with_content("test/answers.txt", "dog\n"), "the files differ in length (questions.txt 2, answers.txt 1"),
    ("cocoqa", with_content("test/types.txt", "0\n9\n"), "line 2: image id '43' or type '9' is not a number in range"),
    ("cocoqa", with_content("test/img_ids.txt", "x\n43\n"), "line 1: image id 'x' or type '0' is not a number"),
    ("clevr", change(CLEVR_Q, "questions", 0, "answer", to="maybe"), "'maybe' is not one of CLEVR's 28 answers"),
    ("clevr", change(CLEVR_Q, "questions", 0, "answer", to=...), "question 1: 'answer' is missing"),
    ("aokvqa", with_content("aokvqa_v1p0_val.json", {"data": []}), "expected a list, found"),
    ("aokvqa", change("aokvqa_v1p0_val.json", 0, "choices", to=["a"]), "expected 4 choices, found 1"),
    ("aokvqa", change("aokvqa_v1p0_val.json", 0, "choices", 2, to=3), "'choices' must be a list of strings"),
    (
        "aokvqa",
        change("aokvqa_v1p0_val.json", 0, "correct_choice_idx", to=7),
        "the answer is option 7, but there",
    ),
    ("aokvqa_direct", change("aokvqa_v1p0_val.json", 0, "direct_answers", to=...), "'direct_answers' must be a list"),
    ("tqa", change(TQA, 0, "questions", to={}), "lesson 1 has no 'diagramQuestions'"),
    (
        "tqa",
        change(TQA, 0, "questions", "diagramQuestions", "DQ_000001", "correctAnswer", "processedText", to="z"),
        "answer 'z' is not the letter of one of 3 options",
    ),
    (
        "tqa",
        change(TQA, 0, "questions", "diagramQuestions", "DQ_000001", "answerChoices", "b", to=...),
        "answerChoices are ['a', 'c'], not a, b, ...",
    ),
    ("mathvista", change("data/testmini.json", "1", "answer_type", to="word"), "unknown answer_type 'word'"),
    ("mathvista", change("data/testmini.json", "1", "precision", to=5), "a float answer needs a precision of 1 or 2"),
    ("mathvista", change("data/testmini.json", "2", "answer", to="5 m"), "answer '5 m' is not one of the choices"),
    ("mathvista", change("data/testmini.json", "1", "metadata", to=...), "problem 1: 'metadata' is missing"),
    ("mathvista", cut("data/query.json"), "query.json: not JSON"),
    ("stvqa", change("train_task_3.json", "data", 0, "answers", to=[]), "'answers' must be a list of strings, not []"),
    ("stvqa", change("train_task_3.json", "data", 0, "file_path", to=...), "'file_path' is missing"),
    ("docvqa", change("val_v1.0.json", "dataset_version", to="2.0"), "this is version 2.0 of DocVQA; version 1.0 is"),
    ("docvqa", change("val_v1.0.json", "data", 0, "answers", to=...), "question 1: 'answers' is missing"),
    ("mmbench", lambda folder: mmbench(folder, image="QUJ"), "row 2: the image is not base64, perhaps cut off"),
    (
        "mmbench",
        lambda folder: mmbench(folder, image="QUJD"),
        "cannot read image embedded in the file: not an image",
    ),
    ("mmbench", lambda folder: mmbench(folder, answer="D"), "answer 'D' is not the letter of one of 3 options"),
    ("mmbench", lambda folder: mmbench(folder, index="x"), "index 'x' is not a number"),
    ("mmbench", with_content("MMBench_DEV_EN.tsv", "index\tquestion\n1\tWhat?\n"), "has no column hint, A, B, answer"),
    ("mmbench", with_content("MMBench_DEV_EN.tsv", b"index\0\tquestion"), "MMBench_DEV_EN.tsv: "),
    ("mme", with_content(f"{MME}/count/1.txt", "a?\tYes\nb?\tNo\nc?\tNo"), "1.txt: expected 2 questions, found 3"),
    ("mme", with_content(f"{MME}/count/1.txt", "a? Yes\nb?\tNo"), "line 1: expected a question, a tab and Yes or No"),
    (
        "mme",
        with_content(f"{MME}/count/1.txt", "a?\tMaybe\nb?\tNo"),
        "line 1: expected a question, a tab and Yes or No",
    ),
    ("mme", missing(f"{MME}/OCR/1.txt"), "expected questions .*OCR/<image>.txt, but there are none"),
    ("mme", missing(f"{MME}/scene/images/1.png"), "cannot read image .*scene/images/1.jpg: it does not exist"),
    ("cvbench2d", with_content("test.parquet", b"PAR1"), "test.parquet: not a Parquet file, perhaps cut off"),
    ("cvbench2d", cut("test.parquet"), "test.parquet: not a Parquet file, perhaps cut off"),
    ("cvbench2d", without_column, "test.parquet: has no column source"),
    ("cvbench2d", lambda folder: cvbench(folder, answer="(F)"), "answer '(F)' is not the letter of one of 4 options"),
    ("cvbench2d", lambda folder: cvbench(folder, image=None), "row 1: 'image' contains no bytes"),
    (
        "cvbench2d",
        lambda folder: cvbench(folder, image={"bytes": png()[:50], "path": "a"}),
        "cannot read image embedded",
    ),
    ("gqa", with_content("questions1.2/testdev_balanced_questions.json", []), "expected an object, found []"),
    (
        "gqa",
        change("questions1.2/testdev_balanced_questions.json", "201307251", "imageId", to=5),
        "question 201307251: 'imageId' must be a string, not 5",
    ),
    ("scienceqa", change("problems.json", "5", "answer", to=9), "problem 5: the answer is option 9, but there are 2"),
    ("scienceqa", change("problems.json", "5", "answer", to=True), "'answer' must be an integer, not true"),
    ("scienceqa", change("problems.json", "5", "choices", to=None), "problem 5: 'choices' is missing"),
    ("ai2d", missing("ai2d_test_ids.csv"), "expected the list of test diagrams .*ai2d_test_ids.csv"),
    ("ai2d", cut("ai2d/questions/0.png.json"), "0.png.json: not JSON, perhaps cut off"),
    ("ai2d", with_content("ai2d/questions/0.png.json", {"a": 1}), "has no 'imageName' and 'questions'"),
    ("ai2d", with_content("test.jsonl", '{"image": "a.png"'), 'line 1: expected an object, found "{'),
    ("textvqa", change("TextVQA_0.5.1_val.json", "dataset_version", to="0.5"), "this is version 0.5 of TextVQA"),
    ("physbench", missing("test.json"), "expected the questions file .*test.json"),
    (
        "physbench",
        change("test.json", 0, "file_name", to=["a.jpg", "b.jpg"]),
        "the question has 2 images, a sample",
    ),
    ("physbench", change("val_answer.json", 0, "answer", to="E"), "idx 2: answer 'E' is not the letter of one of 4"),
    ("qbench", missing("llvisionqa_dev.json"), "expected the questions file .*llvisionqa_dev.json"),
    ("qbench", change("llvisionqa_dev.json", 0, "correct_ans", to="Dim"), "question 1: the answer 'Dim' is not one of"),
    ("qbench", change("llvisionqa_dev.json", 1, "concern", to=4), "question 2: 'concern' is 4; known are 0 to 3"),
    ("qbench", change("llvisionqa_dev.json", 0, "candidates", to="Yes"), "'candidates' must be a list of strings"),
    ("easy_vqa", with_content("test/questions.json", [["what?", "red"]]), "question 0: 'image' is missing"),
    ("easy_vqa", with_content("test/questions.json", [["what?", "red", "0"]]), "'image' must be an integer"),
    ("easy_vqa", with_content("test/questions.json", ["what?"]), 'question 0: expected an object, found "what?"'),
    (
        "jsonl",
        with_content("questions.jsonl", '{"image": "a.png", "anwser": 1}'),
        "questions.jsonl:1: unknown field 'anwser'; did you mean 'answer'?",
    ),
]


@pytest.mark.parametrize(
    ("name", "damage", "cause"), [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(MALFORMED)]
)
def test_a_malformed_file_gives_one_line_and_writes_nothing(
    name: str, damage: Damage, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = tmp_path / "official", tmp_path / "data"
    OFFICIAL[name](folder)
    damage(folder)
    splits = DATASETS[name].splits[:1] or ("test",)
    options = ["--manual-dir", str(folder), "--split", splits[0], "--data-dir", str(data)]
    assert main(["datasets", "prepare", name, *options]) == 2
    error = capsys.readouterr().err.replace("\r", "\n").strip().split("\n")[-1]
    pattern = ".*".join(re.escape(part) for part in cause.split(".*"))
    assert re.search(pattern, error), error
    assert error.startswith("r2t2: ") and "Traceback" not in error
    assert not [path for path in data.rglob("*") if path.is_file()] and not list(data.glob("r2t2_*"))


def test_every_dataset_has_a_malformed_file() -> None:
    damaged = {name for name, _, _ in MALFORMED} | {"cvbench3d"}
    assert len(MALFORMED) >= 40 and damaged >= set(OFFICIAL)
    assert all(has_test_file(name) for name in set(DATASETS) - damaged)


@pytest.mark.parametrize(
    ("folder", "cause"),
    [
        ("absent", "absent is not a folder; name the folder that contains test/questions.json"),
        ("file.txt", "file.txt is not a folder"),
        ("empty", "expected the questions file"),
    ],
)
def test_a_wrong_folder_is_named(folder: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "file.txt", "x")
    assert main(["datasets", "prepare", "easy_vqa", "--manual-dir", str(tmp_path / folder), *DATA]) == 2
    assert cause in capsys.readouterr().err


def test_ambiguous_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.tsv", "b.tsv"):
        put(tmp_path / name, "index")
    assert main(["datasets", "prepare", "mmbench", "--manual-dir", str(tmp_path), *DATA]) == 2
    assert "contains several files *.tsv (a.tsv, b.tsv); leave only the one to read" in capsys.readouterr().err
