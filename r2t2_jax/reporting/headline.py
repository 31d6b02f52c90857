"""The verdict on a run: the best strategy without labels against the unmodified model and the controls.

Axis letters: B test samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r2t2_jax.evaluation.statistics import Comparison, compare
from r2t2_jax.methods import BASE, BASE_PERMUTED, untouched
from r2t2_jax.reporting.results import ModelResults
from r2t2_jax.reporting.roles import BOUND, CONTROL, METHOD, role

CONTROLS = ("uniform", "best_fixed", "random_neighbors", "shuffled_references")  # with which the headline compares
IMPROVES, NO_CHANGE, LOWERS = "improves", "no significant change", "lowers"


@dataclass(frozen=True)
class StrategyVerdict:
    """One strategy against `base` on the same questions.

    Args:
        strategy, accuracy: its name and its share of right answers.
        gain: in points over `base`, with its paired 95 % interval.
        verdict: `IMPROVES`, `NO_CHANGE` or `LOWERS`.
        wrong_to_right, right_to_wrong: numbers of answers that changed.
    """

    strategy: str
    accuracy: float
    gain: Comparison
    verdict: str
    wrong_to_right: int
    right_to_wrong: int


@dataclass(frozen=True)
class Headline:
    """The result of a model in a few sentences.

    Args:
        verdict: a sentence, on the best label-free strategy.
        best: that strategy against `base`.
        candidates: how many label-free methods the run has, of which it is the most accurate.
        controls: the accuracy of each control, and the gain of the best strategy over it in points.
        verdicts: for each verdict, the strategies that it applies to, the most accurate first.
    """

    verdict: str
    best: StrategyVerdict
    candidates: int
    controls: Mapping[str, tuple[float, Comparison]]
    verdicts: Mapping[str, Sequence[StrategyVerdict]]


def strategy_verdict(results: ModelResults, strategy: str) -> StrategyVerdict:
    """A strategy against the unmodified model, scored by the same labels."""
    name = untouched(strategy, results.strategies)
    before = results.base.right if name == BASE else results.strategies[name].right
    after = results.strategies[strategy].right
    gain = compare(before, after).times(100)
    verdict = IMPROVES if gain.low > 0 else LOWERS if gain.high < 0 else NO_CHANGE
    changed = int((~before & after).sum()), int((before & ~after).sum())
    return StrategyVerdict(strategy, float(after.mean()), gain, verdict, *changed)


def headline(results: ModelResults) -> Headline | None:
    """The verdict on the best strategy without labels and on all others; `None` if no strategy re-routed."""
    if results.explained is None:
        return None
    best = strategy_verdict(results, results.explained.name)
    controls = control_gains(results, best.strategy)
    methods = [name for name in results.ranking if role(name) == METHOD]
    verdicts = [strategy_verdict(results, name) for name in results.ranking if name != BASE_PERMUTED]
    grouped = {key: [each for each in verdicts if each.verdict == key] for key in (IMPROVES, NO_CHANGE, LOWERS)}
    return Headline(
        _sentence(best, controls),
        best,
        max(len(methods), 1),
        controls,
        {key: group for key, group in grouped.items() if group},
    )


def control_gains(results: ModelResults, strategy: str) -> dict[str, tuple[float, Comparison]]:
    """The accuracy of each control of the run, and the paired gain of a strategy over it in points.

    Besides `CONTROLS`, every other control that is more accurate than the strategy is among them.
    """
    after = results.strategies[strategy].right
    others = [name for name in results.ranking if name != strategy and role(name) not in (METHOD, BOUND)]
    names = [
        *(name for name in CONTROLS if name in others),
        *(name for name in others if name not in CONTROLS and results.strategies[name].right.mean() > after.mean()),
    ]
    right = {name: results.strategies[name].right for name in names}
    return {name: (float(before.mean()), compare(before, after).times(100)) for name, before in right.items()}


def _sentence(best: StrategyVerdict, controls: Mapping[str, tuple[float, Comparison]]) -> str:
    if role(best.strategy) == BOUND or best.strategy == BASE:
        return "No strategy without labels was run."
    if role(best.strategy) == CONTROL:
        return "Only controls were run, no re-routing method."
    if best.verdict == LOWERS:
        return "Re-routing lowers accuracy."
    if best.verdict == NO_CHANGE:
        return "No significant change with this many questions."
    open_controls = [name for name, (_, gain) in controls.items() if gain.low <= 0]
    if not open_controls:
        return "Re-routing improves accuracy."
    return f"Re-routing improves accuracy, but is not shown to be better than {' and '.join(open_controls)}."
