"""Table 4 of R2-T2 (arXiv 2502.20395), costs of MoAI on MMBench with k = 5 and 10 steps, and why ours differ."""

from __future__ import annotations

from typing import NamedTuple

from r2t2_jax.evaluation.ledger import WRITTEN


class PaperCost(NamedTuple):
    """A row of the table.

    Args:
        tflops: as printed.
        accuracy: on MMBench, as a share.
        difference: why ours differs.
    """

    tflops: float
    accuracy: float
    difference: str


PAPER = {  # by the name of our row
    WRITTEN: PaperCost(
        9.9,
        0.793,
        "Counts a multiply-add once where we count a multiplication and an addition; what is left of the difference "
        "is not said.",
    ),
    "mode_finding": PaperCost(
        10.7,
        0.808,
        "Eight hundredths of a pass more than the base: the second pass is left out, which answers under the new "
        "weights.",
    ),
    "kernel_regression_alpha": PaperCost(
        61.9,
        0.837,
        "5.25 passes more than the base: one pass for each of five neighbours, where a search for alpha that "
        "looks ten times takes fifty.",
    ),
    "ngd": PaperCost(
        67.5,
        0.852,
        "5.8 passes more than the base: ten steps with five neighbours are fifty passes forwards and fifty "
        "backwards, so nine steps of ten and every backward pass are left out.",
    ),
    "oracle": PaperCost(
        11.8,
        0.898,
        "A fifth of a pass more than the base: ten gradients of the question's own loss take twenty passes and more.",
    ),
}


def times_base(method: str) -> float | None:
    """A row of the table in units of its base; `None` where it has no such row."""
    return PAPER[method].tflops / PAPER[WRITTEN].tflops if method in PAPER else None
