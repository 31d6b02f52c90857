"""Accuracy of the trained model under given routings, and accuracy without the image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from ports.pocket.modeling import PocketFeatures, PocketNet
from ports.pocket.questions import FAMILIES, Question
from ports.pocket.tokenizer import BEGIN
from ports.pocket.training.data import Examples

Router = Callable[[PocketNet, PocketFeatures, Examples], Float[Array, "L E"]]


def gate_routing(net: PocketNet, features: PocketFeatures, example: Examples) -> Float[Array, "L E"]:
    """The routing weights of the gate."""
    return jax.nn.softmax(net.gate_logits(features))


def task_routing(net: PocketNet, features: PocketFeatures, example: Examples) -> Float[Array, "L E"]:
    """Equal weight on the experts the question needs."""
    return jnp.broadcast_to(example.needs, net.config.spec.shape)


def uniform_routing(net: PocketNet, features: PocketFeatures, example: Examples) -> Float[Array, "L E"]:
    """Equal weight on all experts."""
    return jnp.full(net.config.spec.shape, 1.0 / net.config.spec.num_experts)


def correct_answers(
    net: PocketNet, vision: Float[Array, "n E+1 I F"], examples: Examples, router: Router
) -> Bool[np.ndarray, "n"]:
    """Whether the greedy answer to each question equals the expected answer."""
    graph, params = nnx.split(net)

    def is_correct(net: PocketNet, vision: Array, example: Examples) -> Array:
        features = net.encode(vision, example.tokens, example.mask)
        keys, values, _ = net.prefill_image(
            features, net.project(net.combine_experts(features, router(net, features, example)))
        )
        tokens = jnp.full(example.answer.tokens.shape[0] + 1, BEGIN)
        for position in range(example.answer.tokens.shape[0]):
            logits = net.answer_logits(keys, values, example.mask, tokens[:-1])
            tokens = tokens.at[position + 1].set(logits[position].argmax())
        return jnp.all((tokens[1:] == example.answer.tokens) | ~example.answer.mask)

    @jax.jit
    def batch(params: Any, vision: Array, examples: Examples) -> Array:
        return jax.vmap(is_correct, in_axes=(None, 0, 0))(nnx.merge(graph, params), vision, examples)

    def part(start: int) -> np.ndarray:
        rows = jax.tree.map(lambda leaf: leaf[start : start + 500], examples)
        return np.asarray(batch(params, vision[rows.scene], rows))

    return np.concatenate([part(start) for start in range(0, examples.scene.shape[0], 500)])


def accuracy_by_family(correct: Bool[np.ndarray, "n"], examples: Examples) -> dict[str, float]:
    """Accuracy on each family and on all questions."""
    family = np.asarray(examples.family)
    scores = {name: correct[family == i] for i, name in enumerate(FAMILIES)}
    return {name: round(float(hits.mean()), 4) for name, hits in {"all": correct, **scores}.items() if len(hits)}


def blind_scores(train: Sequence[Question], test: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Accuracy without the image on `test`, for two predictors fitted on `train`.

    `majority` predicts the most frequent answer of the family; `question_only` predicts the most frequent answer to
    questions with the same key, the best possible prediction on average from the question without the image.
    """
    families: dict[str, Counter[str]] = defaultdict(Counter)
    keys: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        families[question.family][question.answer] += 1
        keys[question.key][question.answer] += 1
    hits: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for question in test:
        majority = families[question.family].most_common(1)[0][0]
        counted = keys.get(question.key)
        informed = counted.most_common(1)[0][0] if counted else majority
        hits[question.family].append((question.answer == majority, question.answer == informed))
    return {
        family: dict(zip(("majority", "question_only"), np.mean(rows, axis=0).round(4).tolist(), strict=True))
        for family, rows in sorted(hits.items())
    }
