"""Host side of the MoAI port: samples to inputs, answers to tokens, tokens to answers.

Axis letters: B samples, T text tokens, U verbalisation tokens, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from ports.moai.auxiliary.providers.protocol import Provider
from ports.moai.auxiliary.record import AuxRecord, image_key
from ports.moai.auxiliary.verbalise import verbalise
from ports.moai.config import MoAIConfig
from ports.moai.data import MoAIAnswer, MoAIInputs
from ports.moai.images import fit
from ports.moai.prompts import ask, extract_answer, user_turn
from ports.moai.tokens import Tokenizer
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error

TEXT_BUCKET, VERBALISATION_BUCKET, ANSWER_BUCKET = 32, 64, 8


@dataclass(frozen=True)
class MoAIProcessor:
    """Samples to inputs and back. `auxiliary` is asked for each image; without it the model is told nothing."""

    config: MoAIConfig
    tokenizer: Tokenizer
    auxiliary: Provider | None = None

    def prepare(self, params: Any, samples: Sequence[Sample]) -> MoAIInputs:
        """Images, segment maps, prompts and verbalisations; every leaf has a leading axis B.

        Raises:
            R2T2Error: a sample's style is unknown, its prompt is too long, or its image has no auxiliary record.
        """
        records = [self._record(sample) for sample in samples]
        prompts = [
            self.tokenizer.prompt(user_turn(ask(sample.question, sample.options, sample.style))) for sample in samples
        ]
        tokens, mask = pad_left([[*p.before, *p.after] for p in prompts], TEXT_BUCKET, self.config.pad_id)
        self._check_length(samples, tokens.shape[1])
        before = np.arange(tokens.shape[1])[None] < np.array([tokens.shape[1] - len(p.after) for p in prompts]).reshape(
            -1, 1
        )  # [B, T]
        told = [self.tokenizer.verbalisation(verbalise(record, self.config.image_size)) for record in records]
        verbalisation, told_mask = pad_left(told, VERBALISATION_BUCKET, self.config.pad_id)
        return MoAIInputs(
            image=jnp.asarray(np.stack([fit(sample.image, self.config.image_size) for sample in samples])),
            segments=jnp.asarray(np.stack([self._map(record) for record in records])),
            tokens=jnp.asarray(tokens),
            mask=jnp.asarray(mask),
            before_image=jnp.asarray(before),
            language=jnp.asarray(mask),
            verbalisation=jnp.asarray(verbalisation),
            verbalisation_mask=jnp.asarray(told_mask),
        )

    def _record(self, sample: Sample) -> AuxRecord:
        empty = AuxRecord(image_key(sample.image))
        return empty if self.auxiliary is None else self.auxiliary(sample.image, empty)

    def _map(self, record: AuxRecord) -> np.ndarray:
        size = (self.config.image_size, self.config.image_size)
        if record.map is None:
            return np.zeros(size, np.uint8)
        if record.map.shape != size:
            raise R2T2Error(f"the segment map of image {record.key} is {record.map.shape}; this model needs {size}")
        return record.map

    def _check_length(self, samples: Sequence[Sample], text: int) -> None:
        limit = self.config.max_positions - self.config.image_tokens
        if text > limit:
            longest = max(samples, key=lambda sample: len(sample.question)).id
            raise R2T2Error(f"a prompt of {text:,} tokens is too long (at most {limit:,}); see sample {longest!r}")

    def answer_ids(self, answers: Sequence[str]) -> MoAIAnswer:
        """Answer tokens, end of turn included; every leaf has a leading axis B."""
        rows = [self.tokenizer.answer(answer) for answer in answers]
        length = _bucket(max(map(len, rows)), ANSWER_BUCKET)
        tokens = np.full((len(rows), length), self.config.pad_id, np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        mask = np.arange(length)[None] < np.array([len(ids) for ids in rows])[:, None]
        return MoAIAnswer(jnp.asarray(tokens), jnp.asarray(mask))

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to answers."""
        return [extract_answer(self.tokenizer.decode(row)) for row in np.asarray(tokens).tolist()]


def _bucket(length: int, step: int) -> int:
    return -(-length // step) * step


def pad_left(
    rows: Sequence[Sequence[int]], step: int, pad: int
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows of token numbers as one array, padded on the left to a multiple of `step`, and what is no padding."""
    length = _bucket(max(map(len, rows)), step)
    tokens = np.full((len(rows), length), pad, np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[length - len(ids) :] = ids
    return tokens, np.arange(length)[None] >= np.array([length - len(ids) for ids in rows])[:, None]
