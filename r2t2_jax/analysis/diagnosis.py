"""Will re-routing help this model? Five questions, each answered from a stated test, and the verdict they add up to.

Plain numpy on what every strategy did to the same samples. A gain counts if its 95 % interval lies above zero and
reaches what is worth having; that there is none is said only if the interval stays below that (`comparison.py`).

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
WORTHWHILE = 0.05  # the smallest gain worth having: a share of the answers, or of the router's own loss
WORTHWHILE_CORRELATION = 0.1  # a smaller difference in rank correlation is of no use to a search
OPPOSITE: Mapping[Reply, Reply] = {"yes": "no", "no": "yes", "unclear": "unclear"}
LEAST_SAMPLES = 20  # fewer, and neither kind of interval can be trusted


def check_enough(samples: int) -> None:
    """Refuse, before any work is done, what no interval could speak of.

    Raises:
        R2T2Error: too few samples.
    """
    if samples < LEAST_SAMPLES:
        raise R2T2Error(f"a diagnosis of {samples} samples would be guesswork; give at least {LEAST_SAMPLES}")


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Args:
        values: for each of `ROWS`, of every sample whether it was answered correctly, or minus its loss. `ceiling` is
            the best routing anybody found with the label: by descent or among the candidates.
        near, random: rank correlation of each sample's own loss with its neighbours' over candidate routings, and with
            that of random references.
        standing: share of candidate routings under which a sample's own loss is lower than under the router's.
    """

    values: Mapping[str, Bool[np.ndarray, "B"] | Float[np.ndarray, "B"]]
    near: Float[np.ndarray, "B"]
    random: Float[np.ndarray, "B"]
    standing: Float[np.ndarray, "B"]

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
        """What `values` holds."""
        return "right" if self.values["base"].dtype == bool else "loss"


@dataclass(frozen=True)
class Finding:
    """One question, its answer, and the comparisons it rests on by name."""

    key: str
    question: str
    reply: Reply
    tests: Mapping[str, Comparison]


@dataclass(frozen=True)
class Diagnosis:
    """What the evidence says. `worthwhile` is in the unit of the values; intervals are 95 % and each stands alone."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    rows: Mapping[str, Comparison]  # each row's mean with its interval
    gains: Mapping[str, Comparison]  # each row against base
    n: int
    kind: Literal["right", "loss"]
    worthwhile: float
    samples_needed: int | None  # where the verdict is unclear

    @property
    def helps(self) -> bool:
        return self.verdict == "helps"

    def finding(self, key: str) -> Finding:
        """The finding called `gap`, `recoverable`, `uniform`, `predicts` or `router`."""
        return next(finding for finding in self.findings if finding.key == key)

    def to_record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
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
    """Answer the questions and name the verdict.

    Args:
        evidence: what was measured.
        worthwhile: the smallest gain worth having, as a share of all answers, or of the router's own mean loss.

    Raises:
        R2T2Error: `worthwhile` is no share.
    """
    if not 0 < worthwhile < 1:
        raise R2T2Error(f"the gain worth having is a share between 0 and 1, not {worthwhile}")
    values = evidence.values
    margin = worthwhile if evidence.kind == "right" else worthwhile * abs(float(values["base"].mean()))
    margin = max(margin, float(np.finfo(np.float32).tiny))

    def gain(before: str, after: str) -> Comparison:
        return compare(values[before], values[after])

    findings = _findings(evidence, gain, margin)
    verdict, deciding = _judge({finding.key: finding for finding in findings}, gain, margin)
    needed = None
    if verdict == "unclear":
        open_ones = [test for test in deciding if test.worth(margin) == "unclear"]
        needed = max(test.samples_needed(evidence.n, margin) for test in open_ones or deciding)
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
    routed = gain("uniform", "base")
    fine = "no" if gap.worth(margin) == "yes" else _all(OPPOSITE[gap.worth(margin)], routed.worth(margin))
    return (
        Finding("gap", "Is there a better routing than the router's?", gap.worth(margin), {"ceiling over base": gap}),
        Finding(
            "recoverable",
            "Do the neighbours show the way to it?",
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
            "Do the neighbours' losses tell a sample's own?",
            predicts,
            {"neighbours": near, "random references": mean_interval(evidence.random), "difference": more},
        ),
        Finding(
            "router",
            "Is the router simply fine?",
            fine,
            {"base over uniform": routed, "routings better than the router's": mean_interval(evidence.standing)},
        ),
    )


def _judge(
    findings: Mapping[str, Finding], gain: Callable[[str, str], Comparison], margin: float
) -> tuple[Verdict, list[Comparison]]:
    """The verdict, and the comparisons that decide it where it is unclear."""
    gap, recoverable, as_good = (findings[key].reply for key in ("gap", "recoverable", "uniform"))
    if gap == "no":
        return ("router_fine" if findings["router"].reply == "yes" else "no_gap"), []
    uniform_gains = gain("base", "uniform").worth(margin) == "yes"
    if as_good == "yes" and uniform_gains:
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
    """`no` if one is, `yes` if all are."""
    if "no" in replies:
        return "no"
    return "yes" if all(reply == "yes" for reply in replies) else "unclear"
