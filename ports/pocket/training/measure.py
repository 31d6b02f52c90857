"""What the trained model can do apart from any strategy, and what can be known without the image."""

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
from ports.pocket.training.data import Lessons

Router = Callable[[PocketNet, PocketFeatures, Lessons], Float[Array, "L E"]]


def own_routing(net: PocketNet, features: PocketFeatures, lesson: Lessons) -> Float[Array, "L E"]:
    """The gate's."""
    return jax.nn.softmax(net.gate_logits(features))


def task_routing(net: PocketNet, features: PocketFeatures, lesson: Lessons) -> Float[Array, "L E"]:
    """Equal weight on the experts the question needs."""
    return jnp.broadcast_to(lesson.needs, net.config.spec.shape)


def uniform_routing(net: PocketNet, features: PocketFeatures, lesson: Lessons) -> Float[Array, "L E"]:
    """Equal weight on all."""
    return jnp.full(net.config.spec.shape, 1.0 / net.config.spec.num_experts)


def answered(
    net: PocketNet, vision: Float[Array, "n E+1 I F"], lessons: Lessons, router: Router
) -> Bool[np.ndarray, "n"]:
    """Which questions the model answers word for word, decoding greedily."""
    graph, params = nnx.split(net)

    def one(net: PocketNet, vision: Array, lesson: Lessons) -> Array:
        features = net.encode(vision, lesson.tokens, lesson.mask)
        keys, values, _ = net.prefill_image(
            features, net.project(net.combine_experts(features, router(net, features, lesson)))
        )
        tokens = jnp.full(lesson.answer.tokens.shape[0] + 1, BEGIN)
        for position in range(lesson.answer.tokens.shape[0]):
            logits = net.answer_logits(keys, values, lesson.mask, tokens[:-1])
            tokens = tokens.at[position + 1].set(logits[position].argmax())
        return jnp.all((tokens[1:] == lesson.answer.tokens) | ~lesson.answer.mask)

    @jax.jit
    def batch(params: Any, vision: Array, lessons: Lessons) -> Array:
        return jax.vmap(one, in_axes=(None, 0, 0))(nnx.merge(graph, params), vision, lessons)

    def part(start: int) -> np.ndarray:
        rows = jax.tree.map(lambda leaf: leaf[start : start + 500], lessons)
        return np.asarray(batch(params, vision[rows.scene], rows))

    return np.concatenate([part(start) for start in range(0, lessons.scene.shape[0], 500)])


def by_family(right: Bool[np.ndarray, "n"], lessons: Lessons) -> dict[str, float]:
    """Accuracy of each family and of all."""
    family = np.asarray(lessons.family)
    scores = {name: right[family == i] for i, name in enumerate(FAMILIES)}
    return {name: round(float(hits.mean()), 4) for name, hits in {"all": right, **scores}.items() if len(hits)}


def blind_scores(seen: Sequence[Question], asked: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Accuracy without the image: the family's commonest answer, and the commonest answer to the very same question.

    The second knows how answers are distributed given everything the question says, phrasing apart: no reader of the
    question alone does better on average.
    """
    families: dict[str, Counter[str]] = defaultdict(Counter)
    keys: dict[str, Counter[str]] = defaultdict(Counter)
    for question in seen:
        families[question.family][question.answer] += 1
        keys[question.key][question.answer] += 1
    right: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for question in asked:
        majority = families[question.family].most_common(1)[0][0]
        counted = keys.get(question.key)
        informed = counted.most_common(1)[0][0] if counted else majority
        right[question.family].append((question.answer == majority, question.answer == informed))
    return {
        family: dict(zip(("majority", "question_only"), np.mean(hits, axis=0).round(4).tolist(), strict=True))
        for family, hits in sorted(right.items())
    }
