"""Whether re-routing helps a model: five questions, a statistical test for each, and a verdict.

The tests use only numpy, on the results of every strategy on the same samples. A gain counts (`yes`) if its 95 %
interval lies above zero and reaches the worthwhile gain. It is `no` only if the whole interval is below that
(`evaluation/statistics.py`), and `unclear` otherwise.

Axis letters: B test samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.statistics import DIGITS, TESTS, Comparison, Reply, compare, mean_interval, wilson_interval

Verdict = Literal["helps", "uniform", "not_recoverable", "router_fine", "no_gap", "unclear"]
ROWS = ("base", "router_mean", "uniform", "random_neighbors", "kernel_regression", "ngd", "oracle", "ceiling")
WORTHWHILE = 0.05  # smallest relevant gain: a share of the answers, or of the router's own loss
WORTHWHILE_CORRELATION = 0.1  # smallest relevant rank correlation
OPPOSITE: Mapping[Reply, Reply] = {"yes": "no", "no": "yes", "unclear": "unclear"}
MIN_SAMPLES = 20  # below this number the intervals are not reliable


def check_enough(samples: int) -> None:
    """Check, before any work is done, that there are enough samples for confidence intervals.

    Raises:
        R2T2Error: there are fewer than `MIN_SAMPLES`.
    """
    if samples < MIN_SAMPLES:
        raise R2T2Error(f"{samples} samples are too few for a diagnosis; give at least {MIN_SAMPLES}")


@dataclass(frozen=True)
class Evidence:
    """Measurements on which a diagnosis is based.

    Args:
        values: by row of `ROWS`, for every sample whether it was answered correctly, or minus its loss. `ceiling` is
            the best routing found with the label, by descent or among the candidates.
        near, random: rank correlation over candidate routings of each sample's own loss with the loss of its neighbors,
            and with the loss of random references.
        router_rank: share of candidate routings with a lower loss of the sample than the router's routing.
    """

    values: Mapping[str, Bool[np.ndarray, "B"] | Float[np.ndarray, "B"]]
    near: Float[np.ndarray, "B"]
    random: Float[np.ndarray, "B"]
    router_rank: Float[np.ndarray, "B"]

    def __post_init__(self) -> None:
        missing = [name for name in ROWS if name not in self.values]
        if missing:
            raise R2T2Error(f"a diagnosis needs the rows {', '.join(ROWS)}; {missing[0]} is missing")
        check_enough(self.n)

    @property
    def n(self) -> int:
        return len(self.near)

    @property
    def kind(self) -> Literal["right", "loss"]:
        """Whether `values` are correct answers or losses."""
        return "right" if self.values["base"].dtype == bool else "loss"


@dataclass(frozen=True)
class Finding:
    """A question, its answer, and the comparisons that decide it, by name."""

    key: str
    question: str
    reply: Reply
    tests: Mapping[str, Comparison]


@dataclass(frozen=True)
class Diagnosis:
    """The verdict and its evidence. `worthwhile` has the unit of the values; each interval has a level of 95 %."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    rows: Mapping[str, Comparison]  # each row's mean with its interval
    gains: Mapping[str, Comparison]  # gain of each row over base
    n: int
    kind: Literal["right", "loss"]
    worthwhile: float
    samples_needed: int | None  # if the verdict is unclear
    preset: str = ""  # settings of every strategy, if the diagnosis is of a function

    def __str__(self) -> str:
        """The verdict and the reply to each question; `reporting.diagnosis.diagnosis_text` adds the numbers."""
        preset = f", preset {self.preset}" if self.preset else ""
        replies = [f"{finding.question} {finding.reply}" for finding in self.findings]
        return "\n".join([f"{self.verdict} (n = {self.n}{preset})", *replies])

    @property
    def helps(self) -> bool:
        return self.verdict == "helps"

    def finding(self, key: str) -> Finding:
        """The finding with the key `gap`, `recoverable`, `uniform`, `predicts` or `router`."""
        return next(finding for finding in self.findings if finding.key == key)

    def to_record(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        return {
            "verdict": self.verdict,
            "n": self.n,
            "values": "share of right answers" if self.kind == "right" else "minus the loss",
            "test": TESTS[self.kind],
            "worthwhile": round(self.worthwhile, DIGITS),
            "samples_needed": self.samples_needed,
            "rows": {name: _record(row) for name, row in self.rows.items()},
            "gains": {name: _record(gain) for name, gain in self.gains.items()},
            "findings": {
                finding.key: {
                    "question": finding.question,
                    "answer": finding.reply,
                    "tests": {name: _record(test) for name, test in finding.tests.items()},
                }
                for finding in self.findings
            },
        }


def _record(comparison: Comparison) -> dict[str, Any]:
    low, high = round(comparison.low, DIGITS), round(comparison.high, DIGITS)
    return {"mean": round(comparison.gain, DIGITS), "ci95": [low, high]}


def diagnose_evidence(evidence: Evidence, worthwhile: float = WORTHWHILE) -> Diagnosis:
    """Answer the five questions and derive the verdict.

    Args:
        evidence: the measurements.
        worthwhile: the smallest relevant gain, as a share of all answers or of the router's own mean loss.

    Returns:
        The findings, one per question, and the verdict with the finding that decides it.

    Raises:
        R2T2Error: `worthwhile` is not between 0 and 1.
    """
    if not (isinstance(worthwhile, int | float) and 0 < worthwhile < 1):
        raise R2T2Error(f"the smallest worthwhile gain must be a number between 0 and 1, not {worthwhile!r:.60}")
    values = evidence.values
    margin = worthwhile if evidence.kind == "right" else worthwhile * abs(float(values["base"].mean()))
    margin = max(margin, float(np.finfo(np.float32).tiny))

    def gain(before: str, after: str) -> Comparison:
        return compare(values[before], values[after])

    findings = _findings(evidence, gain, margin)
    verdict, deciding = _judge({finding.key: finding for finding in findings}, gain, margin)
    needed = None
    if verdict == "unclear":
        unclear = [test for test in deciding if test.worth(margin) == "unclear"]
        needed = max(test.samples_needed(evidence.n, margin) for test in unclear or deciding)
    return Diagnosis(
        verdict,
        findings,
        {name: _mean(values[name]) for name in ROWS},
        {name: gain("base", name) for name in ROWS[1:]},
        evidence.n,
        evidence.kind,
        margin,
        needed,
    )


def _findings(evidence: Evidence, gain: Callable[[str, str], Comparison], margin: float) -> tuple[Finding, ...]:
    gap = gain("base", "ceiling")
    over_base, over_random, over_uniform = (gain(name, "ngd") for name in ("base", "random_neighbors", "uniform"))
    recoverable = _all(over_base.worth(margin), over_random.worth(margin))
    near, more = mean_interval(evidence.near), mean_interval(evidence.near - evidence.random)
    predicts = _all(near.worth(WORTHWHILE_CORRELATION), more.worth(WORTHWHILE_CORRELATION))
    over_equal = gain("uniform", "base")
    fine = "no" if gap.worth(margin) == "yes" else _all(OPPOSITE[gap.worth(margin)], over_equal.worth(margin))
    return (
        Finding("gap", "Is there a better routing than the router's?", gap.worth(margin), {"ceiling over base": gap}),
        Finding(
            "recoverable",
            "Do the neighbors lead to it?",
            recoverable,
            {"ngd over base": over_base, "ngd over random_neighbors": over_random},
        ),
        Finding(
            "uniform",
            "Would equal weights do as well?",
            OPPOSITE[over_uniform.worth(margin)],
            {"ngd over uniform": over_uniform, "uniform over base": gain("base", "uniform")},
        ),
        Finding(
            "predicts",
            "Do the neighbors' losses predict a sample's own loss?",
            predicts,
            {"neighbors": near, "random references": mean_interval(evidence.random), "difference": more},
        ),
        Finding(
            "router",
            "Is the router already good enough?",
            fine,
            {"base over uniform": over_equal, "routings better than the router's": mean_interval(evidence.router_rank)},
        ),
    )


def _judge(
    findings: Mapping[str, Finding], gain: Callable[[str, str], Comparison], margin: float
) -> tuple[Verdict, list[Comparison]]:
    """The verdict, and the comparisons that would decide it if it is unclear."""
    gap, recoverable, uniform_as_good = (findings[key].reply for key in ("gap", "recoverable", "uniform"))
    if gap == "no":
        return ("router_fine" if findings["router"].reply == "yes" else "no_gap"), []
    uniform_gains = gain("base", "uniform").worth(margin) == "yes"
    if uniform_as_good == "yes" and uniform_gains:
        return "uniform", []
    if recoverable == "yes":
        return "helps", []
    if recoverable == "no" and gap == "yes":
        return "not_recoverable", []
    return "unclear", [*findings["gap"].tests.values(), *findings["recoverable"].tests.values()]


def _mean(values: Bool[np.ndarray, "B"] | Float[np.ndarray, "B"]) -> Comparison:
    if values.dtype == bool:
        return Comparison(float(values.mean()), *wilson_interval(int(values.sum()), len(values)))
    return mean_interval(values)


def _all(*replies: Reply) -> Reply:
    """`no` if any reply is no, `yes` if all are yes, else `unclear`."""
    if "no" in replies:
        return "no"
    return "yes" if all(reply == "yes" for reply in replies) else "unclear"
