"""PhysBench (USC-GVL/PhysBench, caculate_core.py): the prediction begins with the right letter."""

from __future__ import annotations

from r2t2_jax.contract import Sample


def physbench(prediction: str, sample: Sample) -> float:
    """1.0 for `B`, `B. ...` and also `Both`; 0.0 for `(B)`."""
    return float(prediction.startswith(sample.answers[0]))
