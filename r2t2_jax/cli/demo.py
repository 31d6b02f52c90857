"""`r2t2 demo`: every strategy on both gates of the pocket model, and a few on the sparse model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2t2_jax.cli.output import print_json
from r2t2_jax.reporting.formatting import plain_console

if TYPE_CHECKING:  # so that the parser starts fast
    from collections.abc import Iterable, Mapping

    import pyarrow as pa
    from rich.console import Console

    from r2t2_jax.contract import Port, Sample
    from r2t2_jax.methods import Method
    from r2t2_jax.runs.run import Run

GATES, SPARSE = ("pocket:narrow", "pocket:balanced"), "pocket:sparse"
SPARSE_SAMPLES, SPARSE_REFERENCES = 200, 500  # at most; the sparse model takes longer
SPARSE_STRATEGIES = ("base", "uniform", "ngd_c3po", "best_fixed", "oracle", "oracle_permuted", "base_permuted")
QUICK_SAMPLES, QUICK_REFERENCES = 200, 1000
PRESET = "pocket"
NULLS = ("base", "router_mean", "uniform", "random_neighbors", "shuffled_references")
GRADIENT_FREE = ("mode_finding", "kernel_regression", "kernel_regression_alpha")
CONTROLS = ("best_of_n", "task_routing", "oracle")
ATLAS = ("atlas", "atlas_argmin")
ATLAS_CONTROLS = ("best_fixed", "atlas_mlp", "atlas_taylor", "gate_finetuned")
SKIPPED_BY_QUICK = (  # they take longer to compile, fit or run than 200 questions are worth
    "router_mean",
    "shuffled_references",
    "kernel_regression_alpha",
    "ngd_paper",
    "best_of_n",
    "oracle",
    "atlas_argmin",
    "atlas_taylor",
    "gate_finetuned",
    "atlas_top8",
)
ANSWERED_AT_PATH = ("ngd_paper", "ngd")  # for the figure of answers by step
RIVALS = ("base", "uniform", "random_neighbors", "kernel_regression")
ATLAS_RIVALS = ("ngd", "atlas_mlp", "gate_finetuned")
FAMILY_COLUMNS = {"neighbors_with_same_experts": "same\nexperts", "question_only": "no\nimage"}
FAMILY_STRATEGIES = ("base", "uniform", "ngd", "atlas", "task_routing", "oracle")


@dataclass(frozen=True)
class Demo:
    """Re-route a small vision-language mixture of experts that ships with its weights, and show the gain.

    Both of its routers answer the same questions with every strategy: `narrow`, trained on a biased mixture of
    questions, and `balanced`, trained on all of them. `sparse`, a trained model of another architecture that was not
    built for re-routing, answers some of the questions with some of the strategies. After an interruption at any point,
    the same command continues.

    Example: r2t2 demo --out out/demo
    """

    out: Path
    """Folder of the run: settings, rows, summary and report. A folder with other settings is refused."""
    quick: bool = False
    """Use at most 200 questions and 1,000 candidates for references; leave out ten rows of the table, the answers at
    every step, and the sparse model."""
    limit: int = 1000
    """Number of questions. Also --samples."""
    seed: int = 0
    """Seed of the test set."""
    embedder: str = ""
    """Embedder of the questions instead of the model's own: minilm, minilm:PATH, or hashed_words."""
    max_hours: float | None = None
    """Stop after this many hours; the same command continues."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> None:
        """Compute what is missing, write the summary, print the tables."""
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        check_folder(self.out, "demo", self._settings())  # before anything heavy is imported
        enable_compilation_cache()

        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.evaluation.setup import with_embedder
        from r2t2_jax.evaluation.statistics import models_of, summary_content
        from r2t2_jax.plugins import load
        from r2t2_jax.reporting.report import REPORT, write_report
        from r2t2_jax.runs.reading import open_run

        data = self._data()
        tests, references = (load_dataset(**data[role]) for role in ("tests", "references"))
        ports = with_embedder([load(name) for name in (*GATES, *(() if self.quick else (SPARSE,)))], self.embedder)
        rows = None
        with self._open(data, ports, tests, references) as run:
            if not run.complete:
                self._compute(run, ports, references, tests)
                rows, records = run.table("rows"), run.table("references")
                run.export("rows", rows)
                run.export("references", records)
                numbers = {
                    port.name: _summarize(rows, records, port, *_samples_of(port, references, tests), self.quick)
                    for port in ports
                }
                run.finish(summary_content(numbers))
            report = self.out / REPORT
            if not report.exists():
                write_report(self.out)
        console, saved = plain_console(), open_run(self.out)
        if self.json:
            print_json(saved.summary)
            return
        seconds, rows = saved.seconds_per_sample, saved.rows if rows is None else rows
        for model, summary in models_of(saved.summary, self.out).items():
            _print_model(console, rows, seconds, model, summary)
        console.print(
            f"Wrote {report}, and run.json, summary.json and rows.parquet in the same folder.", soft_wrap=True
        )

    def _settings(self) -> dict[str, Any]:
        return {"quick": self.quick, "limit": self.limit, "seed": self.seed, "embedder": self.embedder}

    def _data(self) -> dict[str, Any]:
        number = min(self.limit, QUICK_SAMPLES) if self.quick else self.limit
        return {
            "tests": {"name": "pocket", "split": "test", "n": number, "seed": self.seed},
            "references": {"name": "pocket", "split": "reference", "n": QUICK_REFERENCES if self.quick else None},
        }

    def _open(self, data: dict[str, Any], ports: list[Port], tests: list[Sample], references: list[Sample]) -> Run:
        from r2t2_jax.evaluation.benchmark import strategy_parts
        from r2t2_jax.runs.fingerprint import versions
        from r2t2_jax.runs.plan import Plan
        from r2t2_jax.runs.run import Run

        plan = []
        for port in ports:
            candidates, questions = _samples_of(port, references, tests)
            names = list(demo_strategies(port, self.quick))
            plan += strategy_parts(port.name, names, len(candidates), len(questions))
        models = {port.name: _model(port) for port in ports}
        depends = {"data": data, "models": models, "versions": versions()}
        return Run.open(self.out, "demo", self._settings(), Plan(plan), depends, self.max_hours)

    def _compute(self, run: Run, ports: list[Port], references: list[Sample], tests: list[Sample]) -> None:
        from r2t2_jax.evaluation.benchmark import ModelTask, run_strategies
        from r2t2_jax.metrics import get_metric

        at_path = () if self.quick else ANSWERED_AT_PATH
        tasks = [
            ModelTask(port, *_samples_of(port, references, tests), demo_strategies(port, self.quick)) for port in ports
        ]
        run_strategies(run, tasks, get_metric("exact_match"), self.seed, at_path)


def _samples_of(port: Port, references: list[Sample], tests: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The candidates for references and the questions of a model."""
    if port.name == SPARSE:
        return references[:SPARSE_REFERENCES], tests[:SPARSE_SAMPLES]
    return references, tests


def demo_strategies(port: Port, quick: bool = False) -> dict[str, Method]:
    """The strategies of the demonstration with the port's own preset, `ngd_paper` and `ngd_c3po` with these papers'."""
    from r2t2_jax.methods import find_preset, method_of, strategy

    preset = find_preset(PRESET, port.presets)
    if port.name == SPARSE:
        chosen = {name: strategy(name, preset) for name in SPARSE_STRATEGIES if name != "ngd_c3po"}
        chosen["ngd_c3po"] = strategy("ngd", find_preset("c3po"))
        return {name: chosen[name] for name in SPARSE_STRATEGIES if port.atlas is not None or name != "best_fixed"}
    strategies: dict[str, Method] = {name: strategy(name, preset) for name in (*NULLS, *GRADIENT_FREE)}
    strategies["ngd_paper"] = strategy("ngd", find_preset("paper"))
    strategies |= {name: strategy(name, preset) for name in ("ngd", *CONTROLS)}
    if port.atlas is not None:
        strategies |= {name: strategy(name, preset) for name in (*ATLAS, *ATLAS_CONTROLS)}
        strategies["atlas_top8"] = method_of("atlas_top8", preset)
    return {name: method for name, method in strategies.items() if not (quick and name in SKIPPED_BY_QUICK)}


def _model(port: Port) -> dict[str, Any]:
    """The entry of a model in `run.json`."""
    from r2t2_jax.methods import find_preset

    return {
        "name": port.name,
        "model": port.fingerprint,
        "embedder": port.embedder.fingerprint,
        "experts": port.model.spec.experts,
        "layers": port.model.spec.layer_names,
        "routing_shape": port.model.spec.shape,
        "preset": find_preset(PRESET, port.presets).to_mapping(),
    }


def _rows_by_strategy(rows: pa.Table, model: str, strategies: Iterable[str]) -> dict[str, pa.Table]:
    """The rows of each strategy of a model, without weights and answers."""
    import pyarrow.compute as pc

    own = rows.select(["model", "strategy", "right", "evaluations", "neighbors"]).filter(pc.field("model") == model)
    return {name: own.filter(pc.field("strategy") == name) for name in strategies}


def _summarize(
    rows: pa.Table, records: pa.Table, port: Port, references: list[Sample], tests: list[Sample], quick: bool
) -> dict[str, Any]:
    """The numbers of a model, from the rows and references of all models, and its samples."""
    import pyarrow.compute as pc

    from r2t2_jax.evaluation.records import CORRECT
    from r2t2_jax.evaluation.references import neighbor_quality, right_without_image, same_experts
    from r2t2_jax.evaluation.statistics import summarize
    from r2t2_jax.metrics import get_metric

    own = _rows_by_strategy(rows, port.name, demo_strategies(port, quick))
    candidates = records.filter(pc.field("model") == port.name).select(["id", "experts", "score"]).to_pylist()
    right = {name: table["right"].to_numpy() for name, table in own.items()}
    evaluations = {name: table["evaluations"][0].as_py() for name, table in own.items()}
    descent = "ngd" if "ngd" in own else "ngd_c3po"
    experts = {record["id"]: record["experts"] for record in candidates}
    share = same_experts(experts, tests, own[descent]["neighbors"].to_pylist())
    columns = {
        "question_only": right_without_image(port.embedder, references, tests, get_metric("exact_match")),
        "neighbors_with_same_experts": share,
    }
    summary = summarize(right, evaluations, [sample.category for sample in tests], columns)
    counts = {"candidates": len(references), "correct": sum(record["score"] >= CORRECT for record in candidates)}
    return summary | {"neighbors": neighbor_quality(share, right[descent]), "references": counts}


def _print_model(
    console: Console, rows: pa.Table, times: Mapping[str, float], model: str, summary: Mapping[str, Any]
) -> None:
    from r2t2_jax.evaluation.benchmark import seconds_by_strategy
    from r2t2_jax.reporting.tables import agreement_line, family_table, gain_line, strategy_table

    own = _rows_by_strategy(rows, model, summary["strategies"])
    right = {name: table["right"].to_numpy() for name, table in own.items()}
    correct, candidates = summary["references"]["correct"], summary["references"]["candidates"]
    title = f"{model}: {summary['n']:,} questions, {correct:,} of {candidates:,} references right"
    seconds = seconds_by_strategy(times, model, list(right))
    console.print(strategy_table(title, summary, seconds))
    columns = [name for name in FAMILY_STRATEGIES if name in right]
    console.print(family_table(f"{model}: accuracy by family, %", summary, columns, FAMILY_COLUMNS))
    console.print(agreement_line(summary), highlight=False)
    descent = "ngd" if "ngd" in right else "ngd_c3po"
    for rival in filter(right.__contains__, RIVALS):
        console.print(gain_line(descent, rival, right), highlight=False)
    if "atlas" in right:
        for rival in filter(right.__contains__, ATLAS_RIVALS):
            console.print(gain_line("atlas", rival, right), highlight=False)
    console.print()
