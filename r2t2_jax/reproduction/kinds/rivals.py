"""Every rival against neighbourhood gradient descent, on the same questions."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2t2_jax.evaluation.comparison import compare
from r2t2_jax.reporting.wording import BOUND, role, signed, signed_span
from r2t2_jax.reproduction.found import Found

DESCENT = "ngd"


def rivals(found: Found) -> dict[str, Any]:
    """Points over descent, paired; and who is better at a lower price."""
    ours = found.right(DESCENT)
    price = {name: found.first(name, "evaluations") for name in found.names}
    gains = {name: compare(ours, found.right(name)) for name in found.names if name != DESCENT}
    told = {
        name: f"{signed(100 * gain.gain)} ({signed_span(100 * gain.low, 100 * gain.high)})"
        for name, gain in gains.items()
    }
    better = [name for name, gain in gains.items() if gain.low > 0 and role(name) != BOUND]
    cheaper = [name for name in better if price[name] < price[DESCENT]]
    shown = sorted(found.names, key=lambda name: -float(np.mean(found.right(name))))
    notes = [
        f"Better than {DESCENT} beyond chance, without reading a label: {_listed(better)}. "
        f"Of these cheaper: {_listed(cheaper)}.",
        f"From the best to the worst: {', '.join(shown)}.",
    ]
    numbers = {name: [gain.gain, gain.low, gain.high] for name, gain in gains.items()}
    return {"columns": {f"against {DESCENT}, points": told}, "notes": notes, "numbers": {"against": numbers}}


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
