"""The data passed between a model and the method: test samples, their references, and what a strategy returns.

Axis letters: B test samples, K neighbors, L routed layers, E experts, N bank size, G atlas points, V augmented images,
P points of a path, Q losses of a path.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract.model import Answer, Features
from r2t2_jax.routing import Routing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Query:
    """One test sample. Only the oracle reads `answer`, the label, and only `task_routing` reads `task_routing`.

    `permuted_answer` is the label of another question, which only `oracle_permuted` reads.
    `finetuned_routing` are the weights of a gate fine-tuned on the references, which only `gate_finetuned` reads.
    `views` are features of the same question on augmented images [V ...], `shuffled` those on an image with shuffled
    patches; `Strategy.augmentations` names those that a strategy reads.
    """

    features: Features
    routing: Float[Array, "L E"]
    support: Bool[Array, "L E"]
    answer: Answer | None = None
    task_routing: Float[Array, "L E"] | None = None
    finetuned_routing: Float[Array, "L E"] | None = None
    views: Features | None = None
    shuffled: Features | None = None
    permuted_answer: Answer | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class References:
    """The neighborhood of one test sample, padded to K, and the routing vectors of the whole bank.

    `weights` are the kernel's values, clipped at zero and zero where padded; they need not sum to one. Over a batch
    every leaf has a leading axis B, except `bank_routing` and `points`, which all samples share. Fields that a strategy
    does not read are `None`.

    `points` are the atlas's routing points, `point_losses` the references' losses there, bounded or cross-entropies,
    `slopes` the gradients of their bounded losses at their own routing (`method/search/atlas_points.py`).
    """

    bank_routing: Float[Array, "N L E"] | None
    features: Features | None = None
    answers: Answer | None = None
    routing: Float[Array, "K L E"] | None = None
    weights: Float[Array, "K"] | None = None
    points: Float[Array, "G L E"] | None = None
    point_losses: Float[Array, "K G"] | None = None
    slopes: Float[Array, "K L E"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rerouted:
    """The result of a strategy. `routing=None` is the untouched model.

    `path[s]` are the weights in effect after s steps, `losses[s]` the objective there. After descent `losses` is one
    shorter than `path`, since the last loss is not computed. `used_fallback` is true if no neighbor had any kernel
    weight, and the router's own weights were kept. `preset` is the name of the preset that `r2t2_jax.reroute` chose;
    empty if it did not choose one.
    """

    routing: Routing | None
    weights: Float[Array, "L E"]
    path: Float[Array, "P L E"]
    losses: Float[Array, "Q"]
    used_fallback: Bool[Array, ""]
    info: dict[str, Array]
    evaluations: int = field(metadata={"static": True})
    preset: str = field(default="", metadata={"static": True})
