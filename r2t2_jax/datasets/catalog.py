"""The table of datasets that are read from official files."""

from __future__ import annotations

from importlib import import_module

from r2t2_jax.datasets.record import DatasetSpec
from r2t2_jax.errors import R2T2Error

# A module of `readers` a row; its `DATASETS` are the sets it reads.
READERS = (
    # reference sets of the paper
    "vqav2",
    "visual7w",
    "cocoqa",
    "clevr",
    "aokvqa",
    "tqa",
    "mathvista",
    "robust_reading",
    # evaluation sets of the paper
    "mmbench",
    "mme",
    "cvbench",
    "gqa",
    "scienceqa",
    "ai2d",
    "textvqa",
    "physbench",
    # its tuning set
    "qbench",
    # other
    "easy_vqa",
    "jsonl",
)


def _read_specs() -> dict[str, DatasetSpec]:
    modules = [import_module(f"r2t2_jax.datasets.readers.{name}") for name in READERS]
    return {dataset.name: dataset for module in modules for dataset in module.DATASETS}


DATASETS: dict[str, DatasetSpec] = _read_specs()


def find_dataset(name: str) -> DatasetSpec:
    """The dataset called `name`.

    Raises:
        R2T2Error: unknown name.
    """
    if name not in DATASETS:
        raise R2T2Error(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]
