"""Needs of a strategy: what it reads of the model, the queries, and the references, and the check of them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass

from r2t2_jax.contract import Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error


class Need(enum.Enum):
    """One thing that an objective or a search reads besides the loss of a model."""

    GATE = "gate"
    TOKEN_LOGPROBS = "token_logprobs"
    GENERATE = "generate"
    VIEWS = "views"
    SHUFFLED = "shuffled"
    ANSWERS = "answers"
    PERMUTED_ANSWERS = "permuted_answers"
    TASK_ROUTING = "task_routing"
    FINETUNED_ROUTING = "finetuned_routing"
    ATLAS = "atlas"
    NEIGHBORS = "neighbors"
    NEIGHBOR_FEATURES = "neighbor_features"
    BANK_ROUTING = "bank_routing"


NOTHING: frozenset[Need] = frozenset()
MODEL_NEEDS = frozenset({Need.GATE, Need.TOKEN_LOGPROBS, Need.GENERATE})  # methods of the model
REFERENCE_NEEDS = frozenset(  # a bank's
    {Need.NEIGHBORS, Need.ATLAS, Need.BANK_ROUTING, Need.FINETUNED_ROUTING, Need.PERMUTED_ANSWERS}
)


@dataclass(frozen=True)
class Requirement:
    """The check of a need, and the end of the error message where it is not met."""

    is_met: Callable[..., bool]  # of model, queries and references
    message: str


def _has_methods(*names: str) -> Callable[..., bool]:
    return lambda model, *data: all(hasattr(model, name) for name in names)


# In the order in which they are checked.
REQUIREMENTS: dict[Need, Requirement] = {
    Need.GATE: Requirement(
        _has_methods("route"),
        "in the shift space needs a model with a gate (`route`); choose free, simplex or logit",
    ),
    Need.TOKEN_LOGPROBS: Requirement(
        _has_methods("generate", "as_answer", "token_logprobs"),
        "needs a model with `generate`, `as_answer` and `token_logprobs`",
    ),
    Need.GENERATE: Requirement(
        _has_methods("generate", "as_answer"),
        "needs a model that generates (`generate`, `as_answer`), not only an answer loss",
    ),
    Need.VIEWS: Requirement(
        lambda model, queries, references: queries.views is not None,
        "needs augmented images; set `Query.views` (rivals.augmentations.encode_augmentations)",
    ),
    Need.SHUFFLED: Requirement(
        lambda model, queries, references: queries.shuffled is not None,
        "needs augmented images; set `Query.shuffled` (rivals.augmentations.encode_augmentations)",
    ),
    Need.ANSWERS: Requirement(
        lambda model, queries, references: queries.answer is not None,
        "reads the test samples' answers and the queries have none; give answers, or leave it out",
    ),
    Need.PERMUTED_ANSWERS: Requirement(
        lambda model, queries, references: queries.permuted_answer is not None,
        "reads labels of other questions, which an evaluation draws from the references of the question's family; "
        "evaluate it with a bank",
    ),
    Need.TASK_ROUTING: Requirement(
        lambda model, queries, references: queries.task_routing is not None,
        "needs the task routing of every query; set `Query.task_routing`, or name the experts of every sample",
    ),
    Need.FINETUNED_ROUTING: Requirement(
        lambda model, queries, references: queries.finetuned_routing is not None,
        "needs the weights of a fine-tuned gate; set `Query.finetuned_routing` (rivals.trained.train_gate)",
    ),
    Need.ATLAS: Requirement(
        lambda model, queries, references: references.points is not None,
        "reads the bank's loss atlas and it has none; build one with `r2t2 bank atlas`",
    ),
    Need.NEIGHBORS: Requirement(
        lambda model, queries, references: references.weights is not None,
        "needs the neighbors of each query: ReferenceBank.references(neighbors, kernel)",
    ),
    Need.NEIGHBOR_FEATURES: Requirement(
        lambda model, queries, references: references.features is not None,
        "reads the features of each neighbor: ReferenceBank.references(neighbors, kernel)",
    ),
    Need.BANK_ROUTING: Requirement(
        lambda model, queries, references: references.bank_routing is not None,
        "needs the bank's routing: ReferenceBank.references()",
    ),
}


def check_needs(
    name: str, needs: Collection[Need], model: RoutedLoss, queries: Query, references: References | None
) -> None:
    """Compare the needs of a strategy with what the model, the queries, and the references offer.

    Raises:
        R2T2Error: a need is not met; the message names the strategy, the need, and the remedy.
    """
    references = References(None) if references is None else references
    for need, requirement in REQUIREMENTS.items():
        if need in needs and not requirement.is_met(model, queries, references):
            raise R2T2Error(f"{name} {requirement.message}")


def check_model(name: str, needs: Collection[Need], model: RoutedLoss) -> None:
    """Compare the needs of a strategy with the methods of a model, before there are queries.

    Raises:
        R2T2Error: as `check_needs`.
    """
    for need, requirement in REQUIREMENTS.items():
        if need in MODEL_NEEDS and need in needs and not requirement.is_met(model):
            raise R2T2Error(f"{name} {requirement.message}")
