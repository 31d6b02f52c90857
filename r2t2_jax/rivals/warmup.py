"""Test-Time Warmup: the model is trained on its own captions of the image before it answers a question about it.

Axis letters: B test samples, P prompts, C candidate captions, A caption tokens, V vocabulary, b pairs of a training
batch, L routed layers, E experts.
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

from r2t2_jax.contract import GRAY, Answer, CaptionModel, Features, Inputs, LogprobModel, Params, Port, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import generate_answer
from r2t2_jax.rivals.base import BaselineBatch, baseline_result
from r2t2_jax.runtime.pytrees import Join, partition, register_pytree_dataclass, select_params

DECAY = 0.01  # of AdamW, as PyTorch has it


@register_pytree_dataclass
@dataclass(frozen=True)
class Warmup:
    """Adapt connector and language model to one image, answer, and reset the parameters.

    Test-Time Warmup (2025, arXiv 2509.10641; code: nrajanee/test-time-warmup-mllms): ten prompts about the image, ten
    captions drawn for each at temperature 0.75, of which the best match of the image is used; then AdamW at 1e-6 on
    these pairs, in batches of five, two epochs. Every image starts from the same parameters.
    Departures: the source rates the match with an image-text model; here it is log p(y|x) - log p(y|gray), the gain in
    the model's own log-probability of a caption over a gray image. With a port's `captioning`, prompts may be questions
    and captions short answers. The source's order of the pairs is not known; here each epoch has its own.
    """

    learning_rate: float = 1e-6
    temperature: float = 0.75
    name: str = field(default="warmup", metadata={"static": True})
    candidates: int = field(default=10, metadata={"static": True})
    batch: int = field(default=5, metadata={"static": True})
    epochs: int = field(default=2, metadata={"static": True})

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, int | float) and self.learning_rate < 0:
            raise R2T2Error(f"learning rate {self.learning_rate} of warmup must not be negative")

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
        """Passes per sample: to draw captions token by token, to rate them twice, to train, and to answer."""
        return prompts * self.candidates * (tokens + 2) + 2 * self.epochs * prompts + 1

    def check_port(self, port: Port) -> tuple[CaptionModel, tuple[bool, ...]]:
        """The captioning of a port, and which of its parameters are adapted.

        Raises:
            R2T2Error: the port has no prompts for images, prompts that fill no batches, or no parameters to adapt.
        """
        captioning = port.captioning
        if captioning is None or not isinstance(port.model, LogprobModel):
            raise R2T2Error(f"{port.name} has no prompts for images and parameters to adapt (Port.captioning)")
        if len(captioning.prompts) % self.batch:
            raise R2T2Error(
                f"{port.name} has {len(captioning.prompts)} prompts; they must fill batches of {self.batch}"
            )
        adapted = select_params(port.params, captioning.adapted)
        if not any(adapted):
            raise R2T2Error(
                f"{port.name} has no parameters below {', '.join(captioning.adapted)}: nothing can be adapted"
            )
        return captioning, adapted

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """The answers, as `Baseline.answer`; raises as `check_port`."""
        port = batch.port
        captioning, adapted = self.check_port(port)
        prepare = partial(port.processor.prepare, port.params)
        gray = dataclasses.replace(batch.samples[0], image=np.full_like(batch.samples[0].pixels(), GRAY))
        prompted = [
            dataclasses.replace(sample, question=prompt, options=(), style="plain", dataset="", context="")
            for sample in (*batch.samples, gray)
            for prompt in captioning.prompts
        ]
        prompts = jax.tree.map(
            lambda leaf: jnp.asarray(leaf).reshape(-1, len(captioning.prompts), *leaf.shape[1:]), prepare(prompted)
        )  # [B + 1, P, ...]
        tokens, weights = _answer(
            self,
            port.params,
            (prepare(batch.samples), jax.tree.map(lambda leaf: leaf[:-1], prompts), batch.keys),
            jax.tree.map(lambda leaf: leaf[-1], prompts),
            model=port.model,
            adapted=adapted,
            max_new_tokens=port.max_new_tokens,
            beams=port.beams,
        )
        return baseline_result(batch, self.evaluations(len(captioning.prompts), port.max_new_tokens), weights, tokens)


@dataclass(frozen=True)
class WarmupSettings:
    """Learning rate of the training on captions."""

    learning_rate: float = 1e-6


def warmup(warmup: WarmupSettings) -> Warmup:
    """Adapts projector and language model to the image before answering."""
    return Warmup(warmup.learning_rate)


@partial(jax.jit, static_argnames=("model", "adapted", "max_new_tokens", "beams"))
def _answer(
    warmup: Warmup,
    params: Params,
    samples: tuple[Inputs, Inputs, Key[Array, "B"]],
    gray: Inputs,
    *,
    model: LogprobModel,
    adapted: tuple[bool, ...],
    max_new_tokens: int,
    beams: int,
) -> tuple[Int[Array, "B A"], Float[Array, "B L E"]]:
    start, join = partition(params, adapted)
    blank = jax.lax.map(partial(model.encode, params), gray)  # [P, ...]

    def answer_sample(sample: tuple[Inputs, Inputs, Key[Array, ""]]) -> tuple[Int[Array, "A"], Float[Array, "L E"]]:
        """The answer tokens of one sample by the model trained on its captions, and the routing weights."""
        inputs, prompts, key = sample
        drawing, ordering = jax.random.split(key)
        encoded = jax.lax.map(partial(model.encode, params), prompts)  # [P, ...]

        def caption(prompt: tuple[Features, Features, Key[Array, ""]]) -> Answer:
            features, gray_features, key = prompt
            keys = jax.random.split(key, warmup.candidates)
            draw = partial(draw_caption, model, params, features, warmup.temperature, max_new_tokens)
            return best_fit(model, params, features, gray_features, jax.vmap(draw)(keys))

        count = jax.tree.leaves(prompts)[0].shape[0]
        captions = jax.lax.map(caption, (encoded, blank, jax.random.split(drawing, count)))  # [P, ...]
        trained = join(train(warmup, model, start, join, prompts, captions, ordering))
        features = model.encode(trained, inputs)
        answer = generate_answer(model, trained, features, None, max_new_tokens, beams)
        return answer, model.route(trained, features)

    return jax.lax.map(answer_sample, samples)


def draw_caption(
    model: LogprobModel,
    params: Params,
    features: Features,
    temperature: float | Array,
    length: int,
    key: Key[Array, ""],
) -> Answer:
    """Tokens drawn from the untouched model one after the other, at this temperature."""

    def step(tokens: Int[Array, "A"], place: tuple[Int[Array, ""], Key[Array, ""]]) -> tuple[Int[Array, "A"], None]:
        number, key = place
        logprobs, _ = model.token_logprobs(params, features, None, model.as_answer(tokens))  # [A, V]
        token = jax.random.categorical(key, logprobs[number] / temperature)
        return tokens.at[number].set(token.astype(tokens.dtype)), None

    places = (jnp.arange(length), jax.random.split(key, length))
    tokens, _ = jax.lax.scan(step, jnp.zeros(length, jnp.int32), places)
    return model.as_answer(tokens)


def best_fit(model: RoutedModel, params: Params, features: Features, gray: Features, candidates: Answer) -> Answer:
    """The candidate with the largest gain in log-probability over a gray image; the first of equal ones."""
    with_image, without = (model.answer_logprobs(params, image, None, candidates) for image in (features, gray))  # [C]
    best = jnp.argmax(with_image - without)
    return jax.tree.map(lambda leaf: leaf[best], candidates)


def train(
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

        def pair_loss(prompt: Inputs, caption: Answer) -> Float[Array, ""]:
            return model.answer_loss(params, model.encode(params, prompt), None, caption)

        pairs = jax.tree.map(lambda leaf: leaf[rows], (prompts, captions))
        return jax.vmap(pair_loss)(*pairs).mean()

    def step(carry: tuple[list[Array], Any], rows: Int[Array, "b"]) -> tuple[tuple[list[Array], Any], None]:
        leaves, state = carry
        updates, state = optimizer.update(jax.grad(loss)(leaves, rows), state, leaves)
        return (optax.apply_updates(leaves, updates), state), None

    (trained, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), order.reshape(-1, warmup.batch))
    return trained
