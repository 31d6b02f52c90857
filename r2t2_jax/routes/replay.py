"""Combine weights of imported expert ids: a model takes the ids in one pass over a sequence, and its gates weigh them.

Serving engines and trainers exchange expert ids, and compute the weights again. Ids that the model's own gates would
choose too are a sign that file and model belong together.

Axis letters: B sequences, T tokens, N layers, k chosen experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.contract import (
    TOKEN_KINDS,
    Answer,
    Inputs,
    Params,
    Port,
    ReplayModel,
    Sample,
    TokenProcessor,
    TokenSequence,
)
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.recording import NO_EXPERT, SampleRoutes
from r2t2_jax.runtime.checks import check_finite


@dataclass(frozen=True)
class PackedRoutes:
    """The routes of a row of a file, and the numbers of tokens of the sequences that it packs."""

    sample: SampleRoutes
    lengths: tuple[int, ...]


def question_of(name: str, questions: Mapping[str, Sample]) -> Sample | None:
    """The question of a sample's id, if it is there; `name#1` is the second answer to the question `name`."""
    return questions.get(name, questions.get(name.rpartition("#")[0]))


@dataclass(frozen=True)
class Replay:
    """A model that weighs imported experts.

    Args:
        port: the model.
        questions: with the images of the prompts, by the id of the sample.
    """

    port: Port
    questions: Mapping[str, Sample]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers N of layers with a gate and k of experts of a token.

        Raises:
            R2T2Error: the model does not route token by token, or takes no ids.
        """
        model = self.port.model
        if not isinstance(model, ReplayModel) or not isinstance(self.port.processor, TokenProcessor):
            why = "routes whole samples" if not isinstance(model, ReplayModel) else "takes no token ids"
            raise R2T2Error(f"{self.port.name} {why}; --model is a model that routes token by token, or left out")
        return len(model.gated_layers), model.top_k

    def check(self, rows: Sequence[PackedRoutes], origin: str, batch: int) -> None:
        """Check that the model can take the sequences, before a folder is written.

        Args:
            rows: of a file.
            origin: name of the file, for errors.
            batch: number of rows that are prepared at a time.

        Raises:
            R2T2Error: layers, experts per token, or an id are not the model's, token ids are missing, or a sequence
                does not fit the model.
        """
        layers, top_k = self.shape
        experts = len(self.port.model.spec.experts)
        for row in rows:
            sample, own = row.sample, row.sample.experts.shape[1:]
            problem = ""
            if own != (layers, top_k):
                problem = f"has routes of {own[0]} layers x {own[1]} experts, {self.port.name} has {layers} x {top_k}"
            elif sample.experts.max() >= experts:
                problem = f"names expert {sample.experts.max()}, {self.port.name} has 0 to {experts - 1}"
            elif (sample.tokens < 0).any():
                problem = "has no token ids, which --model needs"
            if problem:
                raise R2T2Error(f"{origin}: sample {sample.id!r} {problem}; leave out --model to import ids only")
        for start in range(0, len(rows), batch):
            self._prepare([sequence for row in rows[start : start + batch] for sequence in self._sequences(row)])

    def weighed(self, rows: Sequence[PackedRoutes]) -> list[SampleRoutes]:
        """The samples with the gates' weights, the model's kinds of tokens, and the agreement of each layer.

        Raises:
            R2T2Error: a sequence does not fit the model, or a weight is NaN.
        """
        port, model = self.port, self.port.model
        assert isinstance(model, ReplayModel)  # `shape` checks it
        inputs, answers, kinds = self._prepare([sequence for row in rows for sequence in self._sequences(row)])
        real = kinds >= 0
        experts = np.full((*kinds.shape, *self.shape), NO_EXPERT, np.int32)  # [B, T, N, k]
        experts[real] = np.concatenate([row.sample.experts for row in rows])
        weights, own = _replay(port.params, inputs, answers, jnp.asarray(experts), model=model)
        weights, own = np.asarray(weights)[real], np.asarray(own)[real]
        check_finite(f"{port.name}: recomputed combine weights", weights)
        bounds = np.cumsum([len(row.sample.tokens) for row in rows])[:-1]
        parts = zip(*(np.split(leaf, bounds) for leaf in (weights, own, kinds[real])), strict=True)
        return [_weighed(row.sample, *part) for row, part in zip(rows, parts, strict=True)]

    def _prepare(self, sequences: Sequence[TokenSequence]) -> tuple[Inputs, Answer, Int[np.ndarray, "B T"]]:
        assert isinstance(self.port.processor, TokenProcessor)  # `shape` checks it
        return self.port.processor.prepare_tokens(self.port.params, sequences)

    def _sequences(self, row: PackedRoutes) -> Iterator[TokenSequence]:
        """The sequences of a row."""
        sample, start = row.sample, 0
        question = question_of(sample.id, self.questions)
        image = None if question is None else question.image
        answered = np.asarray(sample.kinds) == "answer"
        for length in row.lengths:
            span = slice(start, start + length)
            tokens, answer = sample.tokens[span], answered[span]
            images = () if image is None else (image,)
            yield TokenSequence(sample.id, tokens[~answer].tolist(), tokens[answer].tolist(), images)
            start += length


@partial(jax.jit, static_argnames="model")
def _replay(
    params: Params, inputs: Inputs, answers: Answer, experts: Int[Array, "B T N k"], *, model: ReplayModel
) -> tuple[Float[Array, "B T N k"], Int[Array, "B T N k"]]:
    return jax.lax.map(lambda sample: model.replay_routes(params, *sample), (inputs, answers, experts))


def _weighed(
    sample: SampleRoutes,
    weights: Float[np.ndarray, "T N k"],
    own: Int[np.ndarray, "T N k"],
    kinds: Int[np.ndarray, "T"],
) -> SampleRoutes:
    """The sample with the weights of its ids, zero where it has none, and its agreement with the gates' own ids."""
    routed: Bool[np.ndarray, "T"] = (sample.experts != NO_EXPERT).all(axis=(1, 2))
    shared = (sample.experts[..., None] == own[..., None, :]).any(axis=-1)  # [T, N, k]
    return replace(
        sample,
        weights=np.where(sample.experts == NO_EXPERT, 0, weights).astype(np.float16),
        kinds=[TOKEN_KINDS[kind] for kind in kinds],
        agreement=shared[routed].mean(axis=(0, 2)),
    )
