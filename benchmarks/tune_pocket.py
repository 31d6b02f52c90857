"""Choose the preset `pocket` on validation questions: `python -m benchmarks.tune_pocket`.

The search is that of `r2t2 tune` (`r2t2_jax/evaluation/tune.py`) on both gates: an accuracy is over the questions of
both, and the cheapest setting within a point of the best is chosen. The evidence goes to
`benchmarks/results/tune_pocket.json`; a choice that differs from the shipped preset goes to
`ports/pocket/weights/presets.json`. The test split is not read. After an interruption the same command continues.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tyro

from ports.pocket.params import FOLDER, GATES
from r2t2_jax.datasets import load_dataset
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.tune import Tuning, prepare_tuning, refuse_test, tuned_preset, tuning_plan
from r2t2_jax.evaluation.tuning_grid import Budget, grid_presets, halving_rounds, sample_order
from r2t2_jax.method.presets import PAPER
from r2t2_jax.methods import find_preset, preset_of, settings_read
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.run import Run

RESULTS = Path(__file__).parent / "results" / "tune_pocket.json"
GRID = {
    "space.kind": ("free", "simplex", "logit", "shift"),
    "descent.optimizer": ("sgd", "adam"),
    "descent.learning_rate": (0.1, 0.3, 1.0),
    "neighborhood.k": (5, 10, 20),
}
SPLIT = "validation"


def tune(samples: int, out: Path) -> dict[str, Any]:
    """The chosen preset with its evidence."""
    metric = get_metric("exact_match")
    presets = sample_order(grid_presets(PAPER, GRID), Budget(), seed=0)
    references, questions = load_dataset("pocket", "reference"), load_dataset("pocket", SPLIT, samples)
    refuse_test(SPLIT, questions)
    ports = [load(f"pocket:{gate}") for gate in GATES]
    rounds = halving_rounds(len(presets), samples)
    depends = {"models": [port.fingerprint for port in ports], "versions": versions()}
    parts = tuning_plan([port.name for port in ports], rounds)
    with Run.open(out, "benchmarks.tune_pocket", {"samples": samples}, parts, depends) as run:
        batches = {
            port.name: prepare_tuning(
                port, collect_bank(port, references, metric), encode_questions(port, questions), presets, metric
            )
            for port in ports
        }
        tuning = Tuning(run, batches, rounds)
        preset = tuned_preset("pocket", presets, list(GRID), tuning, tuning.search())
        run.finish({"settings": preset["settings"]})
    preset["evidence"] |= {"split": SPLIT, "grid": len(presets), **depends}
    return preset


def main(samples: int = 400, out: Path = Path("out/tune_pocket")) -> None:
    """Tune on a number of validation questions and write preset and evidence; `out` is the folder of the run."""
    preset = tune(samples, out)
    shipped = FOLDER / "presets.json"
    if find_preset("pocket", json.loads(shipped.read_text(encoding="utf-8"))) != preset_of(preset["settings"]):
        shipped.write_text(json.dumps({"pocket": changed(preset)}, indent=1) + "\n", encoding="utf-8")
    RESULTS.write_text(json.dumps(preset, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(changed(preset), indent=1))


def changed(preset: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the paper's."""
    paper = settings_read([preset["strategy"]], PAPER)
    changes = {
        block: {key: value for key, value in values.items() if value != paper[block][key]}
        for block, values in preset["settings"].items()
    }
    return {block: values for block, values in changes.items() if values}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
