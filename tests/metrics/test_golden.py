"""Recorded test cases of the original scorers and prompt formatters, and whole benchmarks.

`tests/golden/benchmarks` is in the repository; R2T2_EXTRA_GOLDENS may name folders with further test cases.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.metrics import get_metric, get_set_score
from tests.goldens import find_goldens
from tests.metrics.recorded import RECORDED, Case
from tests.metrics.recorded_prompts import PROMPTS

TOLERANCE = 1e-9


def cases(pattern: str, kind: str) -> list[Any]:
    """One parameter per test case, with an id of folder, file, kind and number."""
    parameters = []
    for golden in find_goldens(pattern):
        (path,) = golden.values
        for number, case in enumerate(json.loads(path.read_text(encoding="utf-8"))):
            parameters.append(pytest.param(case, id=f"{golden.id}-{case[kind]}-{number}"))
    return parameters


@pytest.mark.parametrize("case", cases("scoring_cases*.json", "metric"))
def test_a_score_equals_the_recorded_one(case: Case) -> None:
    recorded, ours = case["score"], RECORDED[case["metric"]](case)
    if isinstance(recorded, str) and recorded.startswith("ERROR:"):
        assert ours == 0.0  # an answer for which upstream raises is wrong
    elif isinstance(recorded, str):
        assert ours == recorded
    else:
        assert ours == pytest.approx(recorded, abs=TOLERANCE, rel=TOLERANCE)


@pytest.mark.parametrize("case", cases("prompt_cases*.json", "dataset"))
def test_a_prompt_equals_the_recorded_one(case: Case) -> None:
    assert PROMPTS[case["dataset"].partition(":")[0]](case) == case["prompt"]


def samples_of(rows: list[dict[str, Any]]) -> list[Sample]:
    image = np.zeros((1, 1, 3), np.uint8)
    return [Sample(image=image, question="?", **row) for row in rows]


@pytest.mark.parametrize("golden", find_goldens("mmbench_*.json"))
def test_mmbench_scores_equal_the_official_ones(golden: Path) -> None:
    recorded = json.loads(golden.read_text(encoding="utf-8"))
    rows = [dict(zip(recorded["columns"], row, strict=True)) for row in recorded["rows"]]
    samples = samples_of(
        [{"id": str(r["index"]), "answers": (r["gt"],), "options": ("\0",) * r["n_options"]} for r in rows]
    )
    scores = [get_metric("mmbench")(row["pred"], sample) for row, sample in zip(rows, samples, strict=True)]
    ours, official = get_set_score("mmbench")(scores, samples), recorded["official"]
    assert ours["circular"] == pytest.approx(100 * official["circular_vlmevalkit_exact"], abs=1e-6)
    assert ours["vanilla"] == pytest.approx(100 * official["vanilla_pass0"], abs=1e-6)
    assert ours["all_rows"] == pytest.approx(100 * official["vanilla_all_rows"], abs=1e-6)


@pytest.mark.parametrize("golden", find_goldens("mme_*.json"))
def test_mme_scores_equal_the_official_ones(golden: Path) -> None:
    recorded = json.loads(golden.read_text(encoding="utf-8"))
    rows = [dict(zip(recorded["columns"], row, strict=True)) for row in recorded["rows"]]
    samples = samples_of(
        [
            {"id": f"{r['category']}/{r['file']}#{i}", "answers": (r["gt"],), "category": r["category"]}
            for i, r in enumerate(rows)
        ]
    )
    scores = [get_metric("mme")(row["pred"], sample) for row, sample in zip(rows, samples, strict=True)]
    ours = get_set_score("mme")(scores, samples)
    printed = [line.split(" score:") for line in recorded["official_stdout"].splitlines() if " score:" in line]
    totals = [float(value) for name, value in printed if name.strip() == "total"]
    assert [ours["perception"], ours["cognition"]] == pytest.approx(totals)
    for name, value in printed:
        if name.strip() != "total":
            assert ours[name.strip()] == pytest.approx(float(value))
