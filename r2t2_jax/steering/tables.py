"""Steering bound to a model: the rules of a file as arrays over layers, classes of tokens and experts.

Axis letters: B samples, L layers, S classes of tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.contract import Port, SteerableModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import TOKEN_CLASSES, TokenSteering
from r2t2_jax.steering.files import LARGEST, TOKENS, Rule, Steering, layer_positions, position

MASKED = -1e9  # shift of the logits of an expert that must not be chosen


@dataclass(frozen=True)
class SteeringTables:
    """The rules of a steering file for each layer of a model and each class of tokens.

    Args:
        shift: lambda times the score of boosts in logits.
        scaled: the same of boosts in standard deviations of a token's logits.
        masked: experts that must not be chosen.
        selected: experts that must be chosen.
        weights: combine weights; NaN in rows without.
        steered: layers that a rule names.
    """

    shift: Float[np.ndarray, "L S E"]
    scaled: Float[np.ndarray, "L S E"]
    masked: Bool[np.ndarray, "L S E"]
    selected: Bool[np.ndarray, "L S E"]
    weights: Float[np.ndarray, "L S E"]
    steered: tuple[int, ...]

    def of_layers(self, layers: Sequence[int]) -> TokenSteering:
        """What is imposed on the gates of these layers."""
        rows = list(layers)
        shift = np.where(self.masked, MASKED, self.shift)
        leaves = (shift, self.scaled, self.selected, self.weights)
        return TokenSteering(*(jnp.asarray(leaf[rows]) for leaf in leaves))


def bind(steering: Steering, port: Port) -> SteeringTables:
    """The tables of a steering for a model.

    Raises:
        R2T2Error: a layer or an expert does not exist, two rules contradict each other, or the model cannot follow a
            rule; the message names file, rule and field.
    """
    model = port.model
    by_token = isinstance(model, SteerableModel)
    layers = model.gated_layers if isinstance(model, SteerableModel) else model.spec.layer_names
    tables = _Builder(steering, layers, model.spec.experts)
    for number, rule in enumerate(steering.rules):
        if by_token:
            _check_classes(steering, number, rule, port)
        else:
            _check_whole(steering, number, rule, port)
        tables.add(number, rule)
    result = tables.finish()
    if isinstance(model, SteerableModel):
        tables.check_choice(result, model.top_k)
    else:
        _check_groups(steering, tables, result, port)
    return result


class _Builder:
    """Collects the rules; `owners` remembers which rule set each quantity of an entry."""

    def __init__(self, steering: Steering, layers: Sequence[str], experts: Sequence[str]):
        self.steering, self.layers, self.experts = steering, layers, experts
        shape = len(layers), len(TOKEN_CLASSES), len(experts)
        self.shift, self.scaled = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.masked, self.selected = np.zeros(shape, bool), np.zeros(shape, bool)
        self.weights = np.full(shape, np.nan, np.float32)
        self.rules: dict[tuple[int, int], list[int]] = {}  # numbers of the rules of each layer and class
        self.steered: set[int] = set()

    def add(self, number: int, rule: Rule) -> None:
        """Add a rule.

        Raises:
            R2T2Error: it names what the model does not have, or contradicts an earlier rule.
        """
        layers = self._resolved(number, "layers", lambda: layer_positions(rule.layers, self.layers))
        experts = self._resolved(
            number, rule.action, lambda: [position(name, self.experts, "expert") for name, _ in rule.experts]
        )
        if len(set(experts)) < len(experts):
            twice = next(self.experts[e] for e in experts if experts.count(e) > 1)
            raise self.steering.error(number, rule.action, f"{twice} is named twice")
        values = np.asarray([value for _, value in rule.experts], np.float32)
        for layer in layers:
            self.steered.add(layer)
            for name in TOKENS[rule.tokens]:
                place = layer, TOKEN_CLASSES.index(name)
                self._check_earlier(number, rule, place, experts)
                self.rules.setdefault(place, []).append(number)
                if rule.action == "boost":
                    table = self.shift if rule.unit == "logit" else self.scaled
                    table[*place, experts] += rule.strength * values
                    if np.abs(table[place]).max() > LARGEST:
                        raise self.steering.error(number, "boost", f"it adds more than {LARGEST:g} to a logit")
                elif rule.action == "weigh":
                    self.weights[place] = 0.0
                    self.weights[*place, experts] = values
                else:
                    (self.masked if rule.action == "mask" else self.selected)[*place, experts] = True

    def _resolved(self, number: int, field: str, function: Callable[[], Sequence[int]]) -> list[int]:
        """The positions that `function` gives; its error names the rule and the field."""
        try:
            return list(function())
        except R2T2Error as error:
            raise self.steering.error(number, field, str(error)) from error

    def _check_earlier(self, number: int, rule: Rule, place: tuple[int, int], experts: Sequence[int]) -> None:
        for earlier in self.rules.get(place, ()):
            other = self.steering.rules[earlier].action
            where = f"{self.layers[place[0]]}, {TOKEN_CLASSES[place[1]]} tokens"
            if "weigh" in (rule.action, other):
                raise self.steering.error(
                    number,
                    rule.action,
                    f"rules[{earlier}] has {other} for {where}; weigh goes with no other rule there",
                )
        opposite = {"mask": self.selected, "select": self.masked}.get(rule.action)
        if opposite is not None and opposite[*place, experts].any():
            expert = next(self.experts[e] for e in experts if opposite[*place, e])
            other = "selects" if rule.action == "mask" else "masks"
            where = f"{self.layers[place[0]]}, {TOKEN_CLASSES[place[1]]} tokens"
            raise self.steering.error(number, rule.action, f"an earlier rule {other} {expert} for {where}")

    def finish(self) -> SteeringTables:
        """The tables."""
        return SteeringTables(
            self.shift, self.scaled, self.masked, self.selected, self.weights, tuple(sorted(self.steered))
        )

    def last_rule(self, layer: int, token_class: int, action: str) -> int:
        """The number of the last rule of an action at a place."""
        numbers = [n for n in self.rules[layer, token_class] if self.steering.rules[n].action == action]
        return numbers[-1]

    def check_choice(self, tables: SteeringTables, top_k: int) -> None:
        """Check that a gate that chooses `top_k` experts can follow the tables.

        Raises:
            R2T2Error: too few experts are left, or too many are selected or weighed.
        """
        for action, counts, problem in (
            ("mask", (~tables.masked).sum(axis=-1), "leaves {count} experts, and a gate chooses {k}"),
            ("select", tables.selected.sum(axis=-1), "selects {count} experts, and a gate chooses {k}"),
            ("weigh", (tables.weights > 0).sum(axis=-1), "weighs {count} experts, and a gate chooses {k}"),
        ):
            wrong = np.argwhere(counts < top_k if action == "mask" else counts > top_k)
            if len(wrong):
                layer, token_class = wrong[0].tolist()
                number = self.last_rule(layer, token_class, action)
                text = problem.format(count=counts[layer, token_class], k=top_k)
                raise self.steering.error(number, action, f"{self.layers[layer]}: {text}")


def _check_classes(steering: Steering, number: int, rule: Rule, port: Port) -> None:
    """Refuse a rule for tokens that the model's sequences do not have."""
    assert isinstance(port.model, SteerableModel)
    if not set(TOKENS[rule.tokens]) & set(port.model.token_classes):
        raise steering.error(number, "tokens", f"{port.name} has no {rule.tokens} tokens")


def _check_whole(steering: Steering, number: int, rule: Rule, port: Port) -> None:
    """Refuse a rule that a model that mixes all experts of a whole sample cannot follow."""
    if rule.tokens != "all":
        raise steering.error(
            number, "tokens", f"{port.name} routes whole samples, so tokens must be all, not {rule.tokens}"
        )
    if rule.action == "select":
        raise steering.error(number, "select", f"{port.name} mixes all experts; mask the others, or weigh these")


def _check_groups(steering: Steering, builder: _Builder, tables: SteeringTables, port: Port) -> None:
    """Refuse rules that leave a group of competing experts without one, or without a weight."""
    spec, support = port.model.spec, np.asarray(port.model.spec.support_mask())
    for layer in tables.steered:
        for group in map(list, spec.groups):
            weights, own = tables.weights[layer, 0, group], support[layer, group]
            names, where = ", ".join(spec.experts[e] for e in group), spec.layer_names[layer]
            if not (own & ~tables.masked[layer, 0, group]).any():
                number = builder.last_rule(layer, 0, "mask")
                raise steering.error(number, "mask", f"{where}: leaves none of {names}")
            if not np.isnan(weights).any() and not (own & (weights > 0)).any():
                number = builder.last_rule(layer, 0, "weigh")
                raise steering.error(number, "weigh", f"{where}: gives none of {names} a weight; one of them needs one")
