"""`r2t2 demo`: every strategy on both gates of the pocket model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the parser alone must start fast
    from rich.console import Console

    from r2t2_jax.contract import Port, Sample
    from r2t2_jax.strategies import Strategy

GATES = ("narrow", "balanced")
QUICK_SAMPLES, QUICK_REFERENCES = 200, 1000
PRESET = "pocket"
NULLS = ("base", "router_mean", "uniform", "random_neighbors", "shuffled_references")
GRADIENT_FREE = ("mode_finding", "kernel_regression", "kernel_regression_alpha")
BESIDE = ("best_of_n", "task_routing", "oracle")
FAMILY_COLUMNS = {"neighbors_with_same_experts": "same\nexperts", "question_only": "no\nimage"}
FAMILY_STRATEGIES = ("base", "uniform", "kernel_regression", "ngd", "task_routing", "oracle")


@dataclass(frozen=True)
class Demo:
    """Re-route a small vision-language mixture of experts that ships with its weights, and show what it gains.

    Both of its routers answer the same questions with every strategy: `narrow`, trained on a biased mixture of
    questions, and `balanced`, trained on all of them.

    Example: r2t2 demo --out out/demo
    """

    out: Path
    """Folder for run.json, rows.parquet and summary.json. An earlier run in it is replaced."""
    quick: bool = False
    """Ask 200 questions at most, with 1,000 candidates for references instead of all."""
    samples: int = 1000
    """How many questions to ask."""
    seed: int = 0
    """Draws the test set. Another seed is another test set."""

    def run(self) -> None:
        """Run, print the tables and write the folder."""
        from rich.console import Console

        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.evaluation.run_folder import check_folder, versions, write_folder
        from r2t2_jax.loading import load

        check_folder(self.out)
        console = Console()
        number = min(self.samples, QUICK_SAMPLES) if self.quick else self.samples
        ports = {gate: load(f"pocket:{gate}") for gate in GATES}
        tests = load_dataset("pocket", "test", number, self.seed)
        references = load_dataset("pocket", "reference", QUICK_REFERENCES if self.quick else None)
        gates = {gate: _run_gate(console, port, references, tests, self.seed) for gate, port in ports.items()}
        settings = asdict(self) | {"out": str(self.out), "samples": number}
        run = {"command": "demo", "settings": settings, "versions": versions()}
        write_folder(
            self.out,
            run | {"models": {gate: result["run"] for gate, result in gates.items()}},
            [row for result in gates.values() for row in result["rows"]],
            {"gates": {gate: result["summary"] for gate, result in gates.items()}},
        )
        console.print(f"Wrote {self.out}/run.json, rows.parquet and summary.json.", soft_wrap=True)


def demo_strategies(port: Port) -> dict[str, Strategy]:
    """What the demonstration runs: everything with the port's own preset, and `ngd_paper` as the paper has it."""
    from r2t2_jax.presets import find_preset
    from r2t2_jax.strategies import strategy

    preset = find_preset(PRESET, port.presets)
    chosen = {name: strategy(name, preset) for name in (*NULLS, *GRADIENT_FREE)}
    chosen["ngd_paper"] = strategy("ngd", find_preset("paper"))
    return chosen | {name: strategy(name, preset) for name in ("ngd", *BESIDE)}


def _run_gate(console: Console, port: Port, references: list[Sample], tests: list[Sample], seed: int) -> dict[str, Any]:
    from r2t2_jax.evaluation.collect import collect_bank
    from r2t2_jax.evaluation.evaluate import evaluate, rows
    from r2t2_jax.evaluation.questions import encode_questions
    from r2t2_jax.evaluation.retrieval import by_agreement, right_without_image, same_experts
    from r2t2_jax.evaluation.summary import summarize
    from r2t2_jax.metrics import get_metric
    from r2t2_jax.presets import find_preset
    from r2t2_jax.reporting.tables import agreement_line, family_table, gain_line, strategy_table

    metric = get_metric("exact_match")
    bank = collect_bank(port, references, metric)
    questions = encode_questions(port, tests)
    outcomes = evaluate(port, bank, questions, demo_strategies(port), metric, seed)
    right = {outcome.name: outcome.right for outcome in outcomes}
    categories = [sample.category for sample in tests]
    ngd = next(outcome for outcome in outcomes if outcome.name == "ngd")
    shared = same_experts([record["experts"] for record in bank.records], tests, ngd.neighbors)
    columns = {
        "question_only": right_without_image(port.embedder, references, tests, metric),
        "neighbors_with_same_experts": shared,
    }
    evaluations = {outcome.name: outcome.evaluations for outcome in outcomes}
    summary = summarize(right, evaluations, categories, columns) | {"neighbors": by_agreement(shared, right["ngd"])}
    seconds = {outcome.name: outcome.seconds_per_case for outcome in outcomes}
    title = f"{port.name}: {len(tests):,} questions, {len(bank):,} of {len(references):,} references answered correctly"
    console.print(strategy_table(title, summary, seconds))
    console.print(family_table(f"{port.name}: accuracy by family, %", summary, FAMILY_STRATEGIES, FAMILY_COLUMNS))
    console.print(agreement_line(summary), highlight=False)
    for rival in ("base", "uniform", "random_neighbors", "kernel_regression"):
        console.print(gain_line("ngd", rival, right), highlight=False)
    console.print()
    run = {
        "model": port.fingerprint,
        "embedder": port.embedder.fingerprint,
        "experts": port.model.spec.experts,
        "routing_shape": port.model.spec.shape,
        "references": {"asked": len(references), "kept": len(bank)},
        "preset": find_preset(PRESET, port.presets).to_mapping(),
        "seconds_per_case": seconds,
    }
    return {"summary": summary, "rows": rows(port, bank, questions, outcomes), "run": run}
