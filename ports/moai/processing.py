"""Host side of the MoAI port: prompts, the tokenizer, samples to inputs, answers to tokens, tokens to answers.

Axis letters: B samples, T text tokens, U verbalization tokens, A answer tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from ports.moai.auxiliary.providers.protocol import Provider
from ports.moai.auxiliary.record import AuxRecord, fit, image_key
from ports.moai.auxiliary.verbalize import verbalize
from ports.moai.batch import MoAIAnswer, MoAIInputs
from ports.moai.config import MoAIConfig
from r2t2_jax.contract import Sample, options_by_letter
from r2t2_jax.errors import R2T2Error

IMAGE = "<image>"
SYSTEM = f"AI assistant should give helpful and detailed answers to user after fully understanding an image. {IMAGE}"
BEGIN, END = "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"
ASSISTANT = "assistant\n"
_INSTRUCTIONS = {
    "letter": "Answer with the option's letter from the given choices directly.",
    "word": "Answer the question using a single word or phrase.",
}
STYLES = (*_INSTRUCTIONS, "plain")
BLANK_LINE = ("ai2d", "qbench")
PROMPTS = 2  # version of `format_question`; 1 had the same form for every benchmark
TOKENIZER_FILE = "tokenizer.model"
TEXT_BUCKET, VERBALIZATION_BUCKET, ANSWER_BUCKET = 32, 64, 8


def format_question(question: str, options: Sequence[str], style: str, dataset: str = "", context: str = "") -> str:
    """The question as the benchmarks write it: MMBench's lines of options, and the instruction of the style.

    Args:
        question: `<image>` is removed from it, as upstream's ScienceQA does: the prompt has one already.
        options: answer options, which are lettered.
        style: `letter`, `word` or `plain`.
        dataset: name of the benchmark; those in `BLANK_LINE` have an empty line below the options.
        context: lines below the question, such as TextVQA's OCR tokens.

    Raises:
        R2T2Error: there is no such style.
    """
    if style not in STYLES:
        raise R2T2Error(f"MoAI has no prompt style {style!r}; choose one of {', '.join(STYLES)}")
    letters = [f"{letter}. {option}" for letter, option in options_by_letter(options).items()]
    lines = [question.replace(IMAGE, "").strip(), *([context] if context else []), *letters]
    if dataset in BLANK_LINE and letters and style == "letter":
        lines.append("")
    return "\n".join([*lines, _INSTRUCTIONS[style]] if style in _INSTRUCTIONS else lines)


def user_turn(question: str) -> str:
    """The text after the image in the benchmarks, including the header of the assistant's turn."""
    return f" {BEGIN}user\n{question}{END}\n{BEGIN}{ASSISTANT}"


def demo_turn(question: str) -> str:
    """The text after the image in upstream's demonstration."""
    return f" USER: {question} ASSISTANT:"


def extract_answer(text: str) -> str:
    """The answer in a decoded text: after the last header of an assistant's turn, up to the end of the turn."""
    return text.rsplit(ASSISTANT, 1)[-1].strip().split("[UN", 1)[0]


def extract_demo_answer(text: str) -> str:
    """The answer as upstream's demonstration extracts it: all text before the first special piece."""
    return text.split("[U", 1)[0]


def contains_yes(answer: str) -> int:
    """HallusionBench's parse of an answer: 1 if it contains "yes", 0 otherwise."""
    return int("yes" in answer.lower())


class PromptPieces(NamedTuple):
    """Tokens before the image, the beginning-of-sequence token first, and after it."""

    before: list[int]
    after: list[int]


def prompt_pieces(encode: Callable[[str], list[int]], user: str, bos: int) -> PromptPieces:
    """The system text up to the image, and the user's turn."""
    return PromptPieces([bos, *encode(SYSTEM.removesuffix(IMAGE))], encode(user))


@dataclass(frozen=True)
class MoAITokenizer:
    """A sentencepiece model; the ids of special tokens are the config's."""

    path: Path
    config: MoAIConfig

    @cached_property
    def _model(self) -> Any:
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except (OSError, RuntimeError) as error:
            raise R2T2Error(f"{self.path} is not a sentencepiece model ({error}); convert the model again") from error

    def adjusted(self) -> MoAITokenizer:
        """The same tokenizer with the id of the token that ends a turn read from the file; the config's is inferred.

        Raises:
            R2T2Error: the file cannot be read, lacks that piece, or does not have the model's vocabulary size.
        """
        size, end = self._model.vocab_size(), self._model.piece_to_id(END)
        if size != self.config.vocab_size:
            raise R2T2Error(f"{self.path} has {size:,} pieces; this model has {self.config.vocab_size:,}")
        if end == self._model.unk_id():
            raise R2T2Error(f"{self.path} has no piece {END}: it is not the tokenizer of MoAI")
        config = dataclasses.replace(self.config, end_id=end, stop_ids=(self.config.eos_id, end))
        return dataclasses.replace(self, config=config)

    def encode(self, text: str) -> list[int]:
        """Token ids, without beginning and end of sequence."""
        return list(self._model.encode(text, out_type=int))

    def prompt(self, user: str) -> PromptPieces:
        """A prompt as the tokens before and after the image."""
        return prompt_pieces(self.encode, user, self.config.bos_id)

    def verbalization(self, text: str) -> list[int]:
        """The auxiliary text, with the beginning-of-sequence token."""
        return [self.config.bos_id, *self.encode(text)]

    def answer(self, text: str) -> list[int]:
        """An answer tokenized as it follows the header of the assistant's turn, with the end-of-turn token."""
        header, whole = self.encode(ASSISTANT), self.encode(ASSISTANT + text)
        answer = whole[len(header) :] if whole[: len(header)] == header else self.encode(text)
        return [*answer, self.config.end_id]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens up to the one that stops decoding, without padding and special tokens."""
        pieces: list[int] = []
        for token in tokens:
            if token in self.config.stop_ids:
                break
            if token >= 0 and token not in (self.config.bos_id, self.config.eos_id, self.config.pad_id):
                pieces.append(int(token))
        return str(self._model.decode(pieces))


@dataclass(frozen=True)
class MoAIProcessor:
    """Converts samples to inputs, answers to tokens, and tokens to answers.

    Args:
        config: of the model.
        tokenizer: of the model.
        auxiliary: provides the auxiliary record of each image; `None` for no auxiliary inputs.
    """

    config: MoAIConfig
    tokenizer: MoAITokenizer
    auxiliary: Provider | None = None

    @property
    def fingerprint(self) -> str:
        """The name and the version of the prompts."""
        return f"{__name__}.{type(self).__qualname__}:prompts={PROMPTS}"

    def prepare(self, params: Any, samples: Sequence[Sample]) -> MoAIInputs:
        """Images, segment maps, prompts and verbalizations; every leaf has a leading axis B.

        Raises:
            R2T2Error: a sample's style is unknown, its prompt is too long, or its image has no auxiliary record.
        """
        records = [self._record(sample) for sample in samples]
        prompts = [
            self.tokenizer.prompt(
                user_turn(
                    format_question(sample.question, sample.options, sample.style, sample.dataset, sample.context)
                )
            )
            for sample in samples
        ]
        tokens, mask = pad_left([[*p.before, *p.after] for p in prompts], TEXT_BUCKET, self.config.pad_id)
        self._check_length(samples, tokens.shape[1])
        before = np.arange(tokens.shape[1])[None] < np.array([tokens.shape[1] - len(p.after) for p in prompts]).reshape(
            -1, 1
        )  # [B, T]
        texts = [self.tokenizer.verbalization(verbalize(record, self.config.image_size)) for record in records]
        verbalization, verbalization_mask = pad_left(texts, VERBALIZATION_BUCKET, self.config.pad_id)
        leaves: dict[str, Any] = {
            "image": np.stack([fit(sample.pixels(), self.config.image_size) for sample in samples]),
            "segments": np.stack([self._map(record) for record in records]),
            "tokens": tokens,
            "mask": mask,
            "before_image": before,
            "language": mask,
            "verbalization": verbalization,
            "verbalization_mask": verbalization_mask,
        }
        return MoAIInputs(**leaves)

    def _record(self, sample: Sample) -> AuxRecord:
        """The record of the sample's image; an augmented copy has the record of its original."""
        image = sample.pixels() if sample.original is None else sample.original
        empty = AuxRecord(image_key(image), sample.id)
        return empty if self.auxiliary is None else self.auxiliary(image, empty)

    def _map(self, record: AuxRecord) -> np.ndarray:
        size = (self.config.image_size, self.config.image_size)
        if record.map is None:
            return np.zeros(size, np.uint8)
        if record.map.shape != size:
            raise R2T2Error(
                f"the segment map of image {record.key} has shape {record.map.shape}; this model needs {size}"
            )
        return record.map

    def _check_length(self, samples: Sequence[Sample], text: int) -> None:
        limit = self.config.max_positions - self.config.image_tokens
        if text > limit:
            longest = max(samples, key=lambda sample: len(sample.question)).id
            raise R2T2Error(f"sample {longest!r}: a prompt of {text:,} tokens is too long; the limit is {limit:,}")

    def answer_ids(self, answers: Sequence[str]) -> MoAIAnswer:
        """Answer tokens, end of turn included, padded on the right; every leaf has a leading axis B."""
        rows = [self.tokenizer.answer(answer) for answer in answers]
        length = _round_up(max(map(len, rows)), ANSWER_BUCKET)
        tokens = np.full((len(rows), length), self.config.pad_id, np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        mask = np.arange(length)[None] < np.array([len(ids) for ids in rows])[:, None]
        return MoAIAnswer(*jax.device_put((tokens, mask)))

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to answers."""
        return [extract_answer(self.tokenizer.decode(row)) for row in np.asarray(tokens).tolist()]


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def pad_left(
    rows: Sequence[Sequence[int]], step: int, pad: int
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows of token ids as one array, padded on the left to a multiple of `step`, and the mask of the tokens."""
    length = _round_up(max(map(len, rows)), step)
    tokens = np.full((len(rows), length), pad, np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[length - len(ids) :] = ids
    return tokens, np.arange(length)[None] >= np.array([length - len(ids) for ids in rows])[:, None]
