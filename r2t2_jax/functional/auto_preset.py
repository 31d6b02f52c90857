"""Chooses a preset for a model given as a loss function, by a quick validation on left-out references.

Axis letters: n left-out references, L routed layers, E experts.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.contract import Query
from r2t2_jax.functional.arrays import ArraySamples, check_dependence, row_digests
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import find_preset
from r2t2_jax.methods import strategy as named_strategy

AUTO = "auto"
CANDIDATES = ("paper", "simplex", "logit")
LEFT_OUT = 32  # references on which the presets are compared, at most a quarter of all
ROUTER = "router"


@dataclass(frozen=True)
class PresetChoice:
    """The preset that a validation chose.

    Args:
        strategy: name of the strategy.
        name, preset: of the best candidate.
        losses: mean loss on the left-out references by candidate, and with the router's own weights (`router`); empty
            if the candidates do not differ for this strategy, or if there are too few references.
        left_out: number of left-out references.
        differ: whether the candidates have different settings for this strategy.
    """

    strategy: str
    name: str
    preset: Preset
    losses: Mapping[str, float]
    left_out: int
    differ: bool = True

    def __str__(self) -> str:
        """One line: the preset, its loss, what the others would have given, and whether none changes the loss."""
        if not self.losses:
            return f"preset {self.name} for {self.strategy}: not compared with others, too few references"
        others = [f"{name} {loss:.3g}" for name, loss in self.losses.items() if name not in (self.name, ROUTER)]
        text = (
            f"preset {self.name}, chosen for {self.strategy} on {self.left_out} left-out references: mean loss "
            f"{self.losses[self.name]:.3g}; {', '.join(others)}, the router's own weights {self.losses[ROUTER]:.3g}"
        )
        if len(set(self.losses.values())) > 1:
            return text
        return f"{text}. No preset changes the loss: if its gradient is zero, as of a 0/1 loss, only the atlas helps"


def resolve_strategy(
    strategy: Strategy | str, preset: str | Preset | Mapping[str, object], samples: ArraySamples
) -> tuple[Strategy, str]:
    """A strategy with the settings of a preset, and the name of the preset that was chosen if it is `auto`.

    Raises:
        R2T2Error: there is no such strategy or preset.
    """
    if isinstance(strategy, Strategy):
        return strategy, ""
    if preset != AUTO:
        return named_strategy(strategy, find_preset(preset)), ""
    choice = choose_preset(strategy, samples)
    return named_strategy(strategy, choice.preset), choice.name


def choose_preset(strategy: str, samples: ArraySamples) -> PresetChoice:
    """The best of three presets for a strategy, and a line about it on standard error.

    Some references are left out of the bank, and re-routed with the others as references. Each starts twice: from its
    own router weights, with which it is answered correctly if the bank has correct answers only, and from those of a
    test sample, which may be wrong for it. The preset with the lowest mean loss is chosen, the first of equal ones.

    The choice is made once for a bank, model and strategy.

    Raises:
        R2T2Error: there is no such strategy, the loss does not depend on the routing weights, or as
            `ArraySamples.reroute`.
    """
    named_strategy(strategy)  # raises if there is none
    choices = samples.bank.__dict__.setdefault("_preset_choices", {})  # as a cached property, of this bank only
    key = (samples.model, id(samples.params), strategy, samples.seed)
    if key not in choices:
        choice = _choose(strategy, samples)
        choices[key] = samples.params, choice  # the parameters stay alive as long as their id is a key
        if choice.differ:
            print(f"r2t2: {choice}", file=sys.stderr)
    return choices[key][1]


def _choose(strategy: str, samples: ArraySamples) -> PresetChoice:
    presets = {name: find_preset(name) for name in CANDIDATES}
    first = CANDIDATES[0]
    if len({named_strategy(strategy, preset) for preset in presets.values()}) == 1:
        return PresetChoice(strategy, first, presets[first], {}, 0, differ=False)
    left_out, rest = _split(samples)
    if len(left_out) == 0:
        return PresetChoice(strategy, first, _with_fewer_neighbors(presets[first], len(samples.bank)), {}, 0)
    presets = {name: _with_fewer_neighbors(preset, rest.sum()) for name, preset in presets.items()}
    validation = _validation(samples, left_out, rest)
    check_dependence(samples.model, samples.params, validation.queries)
    losses = {}
    for name, preset in presets.items():
        weights = validation.reroute(named_strategy(strategy, preset)).weights
        losses[name] = float(np.nan_to_num(validation.losses(weights), nan=np.inf).mean())
    best = min(losses, key=lambda name: losses[name])
    losses[ROUTER] = float(validation.losses(validation.queries.routing).mean())
    return PresetChoice(strategy, best, presets[best], losses, len(left_out))


def _split(samples: ArraySamples) -> tuple[np.ndarray, Bool[np.ndarray, "N"]]:
    """Rows of left-out references, evenly spaced, and the mask of the others that do not repeat one of them."""
    bank = samples.bank
    count = min(LEFT_OUT, len(bank) // 4)
    left_out = np.unique(np.linspace(0, len(bank) - 1, count).astype(int)) if count else np.zeros(0, int)
    digests = row_digests((bank.features, bank.embeddings), len(bank))
    repeated = {digests[row] for row in left_out}
    rest = np.array([digest not in repeated for digest in digests])
    return (left_out, rest) if (rest & bank.right).any() else (left_out[:0], rest)


def _with_fewer_neighbors(preset: Preset, references: int) -> Preset:
    """The preset with at most as many neighbors as there are references."""
    paths = ("neighborhood.k", "atlas.k")
    return preset.with_settings({path: min(preset.get(path), max(int(references), 1)) for path in paths})


def _validation(samples: ArraySamples, rows: np.ndarray, rest: Bool[np.ndarray, "N"]) -> ArraySamples:
    """Left-out references as test samples, from their own router weights and from those of test samples."""
    bank, count = samples.bank, len(rows)
    features, answers = bank.samples(np.concatenate([rows, rows]))
    others = np.arange(count) % len(samples)
    own = np.asarray(bank.routing)[rows]
    start = np.concatenate([own, np.asarray(samples.queries.routing)[others]])
    support = np.asarray(samples.queries.support)
    mask = np.concatenate([_own_support(own, support), support[others]])
    queries = Query(*jax.tree.map(jnp.asarray, (features, start.astype(own.dtype), mask, answers)))
    embeddings = np.asarray(bank.embeddings)[np.concatenate([rows, rows])]
    return dataclasses.replace(samples, bank=bank.take(rest), queries=queries, embeddings=embeddings)


def _own_support(routing: Float[np.ndarray, "n L E"], support: Bool[np.ndarray, "B L E"]) -> Bool[np.ndarray, "n L E"]:
    """The support of references: that of the test samples if they share one, else where the router gives weight."""
    if (support == support[:1]).all():
        return np.broadcast_to(support[0], routing.shape) | (routing != 0)
    return routing != 0
