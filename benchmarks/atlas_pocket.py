"""Build the loss atlases that ship with the pocket model: `python -m benchmarks.atlas_pocket`.

There is one atlas per gate, of all references of the dataset `pocket`, including incorrectly answered ones. The atlases
go to `ports/pocket/weights`, their cost to `benchmarks/results/atlas_pocket.json`.
"""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path

import tyro

from ports.pocket.params import FOLDER, GATES
from r2t2_jax.bank.build_atlas import AtlasPlan, build_atlas
from r2t2_jax.datasets import load_dataset
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load

RESULTS = Path(__file__).parent / "results" / "atlas_pocket.json"


def main(points: int = 16, machine: str = "2 CPU cores") -> None:
    """Build both atlases and record the time per reference."""
    references = load_dataset("pocket", "reference")
    plan = AtlasPlan(points=points)
    gates = {}
    for gate in GATES:
        port = load(f"pocket:{gate}")
        bank = collect_bank(port, references, get_metric("exact_match"), keep_wrong=True)
        start = time.perf_counter()
        atlas = build_atlas(port.model, port.params, bank, FOLDER / f"atlas-{gate}", plan)
        seconds = time.perf_counter() - start
        gates[gate] = {
            "references": len(atlas),
            "points": len(atlas.points),
            "seconds": round(seconds, 1),
            "milliseconds_per_reference": round(1000 * seconds / len(atlas), 2),
            "bytes_per_reference": atlas.losses.itemsize * atlas.losses.shape[1],
        }
    date = datetime.date.today().isoformat()
    RESULTS.write_text(
        json.dumps({"machine": machine, "date": date, "gates": gates}, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(gates, indent=1))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
