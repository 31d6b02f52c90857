"""A model without weights, as shapes, and the functions whose cost is counted on them.

Axis letters: L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Array, Float

from r2t2_jax.contract.model import Answer, Features, Inputs, Params, RoutedModel


@dataclass(frozen=True)
class ModelShapes:
    """A model without weights, as shapes: what `r2t2 fit` and `r2t2 cost` read.

    A port registers a function `shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) ->
    ModelShapes` in the entry-point group `r2t2.shapes`. Token counts of `None` stand for the model's usual ones; the
    function raises `R2T2Error` for counts it cannot have. Every leaf is a `jax.ShapeDtypeStruct`.

    Args:
        name: of the model.
        model: static, without arrays.
        params: in the dtypes they have while re-routing, since their bytes are counted.
        features: of one sample, for instance `jax.eval_shape(model.encode, params, inputs)`.
        answer: of one sample.
        costs: the functions that `r2t2 cost` counts; optional.
        shardings: the sharding of every parameter over a mesh with the axis `model`, for `r2t2 fit --mesh`; optional.
    """

    name: str
    model: RoutedModel
    params: Params
    features: Features
    answer: Answer
    costs: Costs | None = None
    shardings: Callable[[Params, Any], Any] | None = None


# `jax.named_scope` of matrix products that are written as sums of outer products, whose FLOPs are counted as such.
OUTER_PRODUCTS = "outer_products"
FIRST_PASS = "first_pass"  # `jax.named_scope` of what `Costs.prepare` does for test samples and not for references


@dataclass(frozen=True)
class Costs:
    """The functions whose FLOPs and memory `r2t2 cost` counts on their traced programs. Optional for a port.

    Args:
        raw: shapes of one sample before `prepare`.
        prepare: raw sample to the inputs of `encode`, for a port whose processor runs parts of the model; `None` if raw
            samples are those inputs. A pass that only test samples need, such as one that chooses experts, is traced
            under `jax.named_scope(FIRST_PASS)`.
        variants: ways to compute a neighbor's loss and gradient, from the literal one, whose loss is the naive
            forward pass, to the cheapest, which the port uses.
    """

    raw: Any
    prepare: Callable[[Params, Any], Inputs] | None
    variants: tuple[CostVariant, ...]


@dataclass(frozen=True)
class CostVariant:
    """One way to compute a neighbor's loss and its gradient with respect to r. All variants give the same numbers.

    Args:
        name: what this variant saves over the one before it, in a few words.
        about: the same in a sentence.
        params: shapes of the parameters that `once` and `loss` take.
        once: raw sample to what is computed once and used in every step.
        loss: the loss at r [L, E]: `loss(r, params, kept, answer)` with `kept` from `once`.
        every_gradient: also compute the gradient with respect to every parameter, as training does.
        stored: `once` runs when the bank is built, not for every test sample.
    """

    name: str
    about: str
    params: Params
    once: Callable[[Params, Any], Any]
    loss: Callable[[Float[Array, "L E"], Params, Any, Answer], Float[Array, ""]]
    every_gradient: bool = False
    stored: bool = False

    def for_all(self) -> CostVariant:
        """The next variant: all test samples share what is computed once."""
        about = "features are computed when the bank is built and shared by all test samples"
        return replace(self, name="encode for all", about=about, stored=True)
