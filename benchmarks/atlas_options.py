"""Compare the atlas's two losses on the pocket model: `python -m benchmarks.atlas_options`, about two minutes.

The options are bounded losses and cross-entropies. The number of neighbors and the temperature of each option are those
with the most correct answers on the validation questions of both gates; all other settings are those of the preset
`pocket`. The test questions are answered once with the chosen settings. The numbers go to
`benchmarks/results/atlas_options.json` and, as a table, to `docs/atlas.md`.
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
from r2t2_jax.evaluation.tuning_grid import DEFAULT_VALUES, grid_presets
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import find_preset, strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "atlas_options.json"
PAGE = ROOT / "docs" / "atlas.md"
METRIC = get_metric("exact_match")
NEIGHBORS = (5, 10, 20, 50)
OPTIONS: dict[str, dict[str, Any]] = {
    "bounded": {},
    "cross-entropy": {"atlas.loss": "cross_entropy"},
}
BASELINE = "bounded"

Right = dict[str, Bool[np.ndarray, "B"]]


@dataclasses.dataclass(frozen=True)
class GateData:
    """A gate with its references and the encoded questions of both splits."""

    port: Port
    references: Any
    questions: Mapping[str, EncodedQuestions]

    def right(self, presets: Mapping[str, Preset], split: str) -> Right:
        """Which questions the atlas answers correctly with each preset, and which the router (`base`)."""
        methods = {name: strategy("atlas", preset) for name, preset in presets.items()} | {"base": strategy("base")}
        results = evaluate(self.port, self.references, self.questions[split], methods, METRIC)
        return {name: result.right for name, result in zip(methods, results, strict=True)}


def load_gate(gate: str, sizes: Mapping[str, int]) -> GateData:
    """A gate with all of its references, its shipped atlas, and a number of questions of each split."""
    port = load(f"pocket:{gate}")
    bank = collect_bank(port, load_dataset("pocket", "reference"), METRIC, keep_wrong=True)
    questions = {split: encode_questions(port, load_dataset("pocket", split, n)) for split, n in sizes.items()}
    return GateData(port, with_shipped_atlas(bank, port), questions)


def settings_of(option: Mapping[str, Any], base: Preset) -> dict[str, Preset]:
    """The presets of one option that are compared on validation questions, by number."""
    loss = str(option.get("atlas.loss", "bounded"))
    varied = {"atlas.k": NEIGHBORS, "atlas.temperature": DEFAULT_VALUES[loss]["atlas.temperature"]}
    presets = grid_presets(base.with_settings(option), varied, "atlas")
    return {str(i): preset for i, preset in enumerate(presets)}


def choose(gates: Mapping[str, GateData], base: Preset) -> tuple[dict[str, Preset], dict[str, float]]:
    """For each option the preset with the most correct validation answers over all gates, and their share."""
    chosen, shares = {}, {}
    for name, option in OPTIONS.items():
        presets = settings_of(option, base)
        right = [gate.right(presets, "validation") for gate in gates.values()]
        share = {number: float(np.mean([each[number].mean() for each in right])) for number in presets}
        best = max(share, key=lambda number: share[number])  # the first of equal ones
        chosen[name], shares[name] = presets[best], round(share[best], 6)
    return chosen, shares


def measured(right: Right) -> dict[str, Any]:
    """Accuracy of every option on a gate's test questions, compared with the router and with the baseline option."""
    rows = {}
    for name in OPTIONS:
        after, n = right[name], len(right[name])
        before, against = right["base"], compare(right[BASELINE], after)
        rows[name] = {
            "accuracy": round(float(after.mean()), 6),
            "ci95": [round(bound, 6) for bound in wilson_interval(int(after.sum()), n)],
            "wrong_to_right": int((~before & after).sum()),
            "right_to_wrong": int((before & ~after).sum()),
            "against_bounded": [round(bound, 6) for bound in (against.gain, against.low, against.high)],
        }
    return {"n": len(right["base"]), "base": round(float(right["base"].mean()), 6), "options": rows}


def page_table(recorded: Mapping[str, Any]) -> str:
    """The table with command, n, machine and date."""
    n = next(iter(recorded["gates"].values()))["n"]
    lines = [
        f"`{recorded['command']}`, n = {n:,} test questions per gate, {recorded['machine']}, {recorded['date']}. "
        "Differences are paired, with 95 % intervals.",
        "",
        "| option | k, T | " + " | ".join(f"{gate} gate | against bounded" for gate in recorded["gates"]) + " |",
        "| --- | --- |" + " --: | --: |" * len(recorded["gates"]),
    ]
    for name in OPTIONS:
        preset = recorded["chosen"][name]
        cells = [name, f"{preset['atlas.k']}, {preset['atlas.temperature']:g}"]
        for gate in recorded["gates"].values():
            row = gate["options"][name]
            gain, low, high = (100 * bound for bound in row["against_bounded"])
            cells += [
                f"{100 * row['accuracy']:.1f} %",
                "" if name == BASELINE else f"{gain:+.1f} ({low:+.1f} to {high:+.1f})",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(samples: int = 1000, validation: int = 400, machine: str = "2 CPU cores") -> None:
    """Choose settings, then compare the options on test questions of both gates."""
    start = time.perf_counter()
    gates = {gate: load_gate(gate, {"validation": validation, "test": samples}) for gate in GATES}
    port = next(iter(gates.values())).port
    chosen, shares = choose(gates, find_preset("pocket", port.presets))
    varied = ("atlas.k", "atlas.loss", "atlas.temperature", "atlas.proximal_weight")
    recorded = {
        "command": "python -m benchmarks.atlas_options",
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "validation": {"n": validation, "settings": len(settings_of({}, Preset())), "accuracy": shares},
        "chosen": {name: {key: preset.get(key) for key in varied} for name, preset in chosen.items()},
        "test": TESTS["right"],
        "gates": {name: measured(gate.right(chosen, "test")) for name, gate in gates.items()},
    }
    recorded["seconds"] = round(time.perf_counter() - start)
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_table(recorded))
    print(page_table(recorded))
    print(f"{recorded['seconds']} seconds")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
