"""Multiple choice without generation: the option whose answer the model finds most probable.

Beside generated answers, which may name no option at all, this always chooses one. The choice goes to the same metrics
as a generated text would.

Axis letters: B samples, C candidates, L routed layers, E experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from string import ascii_uppercase

import jax
import numpy as np
from jaxtyping import Array, Float

from r2t2_jax.contract import Answer, Features, Params, Port, RoutedModel, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.batching import take


def candidates_of(sample: Sample) -> tuple[str, ...]:
    """What a sample's options are answered with: their texts where a word is asked for, else their letters.

    Raises:
        R2T2Error: it has no options, or too many for letters.
    """
    if not sample.options or len(sample.options) > len(ascii_uppercase):
        raise R2T2Error(f"sample {sample.id!r} has {len(sample.options)} options: its answers cannot be compared")
    return sample.options if sample.style == "word" else tuple(ascii_uppercase[: len(sample.options)])


def option_logprobs(
    port: Port, features: Features, routing: Routing | None, samples: Sequence[Sample]
) -> list[Float[np.ndarray, "C"]]:
    """Total log-probability of each option of each sample, end of turn included.

    Args:
        port: the model.
        features: of the samples, every leaf with a leading axis B.
        routing: weights with a leading axis B; `None` for the untouched model.
        samples: they may differ in how many options they have; each number compiles once.

    Raises:
        R2T2Error: a sample has no options.
    """
    candidates = [candidates_of(sample) for sample in samples]
    rows_by_count = defaultdict(list)
    for row, options in enumerate(candidates):
        rows_by_count[len(options)].append(row)
    found: dict[int, Float[np.ndarray, "C"]] = {}
    for count, rows in rows_by_count.items():
        flat = port.processor.answer_ids([text for row in rows for text in candidates[row]])  # B * C answers
        answers = jax.tree.map(lambda leaf, c=count: np.asarray(leaf).reshape(-1, c, *leaf.shape[1:]), flat)
        chosen = np.array(rows)
        weights = None if routing is None else take(routing, chosen)
        logprobs = _logprobs(port.params, take(features, chosen), weights, answers, model=port.model)  # [B C]
        found |= dict(zip(rows, np.asarray(logprobs), strict=True))
    return [found[row] for row in range(len(samples))]


def choose_options(port: Port, features: Features, routing: Routing | None, samples: Sequence[Sample]) -> list[str]:
    """The most probable option's answer for each sample, the first of equals; arguments as `option_logprobs`."""
    logprobs = option_logprobs(port, features, routing, samples)
    return [candidates_of(sample)[int(values.argmax())] for sample, values in zip(samples, logprobs, strict=True)]


@partial(jax.jit, static_argnames="model")
def _logprobs(
    params: Params, features: Features, routing: Routing | None, answers: Answer, *, model: RoutedModel
) -> Float[Array, "B C"]:
    def sample(one: tuple[Features, Routing | None, Answer]) -> Float[Array, "C"]:
        features, routing, candidates = one
        return model.answer_logprobs(params, features, routing, candidates)

    return jax.lax.map(sample, (features, routing, answers))
