"""A diagnosis as text of 80 columns, and as a page: rows, five questions with answers, the verdict, and the audit."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

from r2t2_jax.analysis.counterfactual import RouteAudit
from r2t2_jax.analysis.diagnosis import Diagnosis, Finding
from r2t2_jax.analysis.loss_landscape import CANDIDATES
from r2t2_jax.evaluation.statistics import Comparison
from r2t2_jax.reporting.bank_report import Table
from r2t2_jax.reporting.page import render_template

WIDTH = 80
SHOWN_LAYERS = 8  # of an audit
WIDTHS = (18, 9, 19, 24)  # of the columns of rows, at least
VERDICTS = {
    "helps": "Re-routing helps this model. The neighbors point to better routing weights, and gradient descent finds "
    "them.",
    "uniform": "Equal weights do as well as re-routing and cost nothing at test time: this router is worse than no "
    "router. Set equal weights, or train the router again.",
    "not_recoverable": "Better routings exist, but these neighbors do not lead to them.",
    "router_fine": "The router is fine. Routing matters to this model, and not even the labels lead to routings that "
    "would be worth a search.",
    "no_gap": "Routing is not the problem. Even with the labels, no other routing is noticeably better, and the "
    "router's own is not better than others either: look at experts, prompts or data.",
    "unclear": "Inconclusive:",
}
LOSSES_PREDICT = (
    "The neighbors' losses predict a sample's own loss, so other search settings may do better: try r2t2 tune."
)
LOSSES_DO_NOT_PREDICT = (
    "The neighbors' losses do not predict a sample's own loss either: another embedder, more or other references may "
    "help, other search settings will not."
)


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """The whole diagnosis, with lines of at most 80 columns."""
    lines = [f"{diagnosis.n:,} samples, preset {diagnosis.preset}", ""] if diagnosis.preset else []
    lines += [*_row_lines(diagnosis), ""]
    for finding in diagnosis.findings:
        lines += [f"{finding.question:<{WIDTH - 9}} {finding.reply:>8}"]
        lines += _wrap(EXPLANATIONS[finding.key](diagnosis, finding), "  ")
    return "\n".join([*lines, "", *_wrap(f"Verdict: {verdict_text(diagnosis)}", "")])


def verdict_text(diagnosis: Diagnosis) -> str:
    """The verdict and what follows from it, in sentences."""
    predicts, sentences = diagnosis.finding("predicts").reply, [VERDICTS[diagnosis.verdict]]
    over_base, over_random = diagnosis.finding("recoverable").tests.values()
    if diagnosis.verdict == "not_recoverable":
        if over_base.low > 0 and over_random.high < diagnosis.worthwhile:
            sentences.append("Random references gain as much, so the gain does not depend on the question.")
        if predicts != "yes":
            sentences.append(LOSSES_DO_NOT_PREDICT if predicts == "no" else "Try r2t2 tune, then more references.")
    if diagnosis.verdict == "unclear":
        sentences.append(f"{diagnosis.n:,} samples are too few. About {diagnosis.samples_needed:,} samples are needed.")
    if diagnosis.verdict in ("uniform", "not_recoverable", "unclear") and predicts == "yes":
        sentences.append(LOSSES_PREDICT)
    if diagnosis.helps and diagnosis.finding("uniform").reply != "no":
        sentences.append("Equal weights, which cost nothing, may do as well: compare them on more samples.")
    if diagnosis.preset == "paper" and diagnosis.verdict in ("uniform", "not_recoverable", "unclear"):
        sentences.append("The paper's steps are small: try preset='auto', or r2t2_jax.tune.")
    averaged = diagnosis.gains["router_mean"]
    if averaged.high < 0:
        sentences.append(f"Averaging the router's weights over tokens by itself changes {_gain(diagnosis, averaged)}.")
    return " ".join(sentences)


def audit_text(audit: RouteAudit) -> str:
    """The audit of alternative routes, with lines of at most 80 columns."""
    lines = _wrap(audit_summary(audit), "")
    if audit.missing:
        return "\n".join(lines)
    if audit.layers:
        header, rows = audit_table(audit)
        table = [header, *rows[:SHOWN_LAYERS]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += ["", *("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table)]
        if len(rows) > SHOWN_LAYERS:
            lines.append(f"{len(rows) - SHOWN_LAYERS} further layers have a smaller excess; --out has all.")
    return "\n".join([*lines, "", *_wrap(f"Audit: {audit_verdict(audit)}", "")])


def audit_summary(audit: RouteAudit) -> str:
    """What was drawn, and at how many places."""
    if audit.missing:
        return f"No audit of alternative routes: {audit.missing}."
    places = f"{audit.places:,} true answers" if audit.unit == "answer" else f"{audit.places:,} tokens of true answers"
    return (
        f"Audit of alternative routes: {audit.alternatives} of equal compute in each layer, drawn by Gumbel top-k, at "
        f"{places}. The router gives {audit.fragile:,} of them less than "
        f"50 %: these are fragile, and the shares below are theirs, as means over {audit.questions:,} questions. Beat "
        f"is the share of alternatives under which the true {audit.unit} is more probable than under the router's "
        f"route; permuted the same for the true {audit.unit}s of other questions of the category. Corrected is the "
        "share of wrong places at which an alternative makes it the most probable (permuted)."
    )


def audit_table(audit: RouteAudit) -> Table:
    """The layers, the largest excess first; shares in percent, the excess in points."""
    rows = [
        (
            each.layer,
            f"{100 * each.share:.1f}",
            f"{100 * each.permuted:.1f}",
            f"{100 * each.excess.gain:+.1f} ({100 * each.excess.low:+.1f} to {100 * each.excess.high:+.1f})",
            f"{each.q:.2g}",
            f"{100 * each.corrected:.0f} ({100 * each.corrected_permuted:.0f})",
        )
        for each in sorted(audit.layers, key=lambda each: -each.excess.gain)
    ]
    return ("layer", "beat %", "permuted %", "excess, points", "q", "corrected %"), rows


def audit_verdict(audit: RouteAudit) -> str:
    """The verdict of an audit that could be made, in sentences."""
    if audit.verdict == "few":
        few = f"{audit.questions:,} questions with a fragile {audit.unit}"
        return f"Inconclusive: {few} are too few; ask more with --limit."
    if audit.verdict == "none":
        bound = max(each.excess.high for each in audit.layers)
        return (
            f"No layer has better routes than chance gives: alternatives raise permuted {audit.unit}s as often as true "
            f"ones. The largest excess that the intervals allow is {100 * bound:+.1f} points. Re-routing single "
            "layers has little to find here."
        )
    names = [each.layer for each in audit.helping]
    shown = ", ".join(names[:SHOWN_LAYERS]) + (", ..." if len(names) > SHOWN_LAYERS else "")
    return (
        f"Better routes exist in {len(names)} of {len(audit.layers)} layers ({shown}): alternatives raise the true "
        f"{audit.unit} more often than permuted ones. Re-routing can help there, if something points to them without "
        "the label."
    )


def diagnosis_page(title: str, diagnosis: Diagnosis | None, audit: RouteAudit | None) -> str:
    """The diagnosis and the audit as one HTML page."""
    rows = [] if diagnosis is None else [
        (name, f"{_value(diagnosis, row.gain)}", f"{_value(diagnosis, row.low)} to {_value(diagnosis, row.high)}",
         "" if name not in diagnosis.gains else _gain(diagnosis, diagnosis.gains[name]))
        for name, row in diagnosis.rows.items()
    ]  # fmt: skip
    unit = "right, %" if diagnosis is None or diagnosis.kind == "right" else "minus the loss"
    return render_template(
        "diagnosis.html.j2",
        title=title,
        verdict=None if diagnosis is None else verdict_text(diagnosis),
        rows=(("row", unit, "95 % interval", "against base"), rows),
        findings=[] if diagnosis is None else [
            (finding.question, finding.reply, EXPLANATIONS[finding.key](diagnosis, finding))
            for finding in diagnosis.findings
        ],
        audit=None if audit is None else (
            "" if audit.missing else audit_verdict(audit), audit_summary(audit), audit_table(audit)
        ),
    )  # fmt: skip


def _value(diagnosis: Diagnosis, value: float) -> str:
    return f"{100 * value:.1f}" if diagnosis.kind == "right" else f"{value:.4g}"


def _row_lines(diagnosis: Diagnosis) -> list[str]:
    lines = _row_table(diagnosis, 4)
    if max(map(len, lines)) > WIDTH:  # losses with exponents
        lines = _row_table(diagnosis, 2)
    return [
        *lines,
        *_wrap(
            "ngd minimizes the neighbors' losses, random_neighbors those of random references, oracle the loss of the "
            "label; ceiling is the best routing found with the label.",
            "",
        ),
    ]


def _row_table(diagnosis: Diagnosis, digits: int) -> list[str]:
    """The rows in aligned columns; losses have so many digits, and their differences one less."""
    is_accuracy = diagnosis.kind == "right"
    gains = "against base, points" if is_accuracy else "less loss than base"
    table = [("", "right %" if is_accuracy else "loss", "95 % interval", gains)]
    for name, row in diagnosis.rows.items():
        numbers = (row.gain, row.low, row.high) if is_accuracy else (-row.gain, -row.high, -row.low)
        mean, low, high = (f"{100 * value:.1f}" if is_accuracy else f"{value:.{digits}g}" for value in numbers)
        gain, change = diagnosis.gains.get(name), ""
        if gain is not None:
            by, least, most = (
                f"{100 * value:+.1f}" if is_accuracy else f"{value:+.{digits - 1}g}"
                for value in (gain.gain, gain.low, gain.high)
            )
            change = f"{by} ({least} to {most})"
        table.append((name, mean, f"{low} - {high}", change))
    widths = [max(least, *(len(cell) + 1 for cell in column)) for least, *column in zip(WIDTHS, *table, strict=True)]
    return [(cells[0].ljust(widths[0]) + "".join(map(str.rjust, cells[1:], widths[1:]))).rstrip() for cells in table]


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
    near, random, difference = (
        f"{test.gain:.2f} ({test.low:.2f} to {test.high:.2f})" for test in finding.tests.values()
    )
    return (
        f"Rank correlation over {CANDIDATES} routings, mean over samples: {near}; with random references {random}; "
        f"difference {difference}."
    )


def _router(diagnosis: Diagnosis, finding: Finding) -> str:
    over_uniform, rank = finding.tests.values()
    return (
        f"The router against equal weights: {_gain(diagnosis, over_uniform)}. Of the {CANDIDATES} routings tried "
        f"{100 * rank.gain:.0f} % ({100 * rank.low:.0f} to {100 * rank.high:.0f}) have less loss than the router's "
        "own; 50 % would be chance."
    )


EXPLANATIONS: Mapping[str, Callable[[Diagnosis, Finding], str]] = {
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


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
