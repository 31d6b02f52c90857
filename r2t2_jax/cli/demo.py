"""`r2t2 demo`: every strategy on both gates of the pocket model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the parser alone must start fast
    from rich.console import Console

    from r2t2_jax.contract import Port, Sample
    from r2t2_jax.methods import Method
    from r2t2_jax.runs.reading import SavedRun
    from r2t2_jax.runs.run import Run

GATES = ("narrow", "balanced")
QUICK_SAMPLES, QUICK_REFERENCES = 200, 1000
PRESET = "pocket"
NULLS = ("base", "router_mean", "uniform", "random_neighbors", "shuffled_references")
GRADIENT_FREE = ("mode_finding", "kernel_regression", "kernel_regression_alpha")
BESIDE = ("best_of_n", "task_routing", "oracle")
ATLAS = ("atlas", "atlas_argmin")
ATLAS_CONTROLS = ("best_fixed", "atlas_mlp", "atlas_taylor", "gate_finetuned")
SKIPPED_BY_QUICK = (  # compiling, fitting or running each takes longer than what 200 questions tell of it is worth
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
ANSWERED_ALONG = ("ngd_paper", "ngd")  # for the flow of answers by step
RIVALS = ("base", "uniform", "random_neighbors", "kernel_regression")
ATLAS_RIVALS = ("ngd", "atlas_mlp", "gate_finetuned")
FAMILY_COLUMNS = {"neighbors_with_same_experts": "same\nexperts", "question_only": "no\nimage"}
FAMILY_STRATEGIES = ("base", "uniform", "ngd", "atlas", "task_routing", "oracle")


@dataclass(frozen=True)
class Demo:
    """Re-route a small vision-language mixture of experts that ships with its weights, and show what it gains.

    Both of its routers answer the same questions with every strategy: `narrow`, trained on a biased mixture of
    questions, and `balanced`, trained on all of them. Interrupted at any point, the same command goes on where it
    stopped.

    Example: r2t2 demo --out out/demo
    """

    out: Path
    """Folder of the run: settings, rows, summary and report. One with other settings is refused."""
    quick: bool = False
    """Ask 200 questions at most, with 1,000 candidates for references, and leave out ten rows of the table and the
    answers from step to step."""
    samples: int = 1000
    """How many questions to ask."""
    seed: int = 0
    """Draws the test set. Another seed is another test set."""
    embedder: str = ""
    """What finds like questions instead of the model's own embedder: minilm, minilm:PATH, or hashed_words."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Run what is missing, write the summary, print the tables."""
        from r2t2_jax.runs.folder import check_folder

        check_folder(self.out)  # before anything heavy is loaded

        from rich.console import Console

        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.evaluation.setup import with_embedder
        from r2t2_jax.plugins import load
        from r2t2_jax.reporting.report import REPORT, write_report
        from r2t2_jax.runs.reading import open_run

        data = self._data()
        tests, references = (load_dataset(**data[role]) for role in ("tests", "references"))
        opened = with_embedder([load(f"pocket:{gate}") for gate in GATES], self.embedder)
        ports = dict(zip(GATES, opened, strict=True))
        with self._open(data, ports, tests, references) as run:
            if not run.complete:
                for port in ports.values():
                    _record(run, port, references, tests, self)
                for table in ("rows", "references"):
                    run.export(table)
                gates = {gate: _summarize(run, port, references, tests, self.quick) for gate, port in ports.items()}
                run.finish({"gates": gates})
            report = self.out / REPORT
            if not report.exists():
                write_report(self.out)
        console = Console()
        saved = open_run(self.out)
        for gate in GATES:
            _print_gate(console, saved, gate)
        console.print(f"Wrote {report}, and beside it run.json, summary.json and rows.parquet.", soft_wrap=True)

    def _data(self) -> dict[str, Any]:
        number = min(self.samples, QUICK_SAMPLES) if self.quick else self.samples
        return {
            "tests": {"name": "pocket", "split": "test", "n": number, "seed": self.seed},
            "references": {"name": "pocket", "split": "reference", "n": QUICK_REFERENCES if self.quick else None},
        }

    def _open(self, data: dict[str, Any], ports: dict[str, Port], tests: list[Sample], references: list[Sample]) -> Run:
        from r2t2_jax.evaluation.benchmark import parts_recording as parts
        from r2t2_jax.runs.fingerprint import versions
        from r2t2_jax.runs.plan import Plan
        from r2t2_jax.runs.run import Run

        plan = [
            part
            for port in ports.values()
            for part in parts(port.name, list(demo_strategies(port, self.quick)), len(references), len(tests))
        ]
        models = {gate: _model(port) for gate, port in ports.items()}
        settings = {"quick": self.quick, "samples": self.samples, "seed": self.seed, "embedder": self.embedder}
        depends = {"data": data, "models": models, "versions": versions()}
        return Run.open(self.out, "demo", settings, Plan(plan), depends, self.max_hours)


def demo_strategies(port: Port, quick: bool = False) -> dict[str, Method]:
    """What the demonstration runs: everything with the port's own preset, and `ngd_paper` as the paper has it."""
    from r2t2_jax.method.presets import find_preset
    from r2t2_jax.methods import strategy
    from r2t2_jax.rivals.atlas_ensemble import atlas_ensemble

    preset = find_preset(PRESET, port.presets)
    chosen: dict[str, Method] = {name: strategy(name, preset) for name in (*NULLS, *GRADIENT_FREE)}
    chosen["ngd_paper"] = strategy("ngd", find_preset("paper"))
    chosen |= {name: strategy(name, preset) for name in ("ngd", *BESIDE)}
    if port.atlas is not None:
        chosen |= {name: strategy(name, preset) for name in (*ATLAS, *ATLAS_CONTROLS)}
        chosen["atlas_top8"] = atlas_ensemble(preset)
    return {name: one for name, one in chosen.items() if not (quick and name in SKIPPED_BY_QUICK)}


def _model(port: Port) -> dict[str, Any]:
    """What `run.json` tells of a model."""
    from r2t2_jax.method.presets import find_preset

    return {
        "name": port.name,
        "model": port.fingerprint,
        "embedder": port.embedder.fingerprint,
        "experts": port.model.spec.experts,
        "layers": port.model.spec.layer_names,
        "routing_shape": port.model.spec.shape,
        "preset": find_preset(PRESET, port.presets).to_mapping(),
    }


def _record(run: Run, port: Port, references: list[Sample], tests: list[Sample], asked: Demo) -> None:
    from r2t2_jax.evaluation.benchmark import record
    from r2t2_jax.metrics import get_metric

    metric = get_metric("exact_match")
    along = () if asked.quick else ANSWERED_ALONG
    record(run, port, references, tests, demo_strategies(port, asked.quick), metric, asked.seed, along)


def _summarize(run: Run, port: Port, references: list[Sample], tests: list[Sample], quick: bool) -> dict[str, Any]:
    """The numbers of a gate, from its rows alone and what the questions are."""
    from r2t2_jax.evaluation.benchmark import REFERENCES, part_name
    from r2t2_jax.evaluation.records import CORRECT
    from r2t2_jax.evaluation.references import by_agreement, right_without_image, same_experts
    from r2t2_jax.evaluation.statistics import summarize
    from r2t2_jax.metrics import get_metric

    rows = {name: run.rows_of(part_name(port.name, name)) for name in demo_strategies(port, quick)}
    asked = run.rows_of(part_name(port.name, REFERENCES)).select(["id", "experts", "score"]).to_pylist()
    kept = sum(row["score"] >= CORRECT for row in asked)
    right = {name: table["right"].to_numpy() for name, table in rows.items()}
    evaluations = {name: table["evaluations"][0].as_py() for name, table in rows.items()}
    shared = same_experts({row["id"]: row["experts"] for row in asked}, tests, rows["ngd"]["neighbors"].to_pylist())
    columns = {
        "question_only": right_without_image(port.embedder, references, tests, get_metric("exact_match")),
        "neighbors_with_same_experts": shared,
    }
    summary = summarize(right, evaluations, [sample.category for sample in tests], columns)
    counts = {"asked": len(references), "kept": kept}
    return summary | {"neighbors": by_agreement(shared, right["ngd"]), "references": counts}


def _print_gate(console: Console, saved: SavedRun, gate: str) -> None:
    from r2t2_jax.evaluation.benchmark import part_name, seconds_per_sample
    from r2t2_jax.reporting.tables import agreement_line, family_table, gain_line, strategy_table

    name, summary = saved.run["models"][gate]["name"], saved.summary["gates"][gate]
    right = {key: saved.rows_of(part_name(name, key))["right"].to_numpy() for key in summary["strategies"]}
    kept, asked = summary["references"]["kept"], summary["references"]["asked"]
    title = f"{name}: {summary['n']:,} questions, {kept:,} of {asked:,} references right"
    console.print(strategy_table(title, summary, seconds_per_sample(saved.seconds_per_sample, name, list(right))))
    shown = [strategy for strategy in FAMILY_STRATEGIES if strategy in right]
    console.print(family_table(f"{name}: accuracy by family, %", summary, shown, FAMILY_COLUMNS))
    console.print(agreement_line(summary), highlight=False)
    for rival in RIVALS:
        console.print(gain_line("ngd", rival, right), highlight=False)
    if "atlas" in right:
        for rival in filter(right.__contains__, ATLAS_RIVALS):
            console.print(gain_line("atlas", rival, right), highlight=False)
    console.print()
