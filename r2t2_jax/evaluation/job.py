"""An evaluation about to be run: model, bank, benchmarks and strategies, opened and checked against one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark import (
    SAVED,
    BatchEvaluator,
    DeviceReplica,
    batch_size,
    parts,
    record_references,
    rows_by_benchmark,
    run_benchmarks,
    summarize_benchmark,
    title_of,
)
from r2t2_jax.evaluation.devices import ReplicaGroup
from r2t2_jax.evaluation.dry_run import Forecast, device_memory, forecast
from r2t2_jax.evaluation.evaluator import Setup, set_up
from r2t2_jax.evaluation.question_sets import QuestionSet, length
from r2t2_jax.evaluation.setup import open_bank
from r2t2_jax.method.presets import Preset, find_preset, own_preset
from r2t2_jax.methods import Method, method_of
from r2t2_jax.metrics import get_metric, get_set_score
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.plan import Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.batching import AdaptiveBatchSize, threads_at_a_time
from r2t2_jax.runtime.memory import format_size

BASE = "base"


@dataclass(frozen=True)
class Job:
    """What is asked of whom, and how.

    Args:
        ports: the model, on each of the groups.
        groups: of devices.
        bank: its references, answered correctly or not.
        benchmarks: by name.
        strategies: by name; the untouched model is among them, since gains are counted from it.
        preset: the strategies' settings.
        seed: of everything drawn.
        batch: samples a batch of the plan.
        fitted: let a device with a memory of its own take fewer at a time, as many as fit.
        abreast: of those it takes, how many it computes together; `None` for as many as fit into a memory of its own,
            and one by one without.
    """

    ports: Sequence[Port]
    groups: Sequence[ReplicaGroup]
    bank: ReferenceBank
    benchmarks: Mapping[str, QuestionSet]
    strategies: Mapping[str, Method]
    preset: Preset
    seed: int
    batch: int
    fitted: bool
    vmap_size: int | None = None

    @property
    def port(self) -> Port:
        """The model, on the first group."""
        return self.ports[0]

    @property
    def plan(self) -> Plan:
        """What will be computed."""
        return Plan(parts(self.benchmarks, len(self.bank), self.batch))

    @property
    def depends(self) -> dict[str, Any]:
        """What the results depend on beside the command's options."""
        data = {
            name: {
                "name": one.source.name,
                "split": one.source.split,
                "n": one.source.n,
                "seed": one.source.seed,
                "questions": one.digest,
                "metric": one.metric,
                "set_score": set_score_of(name),
            }
            for name, one in self.benchmarks.items()
        }
        spec = self.port.model.spec
        model = {
            "name": self.port.name,
            "model": self.port.fingerprint,
            "embedder": self.port.embedder.fingerprint,
            "experts": spec.experts,
            "routing_shape": spec.shape,
            "preset": self.preset.to_mapping(),
            "references": len(self.bank),
        }
        models = {title_of(self.port.name, name): model for name in self.benchmarks}
        return {"data": data, "models": models, "versions": versions()}

    @cached_property
    def setup(self) -> Setup:
        """What is done once, whatever is asked; scored by the first benchmark's metric."""
        metric = get_metric(next(iter(self.benchmarks.values())).metric)
        setup = set_up(self.port, self.bank, self.strategies, metric, self.seed)
        return replace(setup, vmap_size=self.vmap_size or 1)

    def forecast(self) -> Forecast:
        """Costs and memory, for the longest question of all; raises as `forecast.forecast`."""
        firsts = [one.samples[0] for one in self.benchmarks.values()]
        return forecast(self.setup, max(firsts, key=length), self.batch)

    def compute(self, run: Run, say: Callable[[str], None]) -> None:
        """Whatever is missing of the run's rows.

        Raises:
            Stopped: the run is to end.
            R2T2Error: as `set_up` and `run_benchmarks`.
        """
        run_benchmarks(run, self.asking(run, say), max(threads_at_a_time(), len(self.groups)), say)
        record_references(run, self.port.name, self.bank)

    def asking(self, run: Run, say: Callable[[str], None]) -> dict[str, BatchEvaluator]:
        """Each benchmark, ready to be asked on every group of devices; raises as `set_up`."""
        size, vmap_size = self._at_a_time(say)
        together = AdaptiveBatchSize(size, say)
        setup = replace(self.setup, vmap_size=vmap_size)
        setups = [setup, *(setup.on(port) for port in self.ports[1:])]
        asking = {}
        for name, one in self.benchmarks.items():
            metric, title = get_metric(one.metric), title_of(self.port.name, name)
            seats = [
                DeviceReplica(replace(s, metric=metric), group) for s, group in zip(setups, self.groups, strict=True)
            ]
            asking[name] = BatchEvaluator(
                seats, title, name, one.samples, self.batch, run.share.count, together, run.time
            )
        return asking

    def _at_a_time(self, say: Callable[[str], None]) -> tuple[int, int]:
        """Samples that a device takes at a time, and how many of them it computes together.

        A whole batch, or as many as fit into a memory of its own; and of these again as many as fit.
        """
        available = device_memory()
        if available is None or not (self.fitted or self.vmap_size is None):
            return self.batch, self.vmap_size or 1
        found = self.forecast()
        size = found.memory.largest_batch(available, self.batch) if self.fitted else self.batch
        memory = found.widest(available, size) if self.vmap_size is None else found.memory
        say(
            f"{size} questions at a time, {memory.vmap_size} abreast, take {format_size(memory.of_batch(size))} of "
            f"{format_size(available)} on each device, as compiled"
        )
        return size, memory.vmap_size

    def summary(self, run: Run) -> dict[str, Any]:
        """The numbers of every benchmark, by the title under which its rows stand."""
        models = {}
        for name, one in self.benchmarks.items():
            set_score = get_set_score(set_score_of(name))
            found = summarize_benchmark(rows_by_benchmark(run, name), one.samples, set_score)
            models[title_of(self.port.name, name)] = {"benchmark": name, "metric": one.metric, **found}
        return {"models": models}


def open_job(
    ports: Sequence[Port],
    groups: Sequence[ReplicaGroup],
    bank: Path | None,
    benchmarks: Mapping[str, QuestionSet],
    strategies: Sequence[str],
    preset: str | None,
    seed: int,
    batch: int | None,
    vmap_size: int | None = None,
) -> Job:
    """Open what is named, and refuse what does not fit together.

    Args:
        ports: the model, on each of the groups.
        groups: of devices.
        bank: the bank's folder; `None` to collect the references registered with the model.
        benchmarks: by name.
        strategies: names; `base` is put in front where it is not among them.
        preset: a name or a file; `None` for the model's own, else the paper's.
        seed: of everything drawn.
        batch: the most samples a batch; `None` for the usual number, of which a device takes as many as fit.
        abreast: samples computed together; `None` for as many as fit into a memory of the device's own.

    Raises:
        R2T2Error: unknown names, a batch of none, none abreast, a bank of another model or embedder, or a question that
            is a reference too.
    """
    if batch is not None and batch < 1:
        raise R2T2Error(f"a batch of {batch} samples; it must be at least 1")
    if vmap_size is not None and vmap_size < 1:
        raise R2T2Error(f"{vmap_size} samples abreast; it must be at least 1")
    port = ports[0]
    titles = [title_of(port.name, name) for name in benchmarks]
    if len(set(titles)) < len(titles):
        raise R2T2Error(f"two benchmarks would be reported as one ({', '.join(titles)}); rename a file")
    settings = find_preset(preset or own_preset(port.name, port.presets), port.presets)
    chosen = {name: method_of(name, settings) for name in dict.fromkeys((BASE, *strategies))}
    questions = [sample for one in benchmarks.values() for sample in one.samples]
    metric = get_metric(next(iter(benchmarks.values())).metric)
    opened = open_bank(port, bank, metric, questions, keep_wrong=True)
    size = batch_size(benchmarks, SAVED if batch is None else batch)
    return Job(ports, groups, opened, benchmarks, chosen, settings, seed, size, batch is None, vmap_size)


def set_score_of(benchmark: str) -> str:
    """The name of a benchmark's own set score."""
    return DATASETS[benchmark].set_score if benchmark in DATASETS else "accuracy"
