"""The job of `r2t2 eval`: model, bank, benchmarks and strategies, opened and checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.storage import folder_digest
from r2t2_jax.contract import Port, Sample
from r2t2_jax.costs.memory import format_size, largest_batch
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark import (
    PLAN_BATCH,
    BenchmarkEvaluator,
    DeviceReplica,
    benchmark_parts,
    earlier_strategies,
    record_references,
    run_benchmarks,
    run_on_workers,
    title_of,
)
from r2t2_jax.evaluation.devices import ReplicaGroup
from r2t2_jax.evaluation.dry_run import DryRun, device_memory, longest_question, predict_evaluation
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.feature_cache import BankArrays, FeatureCache
from r2t2_jax.evaluation.question_sets import QuestionSet
from r2t2_jax.evaluation.setup import ModelSource, bank_digest, check_no_overlap, open_bank
from r2t2_jax.evaluation.statistics import benchmark_rows, summarize_benchmark, summary_content
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import BASE, Method, find_preset, method_of, own_preset
from r2t2_jax.metrics import get_metric, get_set_score
from r2t2_jax.runs.cluster import Workers, devices_of
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.plan import Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runs.workers import WorkerProgram, open_pool
from r2t2_jax.runtime.batching import AdaptiveBatchSize, threads_at_a_time
from r2t2_jax.steering.files import Steering
from r2t2_jax.steering.steer import STEER, Steer
from r2t2_jax.validation.strategies import check_neighbors, check_strategies

Log = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """An evaluation that is ready to run.

    Args:
        ports: the model, on each of the groups.
        groups: of devices.
        bank: all references, answered correctly or not.
        benchmarks: by name.
        strategies: by name; the untouched model is among them, since gains are relative to it.
        preset: the strategies' settings.
        seed: of all random draws.
        batch: samples per batch of the plan.
        fitted: whether the samples at a time are reduced to what fits, on a device with its own memory.
        vmap_size: samples that a device computes together. `None` for as many as fit in its own memory, and for one at
            a time on a device without its own memory.
        leaked: if leakage is allowed, the number of questions of each benchmark that are also references.
        workers: the Ray workers that compute; `None` for this process.
        answered_steps: strategies whose answer is generated after every step as well.
        steering: rules of the strategy `steer`, if it is among them.
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
    leaked: Mapping[str, int] = field(default_factory=dict)
    workers: Workers | None = None
    answered_steps: Sequence[str] = ()
    steering: Steering | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.answered_steps if name not in self.strategies]
        if unknown:
            raise R2T2Error(f"--answer-steps {', '.join(unknown)}: choose among {', '.join(self.strategies)}")

    @property
    def port(self) -> Port:
        """The model, on the first group."""
        return self.ports[0]

    @property
    def plan(self) -> Plan:
        """The parts and batches of the run."""
        return Plan(benchmark_parts(self.benchmarks, len(self.bank), self.batch))

    @property
    def depends(self) -> dict[str, Any]:
        """Identities of samples, model and bank, on which results depend besides the command's options."""
        data = {
            name: {
                "name": questions.source.name,
                "split": questions.source.split,
                "n": questions.source.n,
                "seed": questions.source.seed,
                "questions": questions.digest,
                "metric": questions.metric,
                "set_score": set_score_of(name),
            }
            | ({"leaked": self.leaked[name]} if name in self.leaked else {})
            for name, questions in self.benchmarks.items()
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
        models = {
            title_of(self.port.name, name): model
            | {"beams": self.port.beams, "max_new_tokens": questions.answering_port(self.port).max_new_tokens}
            for name, questions in self.benchmarks.items()
        }
        return {
            "data": data,
            "models": models,
            "bank": {"digest": bank_digest(self.bank)},
            "versions": versions(devices_of(self.workers)),
        } | ({} if self.steering is None else {"steering": self.steering.digest})

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator on the first device group, with the first benchmark's metric and the longest answers."""
        metric = get_metric(next(iter(self.benchmarks.values())).metric)
        limits = [questions.answering_port(self.port).max_new_tokens for questions in self.benchmarks.values()]
        port = replace(self.port, max_new_tokens=max(limits))
        count = sum(len(questions.samples) for questions in self.benchmarks.values())
        return Evaluator.create(port, self.bank, self.strategies, metric, self.seed, self.vmap_size, count)

    def extends(self, saved: Mapping[str, Any], requested: Mapping[str, Any]) -> bool:
        """Whether a saved run of this bank, also before it had its atlas, is extended by strategies."""
        folder = self.bank.origin
        return adds_strategies(saved, requested, "" if folder is None else folder_digest(folder, atlas=False))

    def dry_run(self, every_program: bool = True) -> DryRun:
        """Cost and memory for the longest question; raises as `predict_evaluation`."""
        return predict_evaluation(self.evaluator, longest_question(self.benchmarks), self.batch, every_program)

    def compute(self, run: Run, log: Callable[[str], None]) -> None:
        """Compute and save the missing rows of a run.

        Args:
            run: of this plan.
            log: called with a message for each compilation and each change of the batch size.

        Raises:
            RunInterrupted: a signal or the time limit stopped the run.
            R2T2Error: as `Evaluator.create` and `run_benchmarks`.
        """
        for name, count in self.leaked.items():
            log(f"{name}: {count:,} questions are also references; their answers are in the bank")
        evaluators = self.without(earlier_strategies(run)).evaluators(run, log)
        run_benchmarks(run, evaluators, max(threads_at_a_time(), len(self.groups)), log, list(self.strategies))
        reader = self.bank.reader
        if isinstance(reader, FeatureCache) and reader.cached.read:
            log(str(reader.cached))
        record_references(run, self.port.name, self.bank)

    def compute_on_workers(self, run: Run, workers: Workers, source: ModelSource) -> None:
        """As `compute`, with the batches on Ray workers, each of which loads the model on its own devices.

        Args:
            run: of this plan.
            workers: a connection to the cluster.
            source: how a worker opens the model.

        Raises:
            RunInterrupted: a signal was received or the time limit is reached.
            R2T2Error: as `WorkerPool.map`.
        """
        longest = {
            name: replace(questions, samples=questions.samples[:1]) for name, questions in self.benchmarks.items()
        }
        added = self.without(earlier_strategies(run))
        arguments = {
            "source": source,
            "bank": BankArrays.of(self.bank, workers.per_node),
            "benchmarks": longest,
            "strategies": dict(added.strategies),
            "preset": self.preset,
            "seed": self.seed,
            "batch": self.batch,
            "fitted": self.fitted,
            "vmap_size": self.vmap_size,
            "answered_steps": added.answered_steps,
        }
        samples = {name: questions.samples for name, questions in self.benchmarks.items()}
        with open_pool(workers, WorkerProgram("r2t2_jax.evaluation.worker:open_worker", arguments)) as pool:
            run_on_workers(run, pool, samples, "eval", list(self.strategies))
        record_references(run, self.port.name, self.bank)

    def without(self, strategies: Collection[str]) -> Job:
        """The job without some strategies."""
        left = {name: method for name, method in self.strategies.items() if name not in strategies}
        steps = [name for name in self.answered_steps if name in left]
        return replace(self, strategies=left, answered_steps=steps) if strategies else self

    def evaluators(self, run: Run, log: Callable[[str], None]) -> dict[str, BenchmarkEvaluator]:
        """An evaluator of each benchmark, with a replica on every group of devices; raises as `Evaluator.create`."""
        replicas, chunk_size = self.replicas(log)
        return {
            name: self.benchmark_evaluator(name, replicas, questions.samples, chunk_size, run.time)
            for name, questions in self.benchmarks.items()
        }

    def replicas(self, log: Log) -> tuple[list[DeviceReplica], AdaptiveBatchSize]:
        """The evaluator on every group of devices, and how many samples a device takes at a time."""
        chunk_size, vmap_size = self._device_batch(log)
        first = replace(self.evaluator, vmap_size=vmap_size)
        copies = [first, *(first.to_device(port) for port in self.ports[1:])]
        replicas = [
            DeviceReplica(replace(evaluator, port=port), group)
            for evaluator, port, group in zip(copies, self.ports, self.groups, strict=True)
        ]
        return replicas, AdaptiveBatchSize(chunk_size, log)

    def benchmark_evaluator(
        self,
        name: str,
        replicas: Sequence[DeviceReplica],
        samples: Sequence[Sample],
        chunk_size: AdaptiveBatchSize,
        on_timing: Callable[[str, int, float], None],
    ) -> BenchmarkEvaluator:
        """The evaluator of a benchmark's samples, or of some of them, with its metric and its longest answer."""
        questions, title = self.benchmarks[name], title_of(self.port.name, name)

        def answering(evaluator: Evaluator) -> Evaluator:
            metric, port = get_metric(questions.metric), questions.answering_port(evaluator.port)
            return replace(evaluator, metric=metric, port=port)

        scoring = [replace(replica, evaluator=answering(replica.evaluator)) for replica in replicas]
        return BenchmarkEvaluator(scoring, title, name, samples, self.batch, chunk_size, on_timing, self.answered_steps)

    def _device_batch(self, log: Callable[[str], None]) -> tuple[int, int]:
        """Samples that a device takes at a time, and how many of these it computes together.

        On a device with its own memory both are reduced to what fits; elsewhere it takes a whole batch, and computes as
        many together as the model says.
        """
        available = device_memory()
        if available is None or not (self.fitted or self.vmap_size is None):
            return self.batch, self.evaluator.vmap_size
        dry_run = self.dry_run()
        size = largest_batch(dry_run.memory, available, self.batch) if self.fitted else self.batch
        memory = dry_run.widest(available, size) if self.vmap_size is None else dry_run.memory
        log(
            f"{size} questions at a time, vmap size {memory.vmap_size}, take {format_size(memory.of_batch(size))} of "
            f"{format_size(available)} on each device, as compiled"
        )
        return size, memory.vmap_size

    def summary(self, run: Run) -> dict[str, Any]:
        """The content of `summary.json`."""
        models = {}
        for name, questions in self.benchmarks.items():
            set_score = get_set_score(set_score_of(name))
            numbers = summarize_benchmark(benchmark_rows(run, name), questions.samples, set_score)
            about = {"benchmark": name, "metric": questions.metric, "layers": self.port.model.spec.layer_names}
            models[title_of(self.port.name, name)] = {**about, **numbers}
        return summary_content(models)


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
    allow_leakage: bool = False,
    workers: Workers | None = None,
    steering: Steering | None = None,
) -> Job:
    """Open model, bank and strategies, and check that they fit together.

    Args:
        ports: the model, on each of the groups.
        groups: of devices.
        bank: the bank's folder; `None` to collect the references registered with the model.
        benchmarks: by name.
        strategies: names; `base` is put in front if it is missing.
        preset: a name or a file; `None` for the model's own, else the paper's.
        seed: of all random draws.
        batch: largest number of samples per batch; `None` for `PLAN_BATCH`, of which a device takes as many as fit.
        vmap_size: samples that a device computes together; `None` for as many as fit in its own memory.
        allow_leakage: accept questions that are also references.
        workers: the Ray workers that compute; `None` for this process.
        steering: rules of the additional strategy `steer`; `None` for none.

    Returns:
        The job, checked and ready to run.

    Raises:
        R2T2Error: a name is unknown, a size is below 1, the bank belongs to another model or embedder, a strategy reads
            what model, bank or questions do not have, or a question is also a reference.
    """
    port = ports[0]
    settings, methods = checked_strategies(port, bank, benchmarks, strategies, preset, batch, vmap_size, steering)
    samples = [sample for questions in benchmarks.values() for sample in questions.samples]
    metrics = {name: get_metric(questions.metric) for name, questions in benchmarks.items()}
    references = open_bank(port, bank, metrics, samples, keep_wrong=True, allow_leakage=allow_leakage)
    check_neighbors(methods, references)
    leaked = {}
    if allow_leakage:
        leaked = {
            name: len(check_no_overlap(references, questions.samples, allow=True))
            for name, questions in benchmarks.items()
        }
    size, fitted = plan_batch(benchmarks, batch), batch is None
    return Job(
        ports, groups, references, benchmarks, methods, settings, seed, size, fitted, vmap_size, leaked, workers,
        steering=steering,
    )  # fmt: skip


def plan_batch(benchmarks: Mapping[str, QuestionSet], batch: int | None) -> int:
    """Samples per batch of the plan: at most those of the largest benchmark."""
    largest = max(len(questions.samples) for questions in benchmarks.values())
    return min(PLAN_BATCH if batch is None else batch, largest)


def checked_strategies(
    port: Port,
    bank: Path | None,
    benchmarks: Mapping[str, QuestionSet],
    strategies: Sequence[str],
    preset: str | None,
    batch: int | None,
    vmap_size: int | None,
    steering: Steering | None = None,
) -> tuple[Preset, dict[str, Method]]:
    """The settings and the strategies, checked against model, bank and questions; raises as `open_job`."""
    if batch is not None and batch < 1:
        raise R2T2Error(f"a batch of {batch} samples; it must be at least 1")
    if vmap_size is not None and vmap_size < 1:
        raise R2T2Error(f"a vmap size of {vmap_size} samples; it must be at least 1")
    titles = [title_of(port.name, name) for name in benchmarks]
    if len(set(titles)) < len(titles):
        raise R2T2Error(f"two benchmarks would be reported as one ({', '.join(titles)}); rename a file")
    settings = find_preset(preset or own_preset(port.name, port.presets), port.presets)
    methods: dict[str, Method] = {name: method_of(name, settings) for name in strategy_names(strategies)}
    if steering is not None:
        methods[STEER] = Steer(steering)
    samples = [sample for questions in benchmarks.values() for sample in questions.samples]
    opened = None if bank is None else ReferenceBank.open(bank)
    check_strategies(methods, samples, opened, port, port.name)
    return settings, methods


def strategy_names(names: Sequence[str]) -> list[str]:
    """The strategies of a command that names these: `base` in front, without repetitions."""
    return list(dict.fromkeys((BASE, *names)))


def adds_strategies(saved: Mapping[str, Any], requested: Mapping[str, Any], without_atlas: str = "") -> bool:
    """Whether the `run.json` of an evaluation differs from a saved one only in strategies that it adds.

    `without_atlas` is the digest of the requested run's bank without its atlas: the bank may have got one since, which
    no strategy of the saved run can have read.
    """
    if without_atlas and saved.get("bank") == {"digest": without_atlas}:
        saved = {**saved, "bank": requested["bank"]}

    def others(run: Mapping[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in run["settings"].items() if name != "strategy"}
        return {name: value for name, value in run.items() if name != "fingerprint"} | {"settings": settings}

    before, after = recorded_strategies(saved), recorded_strategies(requested)
    return bool(before) and set(before) < set(after) and others(saved) == others(requested)


def recorded_strategies(run: Mapping[str, Any]) -> list[str]:
    """The strategies of an evaluation's `run.json`; none if it is another command's."""
    settings = run.get("settings")
    text = settings.get("strategy") if isinstance(settings, dict) else None
    return strategy_names([name.strip() for name in text.split(",")]) if isinstance(text, str) else []


def set_score_of(benchmark: str) -> str:
    """The name of a benchmark's official score over the whole set."""
    return DATASETS[benchmark].set_score if benchmark in DATASETS else "accuracy"
