"""Compare the atlas's two losses on the pocket model: `python -m benchmarks.atlas_options`, about two minutes.

Bounded losses against cross-entropies. Each option has its own number of neighbors and temperature, those with the most
correct answers on the validation questions of both gates; everything else is the preset `pocket`. Test questions are
answered once with the chosen settings. Numbers go to `benchmarks/results/atlas_options.json` and, as a table, to
`docs/atlas.md`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Bool

from benchmarks.pages import write_results
from ports.pocket.params import GATES
from r2t2_jax.contract import Port
from r2t2_jax.datasets import load_dataset
from r2t2_jax.evaluation.collect_bank import collect_bank, with_shipped_atlas
from r2t2_jax.evaluation.encode import EncodedQuestions, encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.statistics import TESTS, compare, wilson_interval
from r2t2_jax.evaluation.tuning_grid import USUAL, grid_presets
from r2t2_jax.method.presets import Preset, find_preset
from r2t2_jax.methods import strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "atlas_options.json"
PAGE = ROOT / "docs" / "atlas.md"
METRIC = get_metric("exact_match")
NEIGHBORS = (5, 10, 20, 50)
OPTIONS: dict[str, dict[str, Any]] = {
    "bounded": {},
    "cross-entropy": {"atlas_loss": "cross_entropy"},
}
PLAIN = "bounded"

Right = dict[str, Bool[np.ndarray, "B"]]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A gate with its references and questions of both splits, encoded."""

    port: Port
    references: Any
    asked: Mapping[str, EncodedQuestions]

    def right(self, presets: Mapping[str, Preset], split: str) -> Right:
        """Which questions the atlas answers correctly with each preset, and which the router does."""
        methods = {name: strategy("atlas", preset) for name, preset in presets.items()} | {"base": strategy("base")}
        outcomes = evaluate(self.port, self.references, self.asked[split], methods, METRIC)
        return {name: outcome.right for name, outcome in zip(methods, outcomes, strict=True)}


def open_bench(gate: str, sizes: Mapping[str, int]) -> Bench:
    """All references of a gate, answered correctly or not, its shipped atlas, and so many questions of each split."""
    port = load(f"pocket:{gate}")
    bank = collect_bank(port, load_dataset("pocket", "reference"), METRIC, keep_wrong=True)
    asked = {split: encode_questions(port, load_dataset("pocket", split, n)) for split, n in sizes.items()}
    return Bench(port, with_shipped_atlas(bank, port), asked)


def settings_of(option: Mapping[str, Any], base: Preset) -> dict[str, Preset]:
    """What is tried on validation questions for one option, by number."""
    loss = str(option.get("atlas_loss", "bounded"))
    varied = {"atlas_k": NEIGHBORS, "atlas_temperature": USUAL[loss]["atlas_temperature"]}
    return {str(i): one for i, one in enumerate(grid_presets(dataclasses.replace(base, **option), varied, "atlas"))}


def choose(benches: Mapping[str, Bench], base: Preset) -> tuple[dict[str, Preset], dict[str, float]]:
    """For each option the preset with the most right validation answers of all gates, and their share."""
    chosen, shares = {}, {}
    for name, option in OPTIONS.items():
        tried = settings_of(option, base)
        found = [bench.right(tried, "validation") for bench in benches.values()]
        share = {number: float(np.mean([right[number].mean() for right in found])) for number in tried}
        best = max(share, key=lambda number: share[number])  # the first of equals
        chosen[name], shares[name] = tried[best], round(share[best], 6)
    return chosen, shares


def measured(right: Right) -> dict[str, Any]:
    """Accuracy of every option on a gate's test questions, beside the router and beside the atlas without it."""
    rows = {}
    for name in OPTIONS:
        after, n = right[name], len(right[name])
        before, against = right["base"], compare(right[PLAIN], after)
        rows[name] = {
            "accuracy": round(float(after.mean()), 6),
            "ci95": [round(bound, 6) for bound in wilson_interval(int(after.sum()), n)],
            "wrong_to_right": int((~before & after).sum()),
            "right_to_wrong": int((before & ~after).sum()),
            "against_bounded": [round(bound, 6) for bound in (against.gain, against.low, against.high)],
        }
    return {"n": len(right["base"]), "base": round(float(right["base"].mean()), 6), "options": rows}


def page_table(found: Mapping[str, Any]) -> str:
    """The table with its command, n, machine and date."""
    n = next(iter(found["gates"].values()))["n"]
    lines = [
        f"`{found['command']}`, n = {n:,} test questions a gate, {found['machine']}, {found['date']}. Differences are "
        "paired, with 95 % intervals.",
        "",
        "| option | k, T | " + " | ".join(f"{gate} gate | against bounded" for gate in found["gates"]) + " |",
        "| --- | --- |" + " --: | --: |" * len(found["gates"]),
    ]
    for name in OPTIONS:
        preset = found["chosen"][name]
        cells = [name, f"{preset['atlas_k']}, {preset['atlas_temperature']:g}"]
        for gate in found["gates"].values():
            row = gate["options"][name]
            gain, low, high = (100 * bound for bound in row["against_bounded"])
            cells += [
                f"{100 * row['accuracy']:.1f} %",
                "" if name == PLAIN else f"{gain:+.1f} ({low:+.1f} to {high:+.1f})",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(samples: int = 1000, validation: int = 400, machine: str = "2 CPU cores") -> None:
    """Choose settings, then compare the options on test questions of both gates."""
    start = time.perf_counter()
    benches = {gate: open_bench(gate, {"validation": validation, "test": samples}) for gate in GATES}
    some = next(iter(benches.values())).port
    chosen, shares = choose(benches, find_preset("pocket", some.presets))
    varied = ("atlas_k", "atlas_loss", "atlas_temperature", "atlas_trust")
    found = {
        "command": "python -m benchmarks.atlas_options",
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "validation": {"n": validation, "settings": len(settings_of({}, Preset())), "accuracy": shares},
        "chosen": {name: {key: getattr(preset, key) for key in varied} for name, preset in chosen.items()},
        "test": TESTS["right"],
        "gates": {gate: measured(bench.right(chosen, "test")) for gate, bench in benches.items()},
    }
    found["seconds"] = round(time.perf_counter() - start)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_table(found))
    print(page_table(found))
    print(f"{found['seconds']} seconds")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
