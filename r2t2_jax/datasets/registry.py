"""Loads a dataset by name: a JSONL file, a prepared dataset, or an entry point of the group `r2t2.datasets`.

An entry point is a function `load(split: str, n: int | None, seed: int) -> list[Sample]`. The seed generates the
samples of a synthetic dataset such as the pocket scenes, and chooses n samples of a dataset of files.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.images import encoded_image
from r2t2_jax.datasets.prepared import load_prepared
from r2t2_jax.datasets.readers.jsonl import read_lines
from r2t2_jax.datasets.samples import to_sample
from r2t2_jax.datasets.validate import choose_rows, records_below, validate_records
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import find, registered

GROUP = "r2t2.datasets"
OWN_FILES = "jsonl"  # the catalog's entry for a user's files
GENERATED_SPLITS = ("reference", "validation", "test")  # that commands request of a generated set
DEFAULT_SPLIT = "test"  # of a generated set


def load_dataset(name: str, split: str = "", n: int | None = None, seed: int = 0) -> list[Sample]:
    """Samples of one split.

    Args:
        name: a dataset prepared by `r2t2 datasets prepare`, a registered dataset, or the path of a `.jsonl` file.
        split: name of the split; empty for the first split of a prepared set, `test` of a registered one, and all
            lines of a JSONL file.
        n: number of samples; `None` for the dataset's default.
        seed: generates or chooses the samples.

    Raises:
        R2T2Error: unknown dataset or split, a dataset that is not prepared, a negative seed, no sample, or a sample
            that cannot be read.
    """
    if n is not None and n < 1:
        raise R2T2Error(f"the number of samples must be at least 1, not {n}")
    if seed < 0:
        raise R2T2Error(f"the seed must not be negative: {seed}")
    if name.endswith(".jsonl"):
        samples = load_jsonl(name, split, n, seed)
    elif name in DATASETS:
        samples = load_prepared(DATASETS[name], split, n, seed)
    elif name in registered(GROUP):
        samples = find(GROUP, name, "dataset")(split or DEFAULT_SPLIT, n, seed)
    elif name.endswith((".json", ".csv", ".tsv", ".parquet")):
        lines = "import json; [print(json.dumps(row)) for row in json.load(open(0))]"
        remedy = (
            f'; a JSON list becomes such a file by: python -c "{lines}" < {name} > {Path(name).with_suffix(".jsonl")}'
        )
        problem = f"{name}: questions are read from .jsonl files, one object per line (docs/datasets.md)"
        raise R2T2Error(problem + remedy * name.lower().endswith(".json"))
    else:
        raise R2T2Error(
            f"unknown dataset {name!r};{_guess(name)} known: {', '.join(known_datasets())}, and .jsonl files"
        )
    if not samples:
        raise R2T2Error(f"dataset {name!r} has no sample in split {split!r}")
    return samples


def known_datasets() -> list[str]:
    """The names of generated sets, then those of sets of files; a set that a user prepares from own files is none."""
    return [*registered(GROUP), *(name for name in DATASETS if name != OWN_FILES)]


def _guess(name: str) -> str:
    matches = difflib.get_close_matches(name, known_datasets(), n=1)
    return f" did you mean {matches[0]!r}?" if matches else ""


def load_jsonl(
    path: str | Path, split: str = "", n: int | None = None, seed: int = 0, images: str | Path | None = None
) -> list[Sample]:
    """The samples of a split, or n of them chosen by `seed`, in the order of the file.

    Args:
        path: the JSONL file.
        split: read only the lines of this split; empty for all.
        n: how many; `None` for all.
        seed: seed of the choice.
        images: the image folder, by default the folder of the file.

    Raises:
        R2T2Error: the file, a line or an image cannot be read, or an id occurs twice; names file and line.
    """
    folder = Path(images) if images else Path(path).parent
    validated = validate_records(records_below(folder, read_lines(Path(path), folder)))
    records = [record for record in validated.records if not split or record.split == split]
    rows = choose_rows([record.id for record in records], n, seed)
    chosen = [records[row] for row in rows]
    return [to_sample(record, encoded_image(record.image, record.where), "jsonl") for record in chosen]
