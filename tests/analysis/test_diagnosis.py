"""Every verdict on constructed evidence, and the rate of wrong verdicts on random evidence."""

import dataclasses
import json
import re

import numpy as np
import pytest

from r2t2_jax.analysis.diagnosis import ROWS, Evidence, diagnose_evidence
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.diagnosis import diagnosis_text

N = 200


def evidence(n: int = N, near: float = 0.5, random: float = 0.1, seed: int = 0, **shares: float) -> Evidence:
    """Evidence whose rows are correct for the first `shares` of the samples, so that rows are nested."""
    base = {name: shares.get(name, shares["base"]) for name in ROWS}
    values = {name: np.arange(n) < share * n for name, share in base.items()}
    noise = np.random.default_rng(seed).normal(0, 0.2, (2, n))
    return Evidence(values, near + noise[0], random + noise[1], np.full(n, 0.4))


CASES = {
    "helps": {"base": 0.5, "uniform": 0.55, "random_neighbors": 0.52, "ngd": 0.8, "ceiling": 0.9},
    "uniform": {"base": 0.5, "uniform": 0.8, "random_neighbors": 0.6, "ngd": 0.8, "ceiling": 0.9},
    "not_recoverable": {"base": 0.5, "uniform": 0.5, "random_neighbors": 0.5, "ngd": 0.5, "ceiling": 0.9},
    "router_fine": {"base": 0.8, "uniform": 0.5, "random_neighbors": 0.7, "ngd": 0.8, "ceiling": 0.8},
    "no_gap": {"base": 0.5, "uniform": 0.5, "random_neighbors": 0.5, "ngd": 0.5, "ceiling": 0.5},
}


@pytest.mark.parametrize("verdict", CASES)
def test_each_verdict(verdict: str) -> None:
    diagnosis = diagnose_evidence(evidence(**CASES[verdict]))
    assert diagnosis.verdict == verdict
    assert diagnosis.helps == (verdict == "helps")
    assert diagnosis.samples_needed is None


def replies(diagnosis) -> dict[str, str]:
    return {finding.key: finding.reply for finding in diagnosis.findings}


def test_each_question_is_answered() -> None:
    helps = replies(diagnose_evidence(evidence(**CASES["helps"])))
    assert helps == {"gap": "yes", "recoverable": "yes", "uniform": "no", "predicts": "yes", "router": "no"}
    fine = replies(diagnose_evidence(evidence(**CASES["router_fine"], near=0.0, random=0.0)))
    assert fine == {"gap": "no", "recoverable": "no", "uniform": "no", "predicts": "no", "router": "yes"}


def test_a_gain_that_random_references_also_have_is_not_attributed_to_neighbors() -> None:
    shares = {"base": 0.5, "uniform": 0.5, "random_neighbors": 0.8, "ngd": 0.8, "ceiling": 0.95}
    diagnosis = diagnose_evidence(evidence(**shares, near=0.0, random=0.0))
    assert diagnosis.verdict == "not_recoverable"
    assert "Random references gain as much" in " ".join(diagnosis_text(diagnosis).split())
    assert "other search settings will not" in " ".join(diagnosis_text(diagnosis).split())


def test_if_losses_predict_but_the_search_fails_the_text_recommends_tuning() -> None:
    assert "try r2t2 tune" in " ".join(diagnosis_text(diagnose_evidence(evidence(**CASES["not_recoverable"]))).split())


def test_few_samples_are_unclear_and_the_text_says_how_many_are_needed() -> None:
    shares = {"base": 0.5, "uniform": 0.4, "random_neighbors": 0.5, "ngd": 0.55, "ceiling": 0.8}
    few, many = (diagnose_evidence(evidence(n=n, **shares)) for n in (40, 4000))
    assert few.verdict == "unclear"
    assert few.samples_needed > 40
    assert f"About {few.samples_needed:,} samples are needed" in " ".join(diagnosis_text(few).split())
    assert many.verdict == "helps"


def test_a_smaller_gain_may_be_worth_having() -> None:
    shares = {"base": 0.5, "uniform": 0.4, "random_neighbors": 0.5, "ngd": 0.53, "ceiling": 0.53}
    assert diagnose_evidence(evidence(n=2000, **shares)).verdict == "router_fine"
    assert diagnose_evidence(evidence(n=2000, **shares), worthwhile=0.01).verdict == "helps"


def test_random_answers_rarely_give_the_verdict_that_rerouting_helps() -> None:
    """Every row is an independent biased coin; the ceiling is their maximum, as for lucky choices with the label."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(100):
        values = {name: rng.random(100) < 0.6 for name in ROWS}
        values["ceiling"] = values["base"] | values["ngd"] | values["uniform"]
        zeros = rng.normal(0, 0.2, (2, 100))
        verdicts.append(diagnose_evidence(Evidence(values, *zeros, np.full(100, 0.5))).verdict)
    assert verdicts.count("helps") <= 0.025 * 100


def test_losses_are_compared_relative_to_the_routers_own() -> None:
    rng = np.random.default_rng(0)
    base = -rng.uniform(1, 2, N)
    values = {name: base + 0.01 * rng.normal(size=N) for name in ROWS}
    fine = Evidence(values, *rng.normal(0, 0.1, (2, N)), np.full(N, 0.5))
    assert diagnose_evidence(fine).verdict == "no_gap"
    better = Evidence(values | {"ngd": 0.5 * base, "ceiling": 0.3 * base}, fine.near, fine.random, fine.router_rank)
    diagnosis = diagnose_evidence(better)
    assert diagnosis.verdict == "helps"
    assert diagnosis.worthwhile == pytest.approx(0.05 * -base.mean(), rel=0.01)
    assert "less loss than base" in diagnosis_text(diagnosis)


def test_the_text_fits_80_columns_and_the_record_is_json() -> None:
    for shares in CASES.values():
        diagnosis = diagnose_evidence(evidence(**shares))
        assert max(map(len, diagnosis_text(diagnosis).splitlines())) <= 80
        record = json.loads(json.dumps(diagnosis.to_record(), allow_nan=False))
        assert record["verdict"] == diagnosis.verdict
        assert record["rows"]["base"]["mean"] == pytest.approx(shares["base"], abs=0.01)
        assert set(record["findings"]) == {"gap", "recoverable", "uniform", "predicts", "router"}


def test_incomplete_evidence_and_few_samples_are_refused() -> None:
    with pytest.raises(R2T2Error, match="10 samples are too few for a diagnosis"):
        evidence(n=10, base=0.5)
    with pytest.raises(R2T2Error, match="ceiling is missing"):
        Evidence({name: np.ones(30, bool) for name in ROWS[:-1]}, *np.zeros((3, 30)))
    with pytest.raises(R2T2Error, match="must be a number between 0 and 1, not 5"):
        diagnose_evidence(evidence(base=0.5), worthwhile=5)


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e12])
def test_columns_of_losses_do_not_run_together(scale: float) -> None:
    rng = np.random.default_rng(0)
    losses = {name: -scale * (5 + rng.normal(size=N)) for name in ROWS}
    diagnosis = diagnose_evidence(Evidence(losses, rng.normal(size=N), rng.normal(size=N), np.full(N, 0.4)))
    lines = diagnosis_text(dataclasses.replace(diagnosis, preset="logit")).splitlines()
    assert lines[:2] == ["200 samples, preset logit", ""]
    assert max(map(len, lines)) <= 80
    number = r"[+-]?[\d.]+(?:e[+-]\d+)?"
    for name, line in zip(ROWS[1:], lines[4:], strict=False):
        row = rf"{name} +{number} +{number} - {number} +{number} \({number} to {number}\)"
        assert re.fullmatch(row, line), line
