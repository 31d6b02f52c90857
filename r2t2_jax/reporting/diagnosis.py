"""A diagnosis in words, at 80 columns: the rows, the five questions, the verdict and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

from r2t2_jax.analysis.diagnosis import Diagnosis, Finding
from r2t2_jax.analysis.loss_landscape import CANDIDATES
from r2t2_jax.evaluation.statistics import Comparison

WIDTH = 80
VERDICTS = {
    "helps": "Re-routing helps this model. The neighbours show better routing weights, and the descent finds them.",
    "uniform": "Equal weights do as well as re-routing, and cost nothing at test time: this router is worse than none. "
    "Set equal weights, or train the router anew.",
    "not_recoverable": "There are better routings, but these neighbours do not show the way to them.",
    "router_fine": "The router is fine. Routing matters to this model, and not even the labels lead to routings that "
    "would be worth a search.",
    "no_gap": "Routing is not what is wrong. Not even with the labels does another routing do noticeably better, and "
    "the router's own does not stand out either: look at experts, prompts or data.",
    "unclear": "These samples do not tell.",
}
LOSSES_TELL = "The neighbours' losses do tell a sample's own, so other search settings may do better: try r2t2 tune."
LOSSES_DO_NOT_TELL = (
    "Their losses do not tell a sample's own either: another embedder, more or other references may help, other search "
    "settings will not."
)


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """The whole diagnosis, as `print` shows it."""
    lines = [*_rows(diagnosis), ""]
    for finding in diagnosis.findings:
        lines += [f"{finding.question:<{WIDTH - 9}} {finding.reply:>8}"]
        lines += _wrapped(EXPLAIN[finding.key](diagnosis, finding), "  ")
    return "\n".join([*lines, "", *_wrapped(f"Verdict: {verdict_text(diagnosis)}", "")])


def verdict_text(diagnosis: Diagnosis) -> str:
    """The verdict and what follows from it."""
    told, parts = diagnosis.finding("predicts").reply, [VERDICTS[diagnosis.verdict]]
    over_base, over_random = diagnosis.finding("recoverable").tests.values()
    if diagnosis.verdict == "not_recoverable":
        if over_base.low > 0 and over_random.high < diagnosis.worthwhile:
            parts.append("Random references lead as far: what is gained is the same for every question.")
        if told != "yes":
            parts.append(LOSSES_DO_NOT_TELL if told == "no" else "Try r2t2 tune, then more references.")
    if diagnosis.verdict == "unclear":
        parts.append(f"About {diagnosis.samples_needed:,} would; {diagnosis.n:,} were asked.")
    if diagnosis.verdict in ("uniform", "not_recoverable", "unclear") and told == "yes":
        parts.append(LOSSES_TELL)
    if diagnosis.helps and diagnosis.finding("uniform").reply != "no":
        parts.append("Equal weights, which cost nothing, may do as well: compare them on more samples.")
    averaged = diagnosis.gains["router_mean"]
    if averaged.high < 0:
        parts.append(f"Averaging the router's weights over tokens alone changes {_gain(diagnosis, averaged)}.")
    return " ".join(parts)


def _rows(diagnosis: Diagnosis) -> list[str]:
    right = diagnosis.kind == "right"
    gains = "against base, points" if right else "less loss than base"
    lines = [f"{'':18}{'right %' if right else 'loss':>9}{'95 % interval':>19}{gains:>24}"]
    for name, row in diagnosis.rows.items():
        shown = (row.gain, row.low, row.high) if right else (-row.gain, -row.high, -row.low)
        mean, low, high = (f"{100 * value:.1f}" if right else f"{value:.4g}" for value in shown)
        gain = diagnosis.gains.get(name)
        change = "" if gain is None else f"{_number(diagnosis, gain.gain)} ({_interval(diagnosis, gain)})"
        lines.append(f"{name:<18}{mean:>9}{f'{low} - {high}':>19}{change:>24}".rstrip())
    return [
        *lines,
        *_wrapped(
            "ngd descends on the neighbours' losses, random_neighbors on random references', oracle on "
            "the label's; ceiling is the best routing found with the label.",
            "",
        ),
    ]


def _gap(diagnosis: Diagnosis, finding: Finding) -> str:
    return f"The best routing found with the label, against the router: {_gain(diagnosis, *finding.tests.values())}."


def _recoverable(diagnosis: Diagnosis, finding: Finding) -> str:
    over_base, over_random = finding.tests.values()
    return (
        f"Without the label, ngd against the router: {_gain(diagnosis, over_base)}; against the same descent on random "
        f"references: {_gain(diagnosis, over_random)}."
    )


def _uniform(diagnosis: Diagnosis, finding: Finding) -> str:
    over_uniform, uniform = finding.tests.values()
    return (
        f"ngd against equal weights: {_gain(diagnosis, over_uniform)}; equal weights against the router: "
        f"{_gain(diagnosis, uniform)}."
    )


def _predicts(diagnosis: Diagnosis, finding: Finding) -> str:
    near, random, more = (f"{test.gain:.2f} ({test.low:.2f} to {test.high:.2f})" for test in finding.tests.values())
    return (
        f"Rank correlation over {CANDIDATES} routings, mean over samples: {near}; with random references {random}; "
        f"difference {more}."
    )


def _router(diagnosis: Diagnosis, finding: Finding) -> str:
    over_uniform, standing = finding.tests.values()
    return (
        f"The router against equal weights: {_gain(diagnosis, over_uniform)}. Of the {CANDIDATES} routings tried "
        f"{100 * standing.gain:.0f} % ({100 * standing.low:.0f} to {100 * standing.high:.0f}) have less loss than its "
        "own; 50 % would be chance."
    )


EXPLAIN: Mapping[str, Callable[[Diagnosis, Finding], str]] = {
    "gap": _gap,
    "recoverable": _recoverable,
    "uniform": _uniform,
    "predicts": _predicts,
    "router": _router,
}


def _gain(diagnosis: Diagnosis, gain: Comparison) -> str:
    """`+12.0 points (+3.1 to +20.5)`."""
    unit = " points" if diagnosis.kind == "right" else " of loss"
    return f"{_number(diagnosis, gain.gain)}{unit} ({_interval(diagnosis, gain)})"


def _interval(diagnosis: Diagnosis, gain: Comparison) -> str:
    return f"{_number(diagnosis, gain.low)} to {_number(diagnosis, gain.high)}"


def _number(diagnosis: Diagnosis, value: float) -> str:
    return f"{100 * value:+.1f}" if diagnosis.kind == "right" else f"{value:+.3g}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
