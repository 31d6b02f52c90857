"""Who is asked what: models, the sets they are asked, and the references they may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.registry import GROUP
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark_run import title_of
from r2t2_jax.evaluation.opening import metric_for, with_embedder
from r2t2_jax.loading import load
from r2t2_jax.metrics import Metric
from r2t2_jax.plugins import registered

TEST = "test"  # the split of a set that is drawn; a set of files has one for testing, its first
TOGETHER = {"pocket": ("pocket:narrow", "pocket:balanced")}  # a model with two gates is two models, as in `r2t2 demo`


@dataclass(frozen=True)
class Subject:
    """One model on one test set.

    `name` stands in the rows: the port's, and where it is asked several sets the set's too. `model` is what `load` was
    asked for.
    """

    name: str
    model: str
    port: Port
    data: str
    samples: tuple[Sample, ...]
    metric: Metric


def model_names(model: str) -> tuple[str, ...]:
    """The models that a name stands for."""
    return TOGETHER.get(model, (model,))


def open_subjects(model: str, data: Sequence[str], n: int | None, seed: int, embedder: str = "") -> list[Subject]:
    """Every model a name stands for, on every set.

    Args:
        model: as `loading.load` takes it; `pocket` stands for both of its gates.
        data: sets to ask; by default the one registered under the model's name.
        n: questions of each set; `None` for all.
        seed: which ones.
        embedder: what finds like questions; empty for the model's own.

    Raises:
        R2T2Error: no such model or set, or no set goes with the model.
    """
    names = model_names(model)
    ports = dict(zip(names, with_embedder([load(name) for name in names], embedder), strict=True))
    sets = list(data) or [_own_set(next(iter(ports.values())))]
    asked = {name: tuple(load_dataset(**source_of(name, n, seed))) for name in sets}
    return [
        Subject(title if len(sets) == 1 else title_of(title, name), model, port, name, samples, metric_for(name, ""))
        for model, port in ports.items()
        for name, samples in asked.items()
        for title in [port.name]
    ]


def source_of(name: str, n: int | None, seed: int) -> dict[str, Any]:
    """What `load_dataset` is asked for; a run says it, so that a report finds the images."""
    return {"name": name, "split": TEST if name in registered(GROUP) else "", "n": n, "seed": seed}


def _own_set(port: Port) -> str:
    name = port.name.partition(":")[0]
    if name not in registered(GROUP):
        raise R2T2Error(f"no set of questions is registered for {name}: name the sets to ask with --data")
    return name
