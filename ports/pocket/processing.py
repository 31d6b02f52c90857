"""Host side of the pocket port: samples to arrays, tokens to text, question texts to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from PIL import Image

from ports.pocket.config import PocketConfig
from ports.pocket.model import PocketModel
from ports.pocket.modeling import PocketAnswer, PocketInputs
from ports.pocket.scenes import IMAGE
from ports.pocket.tokenizer import Tokenizer
from r2t2_jax.contract import Sample

TEXTS = 256  # of one call of the program, which computes only those that there are
KNOWN = 20_000  # texts whose states are kept, 10 MB


@dataclass(frozen=True)
class PocketProcessor:
    """Samples to inputs and back."""

    config: PocketConfig
    tokenizer: Tokenizer

    def prepare(self, params: Any, samples: Sequence[Sample]) -> PocketInputs:
        """Images at 96 x 96 and question tokens; every leaf has a leading axis B."""
        tokens, mask = self.tokenizer.pad([sample.question for sample in samples], self.config.question_length)
        images = np.stack([_fit(sample.pixels()) for sample in samples])
        leaves: Any = (images, tokens, mask)  # on the host: compiled functions take them as they are
        return PocketInputs(*leaves)

    def fits(self, question: str) -> bool:
        """Whether a question has at most `question_length` tokens; longer ones are truncated."""
        return len(self.tokenizer.encode(question)) <= self.config.question_length

    def unknown_words(self, question: str) -> list[str]:
        """The words of a question that are not in the vocabulary, in order."""
        return self.tokenizer.unknown(question)

    def answer_ids(self, answers: Sequence[str]) -> PocketAnswer:
        """Answer tokens, end-of-turn token included; every leaf has a leading axis B."""
        tokens, mask = self.tokenizer.pad_answers(answers, self.config.answer_length)
        return PocketAnswer(*jax.device_put((tokens, mask)))

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to text."""
        return [self.tokenizer.decode(row) for row in np.asarray(tokens).tolist()]


def _fit(image: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] of any size to 96 x 96."""
    if image.shape == (IMAGE, IMAGE, 3):
        return image
    return np.asarray(Image.fromarray(image).convert("RGB").resize((IMAGE, IMAGE), Image.Resampling.BILINEAR))


@dataclass(frozen=True, eq=False)
class PocketEmbedder:
    """Question embeddings from the pocket language model.

    Two halves of equal weight, each standardized on reference questions: the last question token's state before block
    `layer`, and the mean of the token embeddings. The question stands before the image, so neither depends on the image
    or on routing.
    """

    model: PocketModel
    params: Any
    tokenizer: Tokenizer
    layer: int
    mean: Float[np.ndarray, "2 D"]
    spread: Float[np.ndarray, "2 D"]
    fingerprint: str
    known: dict[str, Float[np.ndarray, "2 D"]] = field(default_factory=dict, repr=False)  # states of earlier texts

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B 2*D"]:
        """Unit vectors. Texts that occur again, here or in a later call, are computed once."""
        if len(self.known) > KNOWN:
            self.known.clear()
        states = {text: self.known[text] for text in texts if text in self.known}
        new = [text for text in dict.fromkeys(texts) if text not in states]
        for first in range(0, len(new), TEXTS):
            part = new[first : first + TEXTS]
            tokens, mask = self.tokenizer.pad(part, self.model.config.question_length)
            tokens, mask = (np.pad(leaf, ((0, TEXTS - len(part)), (0, 0))) for leaf in (tokens, mask))
            rows = np.asarray(question_states(self.model, self.params, tokens, mask, len(part), self.layer))
            states |= dict(zip(part, rows[: len(part)], strict=True))
        self.known.update(states)
        return unit_halves(
            np.array([states[text] for text in texts], np.float32).reshape(-1, *self.mean.shape), self.mean, self.spread
        )


def unit_halves(
    states: Float[np.ndarray, "B 2 D"], mean: Float[np.ndarray, "2 D"], spread: Float[np.ndarray, "2 D"]
) -> Float[np.ndarray, "B 2*D"]:
    """Standardized states, both halves scaled to the same length and concatenated to a unit vector."""
    vectors = (states - mean) / spread
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors.reshape(len(states), mean.size) / np.sqrt(2.0).astype(np.float32)


@partial(jax.jit, static_argnames=("model", "layer"))
def question_states(
    model: PocketModel, params: Any, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], count: int, layer: int
) -> Float[Array, "B 2 D"]:
    """For the first `count` questions: the last token's state before block `layer`, and the mean token embedding.

    The number of questions is traced, so that one program serves all; the rows after them are zero.
    """
    net = nnx.merge(model.graph, params)

    def state(tokens: Int[Array, "T"], mask: Bool[Array, "T"]) -> Float[Array, "2 D"]:
        states, _, _ = net.prefill_question(tokens, mask)
        words = jnp.where(mask[:, None], net.embed_tokens[...][tokens], 0.0)
        length = jnp.maximum(mask.sum(), 1)
        return jnp.stack([states[layer, length - 1], words.sum(axis=0) / length])

    nothing = jnp.zeros((len(tokens), 2, net.config.width))
    return jax.lax.fori_loop(0, count, lambda i, rows: rows.at[i].set(state(tokens[i], mask[i])), nothing)
