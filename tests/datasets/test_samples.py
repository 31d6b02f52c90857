"""Reads, prepares and shows real official files from the folder R2T2_SAMPLES.

The expected numbers come from the README of those files.
"""

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.files import read_json
from r2t2_jax.datasets.prompts import official_query
from r2t2_jax.datasets.samples import to_sample
from r2t2_jax.datasets.validate import read_split
from r2t2_jax.metrics.mathvista import form_of, mathvista

SAMPLES = Path(os.environ.get("R2T2_SAMPLES", Path(__file__).parents[2].parent / "shared" / "samples"))
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"{SAMPLES} does not exist")

# dataset: split, questions with their image, questions without
WITH_IMAGES = {
    "clevr": ("val", 81, 0),
    "vqav2": ("train", 63, 0),
    "mmbench": ("dev", 78, 0),  # 20 questions, every pass
    "tqa": ("val", 15, 0),
    "docvqa": ("val", 12, 0),
    "mathvista": ("testmini", 5, 995),
    "aokvqa": ("val", 1, 1144),
    "aokvqa_direct": ("val", 1, 1074),
    "scienceqa": ("test", 1, 166),
    "easy_vqa": ("test", 9673, 0),
}


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_a_dataset_is_prepared_listed_and_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    split, count, without = WITH_IMAGES[name]
    monkeypatch.setenv("R2T2_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    manual = ["--manual-dir", str(SAMPLES / name.removesuffix("_direct"))]
    if without:
        assert main(["datasets", "prepare", name, *manual, "--split", split]) == 2
        assert "it does not exist (--skip-bad skips such records)" in capsys.readouterr().err
    assert main(["datasets", "prepare", name, *manual, "--split", split, "--skip-bad"]) == 0
    skipped = f", {without:,} skipped" if without else ""
    assert f"{name} {split}: {count:,} questions{skipped}: " in capsys.readouterr().out
    assert main(["datasets", "list"]) == 0
    assert f"{split} ({count:,})" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["datasets", "show", name, "--split", split, "--n", "4", "--out", str(page)]) == 0
    shown = page.read_text(encoding="utf-8")
    samples = load_dataset(name, split, n=4)
    assert shown.count("<figure>") == shown.count("data:image/jpeg;base64,") == len(samples) > 0
    assert all(sample.id in shown and sample.image.ndim == 3 for sample in samples)


@pytest.mark.parametrize(
    ("name", "split", "source", "target", "count"),
    [
        ("gqa", "testdev", "questions1.2/sample_balanced_questions.json", "testdev_balanced_questions.json", 9),
        ("textvqa", "val", "TextVQA_0.5.1_val_first30.json", "TextVQA_0.5.1_val.json", 30),
        ("ai2d", "test", "test.jsonl", "test.jsonl", 3088),
        ("aokvqa", "val", "aokvqa_v1p0_val.json", "aokvqa_v1p0_val.json", 1145),
    ],
)
def test_datasets_without_images_are_read_and_shown(
    name: str, split: str, source: str, target: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(SAMPLES / name / source, tmp_path / target)
    assert len(read_split(DATASETS[name], tmp_path, split, images=False).records) == count
    page = tmp_path / "page.html"
    options = ["--manual-dir", str(tmp_path), "--split", split, "--out", str(page)]
    assert main(["datasets", "show", name, *options]) == 0
    assert page.read_text(encoding="utf-8").count("no image available") == 5
    assert main(["datasets", "prepare", name, "--manual-dir", str(tmp_path), "--data-dir", str(tmp_path / "data")]) == 2
    assert "cannot read image" in capsys.readouterr().err


def test_mme_has_the_official_number_of_questions(tmp_path: Path) -> None:
    with zipfile.ZipFile(SAMPLES / "mme" / "MME_Benchmark_release_version_text_only.zip") as archive:
        archive.extractall(tmp_path)
    for split, questions, subtasks in (("perception", 2114, 10), ("cognition", 260, 4)):
        records = read_split(DATASETS["mme"], tmp_path, split, images=False).records
        assert len(records) == questions and len({record.category for record in records}) == subtasks
        assert sum(record.answers == ("Yes",) for record in records) == questions / 2


def test_scienceqa_reads_the_questions_with_an_image() -> None:
    problems = read_json(SAMPLES / "scienceqa" / "problems.json", dict)
    expected = [pid for pid, problem in problems.items() if problem["split"] == "test" and problem["image"]]
    records = read_split(DATASETS["scienceqa"], SAMPLES / "scienceqa", "test", images=False).records
    assert [record.id for record in records] == expected


def test_mathvista_queries_and_forms_are_the_official_ones() -> None:
    """`official_query` equals the published query, and `form_of` reads the form that the file states."""
    data = SAMPLES / "mathvista" / "data"
    problems, queries = read_json(data / "testmini.json", dict), read_json(data / "query.json", dict)
    assert all(official_query(problem) == queries[pid] for pid, problem in problems.items())
    misread = set()
    for record in read_split(DATASETS["mathvista"], SAMPLES / "mathvista", "testmini", images=False).records:
        problem, sample = problems[record.id], to_sample(record, b"")
        form = form_of(sample)
        assert (form.kind, form.precision) == (problem["answer_type"], problem["precision"])
        assert [choice.strip() for choice in form.choices] == [choice.strip() for choice in problem["choices"] or ()]
        if mathvista(problem["answer"], sample) == 0.0:
            misread.add(record.id)
    assert misread == {"168", "849"}  # choices such as "(c)", "(a)": the official script reads "(a)" as the first one


def test_vqav2_answers_add_up() -> None:
    for record in read_split(DATASETS["vqav2"], SAMPLES / "vqav2", "train").records:
        assert len(record.answers) == 10
        counts = [record.answers.count(answer) for answer in record.answers]
        assert counts == sorted(counts, reverse=True)


def test_physbench_has_answers_to_44_questions_about_one_image(capsys: pytest.CaptureFixture[str]) -> None:
    answers = read_json(SAMPLES / "physbench" / "val_answer.json", list)
    assert sum(row["mode"] == "image-only" for row in answers) == 44
    assert main(["datasets", "show", "physbench", "--manual-dir", str(SAMPLES / "physbench")]) == 2
    assert "expected the questions file" in capsys.readouterr().err  # the folder does not contain the questions
