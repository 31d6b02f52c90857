"""Host side of the port: samples to inputs, by way of the model's first pass and the towers; tokens to text.

The first pass answers, in words, which experts to ask. Then every expert is run on the samples that need it and on no
other. Both run sample by sample, so nothing depends on the batch.

Axis letters: B samples, N tokens of the map, C channels of an expert, E experts, D width of the adapter, M text width,
T tokens, R tokens of the first pass's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.mova.config import EXPERTS
from ports.mova.modeling import IMAGE, MovaAnswer, MovaInputs, Views
from ports.mova.pixels import views_of
from ports.mova.port import MovaModel
from ports.mova.prompts import TEMPLATES, answer_message, chosen_experts, in_style, routing_message, text_for_bert
from ports.mova.tokens import TextTokenizer, padded
from r2t2_jax.contract import Sample

CHUNK = 16  # samples whose views are held at a time: 30 MB each
PROMPT_BUCKET, WORDS_BUCKET, ANSWER_BUCKET = 32, 16, 8

Towers = Literal["all", "selected"]


@partial(jax.jit, static_argnames="model")
def first_pass(
    params: Any, views: Views, tokens: Int[Array, "T"], mask: Bool[Array, "T"], *, model: MovaModel
) -> tuple[Float[Array, "N D"], Int[Array, "R"]]:
    """CLIP's tokens of one sample, and the model's answer to the routing prompt, in which no expert is seen."""
    net = nnx.merge(model.graph, params)
    base = net.see_base(views)
    prompt = net.read(net.embed(tokens), mask, jnp.argmax(tokens == IMAGE), net.routing_tokens(base))
    return base, net.generate(prompt, model.config.routing_length)


@partial(jax.jit, static_argnames=("model", "expert"))
def ask_expert(params: Any, views: Views, *, model: MovaModel, expert: str) -> Float[Array, "N C"]:
    """One expert's tokens of one sample."""
    return nnx.merge(model.graph, params).see_expert(expert, views)


@dataclass(frozen=True, eq=False)
class MovaProcessor:
    """Samples to inputs and back.

    Args:
        model: the contract's functions.
        tokenizer: the language model's.
        words: BERT's.
        towers: run `all` seven on every sample, as references need them whose r lies on any expert; or those alone that
            the first pass `selected`, enough for answers with the model's own routing.
    """

    model: MovaModel
    tokenizer: TextTokenizer
    words: Callable[[str], list[int]]
    towers: Towers = "all"

    def prepare(self, params: Any, samples: Sequence[Sample]) -> MovaInputs:
        """First pass, towers, prompt and question; every leaf has a leading axis B and lies on the host."""
        template = TEMPLATES[self.model.config.template]
        questions = [in_style(sample.question, sample.options, sample.style) for sample in samples]
        prompts = [self.tokenizer.prompt(template.prompt(answer_message(question))) for question in questions]
        routing = [self.tokenizer.prompt(template.prompt(routing_message(question))) for question in questions]
        tokens, mask = padded(prompts, PROMPT_BUCKET)
        words, words_mask = padded([self.words(text_for_bert(question)) for question in questions], WORDS_BUCKET)
        seen = self._see(params, samples, *padded(routing, PROMPT_BUCKET))
        on_host: tuple[Any, ...] = (*seen, tokens, mask, words, words_mask)  # a device has no room for a whole set
        return replace(MovaInputs(*on_host), prefix=int((tokens == IMAGE).argmax(axis=1).min()))

    def _see(
        self, params: Any, samples: Sequence[Sample], tokens: Int[np.ndarray, "B T"], mask: Bool[np.ndarray, "B T"]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], Bool[np.ndarray, "B E"], Bool[np.ndarray, "B E"]]:
        """What the towers see, which experts the first pass chose, and which were run."""
        config = self.model.config
        size, dtype = config.adapter.tokens, jnp.dtype(config.dtype)
        base = np.zeros((len(samples), size, config.adapter.width), dtype)
        experts = tuple(np.zeros((len(samples), size, channels), dtype) for channels in config.expert_widths)
        coarse = np.zeros((len(samples), len(EXPERTS)), bool)
        for start in range(0, len(samples), CHUNK):
            rows = range(start, min(start + CHUNK, len(samples)))
            views = {row: views_of(samples[row].image, config) for row in rows}
            for row in rows:
                seen, answer = first_pass(params, views[row], tokens[row], mask[row], model=self.model)
                base[row] = seen
                coarse[row] = chosen_experts(self._text(np.asarray(answer)), len(EXPERTS))
            for number, expert in enumerate(EXPERTS):
                for row in rows:
                    if self.towers == "all" or coarse[row, number]:
                        experts[number][row] = ask_expert(params, views[row], model=self.model, expert=expert)
        return base, experts, coarse, coarse if self.towers == "selected" else np.ones_like(coarse)

    def answer_ids(self, answers: Sequence[str]) -> MovaAnswer:
        """Answer tokens, end token included; every leaf has a leading axis B."""
        rows = [[*self.tokenizer.plain(answer), self.model.config.end] for answer in answers]
        on_host: tuple[Any, ...] = padded(rows, ANSWER_BUCKET, self.model.config.pad)
        return MovaAnswer(*on_host)

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to text, cut at the end token."""
        return [self._text(row) for row in np.asarray(tokens)]

    def _text(self, tokens: Int[np.ndarray, "A"]) -> str:
        ended = np.flatnonzero(tokens == self.model.config.end)
        kept = tokens[: ended[0]] if len(ended) else tokens
        return self.tokenizer.text([int(token) for token in kept]).strip()


@dataclass(frozen=True, eq=False)
class MovaEmbedder:
    """E(question): the state of BERT's first token, as the gates see it, at length one."""

    model: MovaModel
    params: Any
    words: Callable[[str], list[int]]
    fingerprint: str

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B M"]:
        """Unit vectors."""
        tokens, mask = padded([self.words(text_for_bert(text)) for text in texts], WORDS_BUCKET)
        vectors = np.asarray(read_questions(self.params, tokens, mask, model=self.model), np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames="model")
def read_questions(
    params: Any, words: Int[Array, "B T"], mask: Bool[Array, "B T"], *, model: MovaModel
) -> Float[Array, "B M"]:
    """The text encoder's first states, question by question."""
    net = nnx.merge(model.graph, params)
    return jax.lax.map(lambda row: net.read_question(*row), (words, mask))
