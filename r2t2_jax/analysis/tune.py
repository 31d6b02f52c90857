"""Chooses settings of a strategy for any JAX model by the loss of labeled samples, without a port or files.

Axis letters: B samples, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Answer, Features, Params, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.evaluator import order_by_program
from r2t2_jax.evaluation.statistics import Comparison, compare, mean_interval
from r2t2_jax.evaluation.tuning_grid import VARIED, Budget, grid_presets, halving_rounds, sample_order
from r2t2_jax.functional.arrays import ArraySamples, Loss, check_dependence, check_labels
from r2t2_jax.method.presets import PAPER, PRESETS, Preset
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import find_preset, preset_name
from r2t2_jax.methods import strategy as named_strategy
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runtime.checks import check_whole_number
from r2t2_jax.runtime.progress import progress_bar

CHUNK = 50  # samples per program, so that all rounds share it
VALUES: Mapping[str, Mapping[str, Sequence[Any]]] = {  # to try, by strategy
    "ngd": {
        "space.kind": ("simplex", "logit"),
        "descent.optimizer": ("adam",),
        "descent.learning_rate": (0.1, 0.3, 1.0),
        "neighborhood.k": (5, 20),
        "neighborhood.kernel": ("gaussian", "linear"),
    },
    "atlas": {
        "neighborhood.kernel": ("gaussian", "linear"),
        "atlas.k": (10, 20, 50),
        "atlas.loss": ("bounded",),
        "atlas.temperature": (0.005, 0.02, 0.05),
        "atlas.proximal_weight": (0.0, 0.1),
    },
}


@dataclass(frozen=True)
class TunedPreset:
    """The best settings, with evidence.

    Args:
        strategy: name of the tuned strategy.
        preset: the settings with the lowest mean loss; `reroute(..., preset=tuned.preset)` uses them.
        loss: their mean loss with its 95 % interval. It is the best of many, so expect slightly more on new samples.
        gain: decrease of the loss against the router's own weights, with its 95 % interval.
        paper: mean loss with the paper's settings.
        table: settings that vary, mean loss, and number of samples it is of, the best first.
    """

    strategy: str
    preset: Preset
    loss: Comparison
    gain: Comparison
    paper: float
    table: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        """The best settings and what they gain, in one line."""
        varied = {name: value for name, value in self.table[0].items() if name not in ("loss", "n")}
        shown = ", ".join(f"{name} {value}" for name, value in varied.items())
        gain, low, high = self.gain.gain, self.gain.low, self.gain.high
        change = f"{gain:.3g} ({low:.3g} to {high:.3g}) less"
        if gain < 0:
            change = f"{-gain:.3g} ({-high:.3g} to {-low:.3g}) more"
        return (
            f"{self.strategy}: {shown}: loss {self.loss.gain:.3g} ({self.loss.low:.3g} to {self.loss.high:.3g}) on "
            f"{self.table[0]['n']} samples, {change} than with the router's own weights; the paper's settings "
            f"{self.paper:.3g}; {len(self.table)} settings tried"
        )


def tune(
    model: RoutedLoss | Loss,
    params: Params,
    bank: ReferenceBank,
    features: Features,
    routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"],
    embeddings: Float[Array, "B M"] | Float[np.ndarray, "B M"],
    answers: Answer,
    *,
    strategy: str = "ngd",
    values: Mapping[str, Sequence[Any]] | None = None,
    preset: str | Preset | Mapping[str, Any] = PAPER,
    budget: int | None = None,
    spec: RoutingSpec | None = None,
    support: Bool[Array, "B L E"] | Bool[np.ndarray, "B L E"] | None = None,
    seed: int = 0,
    allow_leakage: bool = False,
) -> TunedPreset:
    """Choose the settings of a strategy on labeled validation samples, by their mean loss.

    Successive halving: all settings on the first samples, the best third on twice as many, and so on. The presets
    `paper`, `simplex` and `logit` are always among the settings. Settings that differ in numbers only share a program.

    Args:
        model, params, bank, features, routing, embeddings, spec, support, seed, allow_leakage: as `r2t2_jax.reroute`
            takes them. Use validation samples: never the test samples on which results are reported.
        answers: labels of the B samples.
        strategy: `ngd`, or `atlas` for a bank with an atlas (`r2t2_jax.build_atlas`).
        values: values to try by path of a setting, such as `{"descent.learning_rate": (0.1, 0.3)}`; default:
            `VALUES` of the strategy.
        preset: the settings that do not vary.
        budget: number of settings of the grid to try besides the three presets, drawn at random; default: all.

    Returns:
        The best settings and a table of all.

    Raises:
        R2T2Error: an array does not fit, as in `reroute`; the strategy cannot be tuned; a value is out of range; the
            loss does not depend on the routing weights; or no setting gives a finite loss.
    """
    if strategy not in VARIED:
        raise R2T2Error(f"settings of {strategy!r} cannot be tuned; choose one of {', '.join(VARIED)}")
    check_labels(answers)
    if budget is not None:
        check_whole_number("budget", budget, 1)
    samples = ArraySamples.create(
        model, params, bank, features, routing, embeddings, answers, spec, support, seed, allow_leakage
    )
    check_dependence(samples.model, params, samples.queries)
    grid = _grid(VALUES[strategy] if values is None else values)
    settings = _settings(samples, strategy, grid, find_preset(preset), budget)
    rounds = halving_rounds(len(settings), len(samples))
    losses: dict[int, Float[np.ndarray, "n"]] = {number: np.zeros(0) for number in range(len(settings))}
    remaining = list(losses)
    for step in rounds:
        remaining = remaining[: step.settings]
        with progress_bar(len(remaining) * (step.stop - step.start), f"tune {strategy}") as progress:
            for number in _by_program(strategy, settings, remaining):
                new = _losses(samples, named_strategy(strategy, settings[number]), np.arange(step.start, step.stop))
                losses[number] = np.concatenate([losses[number], new])
                progress.update(step.stop - step.start)
        remaining.sort(key=lambda number: _mean(losses[number]))
    best = settings[remaining[0]]
    if not np.isfinite(losses[remaining[0]]).all():
        raise R2T2Error("no setting gives a finite loss: check answer_loss and the values to try")
    own = samples.losses(samples.queries.routing)
    paper = settings.index(_fit(samples, PAPER))
    missing = np.arange(len(losses[paper]), len(samples))  # if it was not among the best
    if len(missing):
        rest = _losses(samples, named_strategy(strategy, settings[paper]), missing)
        losses[paper] = np.concatenate([losses[paper], rest])
    order = sorted(losses, key=lambda number: (-len(losses[number]), _mean(losses[number])))
    return TunedPreset(
        strategy,
        best,
        mean_interval(losses[remaining[0]]),
        compare(-own, -losses[remaining[0]]),
        _mean(losses[paper]),
        tuple(_row(settings[number], grid, losses[number]) for number in order),
    )


def _grid(values: Any) -> dict[str, Sequence[Any]]:
    """The values to try, by path of a setting."""
    form = "give values to try by path, {'descent.learning_rate': (0.1, 0.3)}"
    if not isinstance(values, Mapping):
        raise R2T2Error(f"values is of type {type(values).__name__}; {form}")
    for path, options in values.items():
        if isinstance(options, str | Mapping) or not isinstance(options, Iterable):
            raise R2T2Error(f"the values of {path!r} are {options!r:.60}; {form}")
    return {path: tuple(options) for path, options in values.items()}


def _settings(
    samples: ArraySamples, strategy: str, values: Mapping[str, Sequence[Any]], base: Preset, budget: int | None
) -> list[Preset]:
    """The presets to try: three by name, then those of the grid; neighbors are at most as many as references."""
    grid = sample_order(grid_presets(base, values, strategy), Budget(settings=budget), samples.seed)
    named = [PRESETS[name] for name in ("paper", "simplex", "logit")]
    return list(dict.fromkeys(_fit(samples, preset) for preset in (*named, *grid)))


def _fit(samples: ArraySamples, preset: Preset) -> Preset:
    limits = {"neighborhood.k": int(samples.bank.right.sum()), "atlas.k": len(samples.bank)}
    return preset.with_settings({path: min(preset.get(path), most) for path, most in limits.items()})


def _by_program(name: str, settings: Sequence[Preset], numbers: Sequence[int]) -> list[int]:
    return [int(key) for key in order_by_program({str(i): named_strategy(name, settings[i]) for i in numbers})]


def _losses(samples: ArraySamples, method: Strategy, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The losses of some samples with a strategy, in chunks of one size."""
    losses = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        size = min(CHUNK, len(samples))
        padded = samples.take(np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk))]))
        losses.append(padded.losses(padded.reroute(method).weights)[: len(chunk)])
    return np.concatenate(losses).astype(np.float64)


def _mean(losses: Float[np.ndarray, "n"]) -> float:
    """The mean loss; infinite if one is not finite."""
    return float(losses.mean()) if np.isfinite(losses).all() else math.inf


def _row(preset: Preset, values: Mapping[str, Sequence[Any]], losses: Float[np.ndarray, "n"]) -> dict[str, Any]:
    name = preset_name(preset)
    row = {"preset": name} if name != "custom" else {}
    return {**row, **{path: preset.get(path) for path in values}, "loss": _mean(losses), "n": len(losses)}
