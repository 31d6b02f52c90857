"""The average of the R2-T2 paper's result tables."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from r2t2_jax.errors import R2T2Error

COLUMNS = ("mmbench", "mme", "scienceqa", "ai2d", "textvqa", "gqa", "cvbench2d", "cvbench3d", "physbench")
_MME_SCALE = 20  # MME perception has 2,000 points


def paper_average(scores: Mapping[str, float]) -> float:
    """Mean over the nine columns, all in percent but MME perception, which is divided by 20 first.

    Raises:
        R2T2Error: a column is missing or unknown.
    """
    if set(scores) != set(COLUMNS):
        wrong = ", ".join(sorted(set(scores) ^ set(COLUMNS)))
        raise R2T2Error(f"the paper's average has the columns {', '.join(COLUMNS)}; missing or unknown: {wrong}")
    return fmean(scores[name] / _MME_SCALE if name == "mme" else scores[name] for name in COLUMNS)
