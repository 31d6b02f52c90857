"""Test-Time Warmup: the model learns from its own captions of the image before it answers a question about it.

Axis letters: B test samples, P prompts, C candidate captions, A caption tokens, V vocabulary, b pairs of a batch,
L routed layers, E experts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from r2t2_jax.contract import Answer, Features, Inputs, LogprobModel, Params, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.rivals.base import Asked, reply
from r2t2_jax.runtime.pytrees import Join, partition, register_pytree_dataclass, select_params

GRAY = 127  # of 255: the image that shows nothing
DECAY = 0.01  # of AdamW, as PyTorch has it


@register_pytree_dataclass
@dataclass(frozen=True)
class Warmup:
    """Adapt connector and language model to one image, answer, and forget.

    Test-Time Warmup (2025, arXiv 2509.10641; code: nrajanee/test-time-warmup-mllms): ten prompts about the image, ten
    captions drawn for each at temperature 0.75, of which the one that fits the image best is kept; then AdamW at 1e-6
    on these pairs, in batches of five, two epochs. Every image starts from the same parameters, which are never written
    to.
    Departures: the source's judge of the fit is an image-text model, of which none is at hand; here a caption's fit is
    how much likelier the image makes it than a gray one does, log p(y|x) - log p(y|gray), by the model itself. Where a
    port's `captioning` says so, prompts are questions and captions are short answers. The source's order of the pairs
    is not known; here each epoch has its own.
    """

    learning_rate: float = 1e-6
    temperature: float = 0.75
    name: str = field(default="warmup", metadata={"static": True})
    candidates: int = field(default=10, metadata={"static": True})
    batch: int = field(default=5, metadata={"static": True})
    epochs: int = field(default=2, metadata={"static": True})

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, int | float) and self.learning_rate < 0:
            raise R2T2Error(f"learning rate {self.learning_rate} of the warm-up must not be negative")

    @property
    def selector(self) -> None:
        return None

    @property
    def kernel(self) -> None:
        return None

    @property
    def atlas(self) -> None:
        return None

    def evaluations(self, prompts: int, tokens: int) -> int:
        """Passes a case: to draw captions token by token, to judge them twice, to learn, and to answer."""
        return prompts * self.candidates * (tokens + 2) + 2 * self.epochs * prompts + 1

    def answer(self, asked: Asked) -> dict[str, Any]:
        """As `Baseline.answer`."""
        port, told = asked.port, asked.port.captioning
        if told is None or not isinstance(port.model, LogprobModel):
            raise R2T2Error(f"{port.name} does not say what to ask of any image and what to adapt (Port.captioning)")
        if len(told.prompts) % self.batch:
            raise R2T2Error(f"{port.name} has {len(told.prompts)} prompts; they must fill batches of {self.batch}")
        adapted = select_params(port.params, told.adapted)
        if not any(adapted):
            raise R2T2Error(f"{port.name} has no parameters below {', '.join(told.adapted)}: nothing can be adapted")

        prepare = partial(port.processor.prepare, port.params)
        gray = dataclasses.replace(asked.samples[0], image=np.full_like(asked.samples[0].image, GRAY))
        prompted = [
            dataclasses.replace(one, question=prompt) for one in (*asked.samples, gray) for prompt in told.prompts
        ]
        prompts = jax.tree.map(
            lambda leaf: jnp.asarray(leaf).reshape(-1, len(told.prompts), *leaf.shape[1:]), prepare(prompted)
        )  # [B + 1, P, ...]
        tokens, weights = _answer(
            self,
            port.params,
            (prepare(asked.samples), jax.tree.map(lambda leaf: leaf[:-1], prompts), asked.keys),
            jax.tree.map(lambda leaf: leaf[-1], prompts),
            model=port.model,
            adapted=adapted,
            max_new_tokens=port.max_new_tokens,
        )
        return reply(asked, self.evaluations(len(told.prompts), port.max_new_tokens), weights, tokens)


@partial(jax.jit, static_argnames=("model", "adapted", "max_new_tokens"))
def _answer(
    warmup: Warmup,
    params: Params,
    samples: tuple[Inputs, Inputs, Key[Array, "B"]],
    gray: Inputs,
    *,
    model: LogprobModel,
    adapted: tuple[bool, ...],
    max_new_tokens: int,
) -> tuple[Int[Array, "B A"], Float[Array, "B L E"]]:
    start, join = partition(params, adapted)
    blank = jax.lax.map(partial(model.encode, params), gray)  # [P, ...]

    def sample(one: tuple[Inputs, Inputs, Key[Array, ""]]) -> tuple[Int[Array, "A"], Float[Array, "L E"]]:
        inputs, prompts, key = one
        drawing, ordering = jax.random.split(key)
        seen = jax.lax.map(partial(model.encode, params), prompts)  # [P, ...]

        def caption(prompt: tuple[Features, Features, Key[Array, ""]]) -> Answer:
            features, nothing, key = prompt
            keys = jax.random.split(key, warmup.candidates)
            draw = partial(draw_caption, model, params, features, warmup.temperature, max_new_tokens)
            return best_fit(model, params, features, nothing, jax.vmap(draw)(keys))

        count = jax.tree.leaves(prompts)[0].shape[0]
        captions = jax.lax.map(caption, (seen, blank, jax.random.split(drawing, count)))  # [P, ...]
        learned = join(learn(warmup, model, start, join, prompts, captions, ordering))
        features = model.encode(learned, inputs)
        return model.generate(learned, features, None, max_new_tokens), model.route(learned, features)

    return jax.lax.map(sample, samples)


def draw_caption(
    model: LogprobModel,
    params: Params,
    features: Features,
    temperature: float | Array,
    length: int,
    key: Key[Array, ""],
) -> Answer:
    """Words drawn one after the other from the untouched model, each at this temperature."""

    def step(tokens: Int[Array, "A"], place: tuple[Int[Array, ""], Key[Array, ""]]) -> tuple[Int[Array, "A"], None]:
        number, key = place
        logprobs, _ = model.token_logprobs(params, features, None, model.as_answer(tokens))  # [A, V]
        word = jax.random.categorical(key, logprobs[number] / temperature)
        return tokens.at[number].set(word.astype(tokens.dtype)), None

    places = (jnp.arange(length), jax.random.split(key, length))
    tokens, _ = jax.lax.scan(step, jnp.zeros(length, jnp.int32), places)
    return model.as_answer(tokens)


def best_fit(model: RoutedModel, params: Params, features: Features, gray: Features, candidates: Answer) -> Answer:
    """The candidate which the image makes likelier by most than a gray one does; the first of equals."""
    with_image, without = (model.answer_logprobs(params, one, None, candidates) for one in (features, gray))  # [C]
    best = jnp.argmax(with_image - without)
    return jax.tree.map(lambda leaf: leaf[best], candidates)


def learn(
    warmup: Warmup,
    model: RoutedModel,
    start: list[Array],
    join: Join,
    prompts: Inputs,
    captions: Answer,
    key: Key[Array, ""],
) -> list[Array]:
    """The adapted leaves after all epochs; every leaf of `prompts` and `captions` has a leading axis P."""
    optimizer = optax.adamw(warmup.learning_rate, weight_decay=DECAY)
    count = jax.tree.leaves(prompts)[0].shape[0]
    order = jax.vmap(lambda key: jax.random.permutation(key, count))(jax.random.split(key, warmup.epochs))

    def loss(leaves: list[Array], rows: Int[Array, "b"]) -> Float[Array, ""]:
        params = join(leaves)

        def one(prompt: Inputs, caption: Answer) -> Float[Array, ""]:
            return model.answer_loss(params, model.encode(params, prompt), None, caption)

        some = jax.tree.map(lambda leaf: leaf[rows], (prompts, captions))
        return jax.vmap(one)(*some).mean()

    def step(carry: tuple[list[Array], Any], rows: Int[Array, "b"]) -> tuple[tuple[list[Array], Any], None]:
        leaves, state = carry
        updates, state = optimizer.update(jax.grad(loss)(leaves, rows), state, leaves)
        return (optax.apply_updates(leaves, updates), state), None

    (learned, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), order.reshape(-1, warmup.batch))
    return learned
