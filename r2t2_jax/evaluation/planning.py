"""The plan of an evaluation, checked like the evaluation and without its work: `r2t2 eval --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import open_atlas
from r2t2_jax.bank.manifest import fingerprints_of, read_manifest
from r2t2_jax.contract import Port, default_vmap_size
from r2t2_jax.evaluation.dry_run import DryRun, EvaluationPrediction, device_memory, longest_question
from r2t2_jax.evaluation.evaluator import in_space_of_atlas
from r2t2_jax.evaluation.job import checked_strategies, plan_batch, recorded_strategies
from r2t2_jax.evaluation.question_sets import QuestionSet
from r2t2_jax.evaluation.setup import check_no_overlap, reference_set
from r2t2_jax.methods import Method
from r2t2_jax.runs.batch_files import EARLIER, saved_batches
from r2t2_jax.runs.folder import RUN, SUMMARY, read_json
from r2t2_jax.runs.plan import Plan
from r2t2_jax.steering.files import Steering
from r2t2_jax.validation.strategies import check_neighbors


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluation whose settings are checked; nothing of it is computed, and no weights are needed.

    Args:
        port: the model, with shapes in place of weights if it can be loaded so.
        bank: all references; `None` if those registered with the model are collected when the run begins.
        benchmarks: by name.
        strategies: to evaluate, by name.
        points: number of points of the loss atlas; 0 without one.
        batch: samples per batch of the plan.
        vmap_size: samples that a device computes together.
        missing: by benchmark, the questions that the run has not answered yet; all if it has not begun.
        recorded: strategies that the run has for all questions, and that are not evaluated again.
    """

    port: Port
    bank: ReferenceBank | None
    benchmarks: Mapping[str, QuestionSet]
    strategies: Mapping[str, Method]
    points: int
    batch: int
    vmap_size: int
    missing: Mapping[str, int]
    recorded: Sequence[str] = ()

    def predict(self) -> DryRun:
        """Cost and memory for the longest question.

        On a device with its own memory the program of the most expensive strategy is compiled for its memory, on a CPU
        it is counted on the traced program.
        """
        answering = [questions.answering_port(self.port) for questions in self.benchmarks.values()]
        port = max(answering, key=lambda port: port.max_new_tokens)
        computed = self.bank is not None and not _stores_features(self.bank)
        longest = longest_question(self.benchmarks)
        prediction = EvaluationPrediction(port, self.strategies, self.points, computed, longest)
        return prediction.predict(self.batch, self.vmap_size, False, compiled=device_memory() is not None)

    def record(self) -> dict[str, Any]:
        """The plan and the prediction as JSON values: evaluations and FLOPs per question, memory in bytes."""
        plan: dict[str, Any] = {
            "model": self.port.name,
            "references": None if self.bank is None else len(self.bank),
            "questions": dict(self.missing),
            "batch_size": self.batch,
            "recorded": list(self.recorded),
        }
        if not self.strategies:
            return plan | {"strategies": {}}
        dry_run = self.predict()
        memory = {"bytes": dry_run.memory.of_batch(self.batch), "upper_bound": not dry_run.memory.compiled}
        costs = {name: None if name not in dry_run.costs else vars(dry_run.costs[name]) for name in self.strategies}
        return plan | {"strategies": costs, "memory": memory}


def _stores_features(bank: ReferenceBank) -> bool:
    return bank.features is not None or (bank.folder is not None and bool(read_manifest(bank.folder).stored))


def plan_evaluation(
    port: Port,
    bank: Path | None,
    benchmarks: Mapping[str, QuestionSet],
    strategies: Sequence[str],
    preset: str | None,
    batch: int | None,
    vmap_size: int | None = None,
    allow_leakage: bool = False,
    folder: Path | None = None,
    steering: Steering | None = None,
) -> PlannedEvaluation:
    """The evaluation that these arguments of `open_job` describe, for a dry run: no reference is collected or read.

    Args:
        port: the model, also with shapes in place of weights.
        bank, benchmarks, strategies, preset, batch, vmap_size, allow_leakage: as for `open_job`.
        folder: of the run; what it holds already is not planned.
        steering: rules of the additional strategy `steer`.

    Raises:
        R2T2Error: as `open_job`.
    """
    _, methods = checked_strategies(port, bank, benchmarks, strategies, preset, batch, vmap_size, steering)
    samples = [sample for questions in benchmarks.values() for sample in questions.samples]
    if bank is None:
        reference_set(port)
        references, atlas = None, None if port.atlas is None else open_atlas(port.atlas)
    else:
        references = ReferenceBank.open(bank, fingerprints_of(port))
        atlas = references.atlas
        check_no_overlap(references, samples, allow_leakage)
        check_neighbors(methods, references)
    methods = in_space_of_atlas(methods, atlas)
    size = plan_batch(benchmarks, batch)
    done, missing = _progress(folder, benchmarks)
    left = {name: method for name, method in methods.items() if name not in done}
    points = 0 if atlas is None else len(atlas.points)
    recorded = [name for name in methods if name in done]
    together = default_vmap_size(port.model) if vmap_size is None else vmap_size
    return PlannedEvaluation(port, references, benchmarks, left, points, size, together, missing, recorded)


def _progress(folder: Path | None, benchmarks: Mapping[str, QuestionSet]) -> tuple[set[str], dict[str, int]]:
    """The strategies that the run in a folder has for all questions, and the questions that it has not answered yet.

    A complete run that gets further strategies, or is getting them, has those that it had before.
    """
    questions = {name: len(each.samples) for name, each in benchmarks.items()}
    if folder is None or not (folder / RUN).exists():
        return set(), questions
    saved = read_json(folder / RUN)
    if (folder / SUMMARY).exists():
        return set(recorded_strategies(saved)), questions
    done = set[str]()
    if (folder / EARLIER / RUN).exists():
        done = set(recorded_strategies(read_json(folder / EARLIER / RUN)))
    plan, numbers = Plan.from_json(saved["plan"]), saved_batches(folder)
    for part in plan.batches:
        if part.part in questions and part.number in numbers:
            questions[part.part] -= len(part)
    return done, questions
