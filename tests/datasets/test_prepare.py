"""Prepares official files and loads the samples by name, for every dataset."""

from pathlib import Path

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.images import decode_image
from r2t2_jax.datasets.prepare import prepare
from r2t2_jax.datasets.prepared import data_folder, list_prepared_splits
from r2t2_jax.datasets.validate import InvalidRecordError, read_split
from r2t2_jax.errors import R2T2Error
from tests.datasets.official import OFFICIAL, easy_vqa, mme, png, put


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2T2_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def many(folder: Path, n: int = 40) -> None:
    """An easy-VQA test split of n questions."""
    put(folder / "test/questions.json", [[f"question {i}?", "yes", 0] for i in range(n)])
    put(folder / "test/images/0.png", png())


@pytest.mark.parametrize("name", OFFICIAL)
def test_prepared_samples_equal_the_official_records(name: str, tmp_path: Path, data: Path) -> None:
    OFFICIAL[name](tmp_path)
    dataset = DATASETS[name]
    split = dataset.splits[0] if dataset.splits else "test"
    (result,) = prepare(dataset, tmp_path, data, split)
    records = read_split(dataset, tmp_path, split).records
    samples = load_dataset(name, split)
    assert result.prepared is not None and result.prepared.count == len(records) and not result.skipped
    for record, sample in zip(records, samples, strict=True):
        for field in ("id", "question", "options", "answers", "style", "category", "split"):
            assert getattr(sample, field) == getattr(record, field)
        encoded = record.image if isinstance(record.image, bytes) else record.image.read_bytes()
        assert isinstance(sample, Sample) and sample.image.dtype == np.uint8
        np.testing.assert_array_equal(sample.image, decode_image(encoded))
        assert sample.image.shape == (7, 9, 3)


def test_a_prepared_subset_equals_the_subset_of_a_prepared_split(tmp_path: Path, data: Path) -> None:
    many(tmp_path)
    list(prepare(DATASETS["easy_vqa"], tmp_path, data, "test", n=7, seed=3))
    subset = [sample.id for sample in load_dataset("easy_vqa", "test", n=7, seed=3)]
    with pytest.raises(R2T2Error, match=r"not prepared .*n=7, seed=4\); prepared: test-n7-seed3; run: r2t2"):
        load_dataset("easy_vqa", "test", n=7, seed=4)
    list(prepare(DATASETS["easy_vqa"], tmp_path, data, "test"))
    assert [sample.id for sample in load_dataset("easy_vqa", "test", n=7, seed=3)] == subset
    assert [sample.id for sample in load_dataset("easy_vqa", "test", n=7, seed=4)] != subset
    assert len(load_dataset("easy_vqa")) == 40


def test_questions_scored_together_stay_together(tmp_path: Path, data: Path) -> None:
    mme(tmp_path)
    list(prepare(DATASETS["mme"], tmp_path, data, "perception"))
    ids = [sample.id for sample in load_dataset("mme", "perception", n=7)]
    assert len(ids) == 6
    assert ids[0::2] == [name.replace("#2", "#1") for name in ids[1::2]]
    with pytest.raises(R2T2Error, match="is less than one group"):
        list(prepare(DATASETS["mme"], tmp_path, data, "perception", n=1))


def test_every_existing_split_is_prepared(tmp_path: Path, data: Path) -> None:
    easy_vqa(tmp_path)
    test, train = prepare(DATASETS["easy_vqa"], tmp_path, data)
    assert test.prepared is not None and test.prepared.name == "test" and test.prepared.path.is_relative_to(data)
    assert train.prepared is None and "train/questions.json, which does not exist" in train.missing
    again, _ = prepare(DATASETS["easy_vqa"], tmp_path, data)
    assert again.already_prepared and again.prepared == test.prepared
    assert [unit.name for unit in list_prepared_splits(DATASETS["easy_vqa"], data)] == ["test"]


def test_invalid_records_are_left_out_only_with_skip_bad(tmp_path: Path, data: Path) -> None:
    easy_vqa(tmp_path)
    put(tmp_path / "test/images/1.png", png()[:50])
    put(tmp_path / "test/questions.json", [["a?", "yes", 0], ["b?", 3, 0], ["c?", "no", 1], ["d?", "no", 2]])
    with pytest.raises(InvalidRecordError, match=r"question 1: 'answer' must be a string, not 3"):
        list(prepare(DATASETS["easy_vqa"], tmp_path, data, "test"))
    assert not any(data.rglob("*"))
    (result,) = prepare(DATASETS["easy_vqa"], tmp_path, data, "test", skip_bad=True)
    assert [sample.id for sample in load_dataset("easy_vqa", "test")] == ["test/0"]
    assert len(result.skipped) == 3
    for cause, named in zip(result.skipped, ("must be a string", "2.png: it does not exist", "1.png: "), strict=True):
        assert named in cause


def test_an_interrupted_preparation_leaves_no_file(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many(tmp_path)
    calls = iter(range(100))

    def interrupt(image: Path, where: str) -> bytes:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return image.read_bytes()

    monkeypatch.setattr("r2t2_jax.datasets.split_builder.encoded_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(prepare(DATASETS["easy_vqa"], tmp_path, data, "test"))
    assert not [path for path in data.rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert not list_prepared_splits(DATASETS["easy_vqa"], data)


def test_a_damaged_prepared_split_is_named(tmp_path: Path, data: Path) -> None:
    many(tmp_path)
    (result,) = prepare(DATASETS["easy_vqa"], tmp_path, data, "test")
    assert result.prepared is not None
    for path in result.prepared.path.glob("*.array_record*"):
        path.unlink()
    with pytest.raises(R2T2Error, match=r"cannot read the prepared set .*remove that folder"):
        load_dataset("easy_vqa", "test")


def test_a_file_that_names_its_own_splits(tmp_path: Path, data: Path) -> None:
    OFFICIAL["jsonl"](tmp_path)
    (result,) = prepare(DATASETS["jsonl"], tmp_path, data)
    assert result.prepared is not None and result.prepared.name == "whole"
    assert [sample.split for sample in load_dataset("jsonl")] == ["test", "dev"]
    for name in ("all", "../dev"):
        with pytest.raises(R2T2Error, match="cannot name a split"):
            list(prepare(DATASETS["jsonl"], tmp_path, data, name))


def test_the_data_folder_follows_its_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2T2_DATA", str(tmp_path))
    assert data_folder() == tmp_path and data_folder(Path("/elsewhere")) == Path("/elsewhere")
    monkeypatch.delenv("R2T2_DATA")
    assert data_folder().name == "tensorflow_datasets"


def test_an_unknown_split_names_those_with_public_answers(tmp_path: Path, data: Path) -> None:
    with pytest.raises(R2T2Error, match="textvqa has no labeled split 'test'; it has val, train"):
        list(prepare(DATASETS["textvqa"], tmp_path, data, "test"))
