"""Prompts and answers of chat models: the checkpoint's own template and tokenizer, and text-only samples as inputs.

The template is rendered by Jinja2 in its sandbox, as transformers does. Without a template (base models) the prompt is
the question and the word `Answer:`.

Axis letters: B samples, T prompt tokens, A answer tokens.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from ports.common.checkpoint.convert import TOKENIZER
from ports.common.configs import checked_value, read_json
from ports.common.layers.moe_decoder import MoEDecoderConfig
from ports.common.moe_lm.features import LMAnswer, Prompt
from r2t2_jax.contract import TOKEN_KINDS, Sample, TokenSequence
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import read_text

TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")  # the first that has one
CHAT_FILES = (  # that prompts and answers depend on
    *TOKENIZER, "chat_template.jinja", "chat_template.json", "generation_config.json", "preprocessor_config.json",
)  # fmt: skip
INSTRUCTIONS = {
    "letter": "Answer with the option's letter from the given choices directly.",
    "word": "Answer the question using a single word or phrase.",
    "plain": "",
}
THINK, END_OF_THINKING = "<think>", "</think>"


@dataclass(frozen=True)
class Chat:
    """The form of a checkpoint's conversations: its template, if it has one, and the tokens that end a turn."""

    template: str | None
    stop_ids: tuple[int, ...]


def read_template(folder: Path) -> str | None:
    """The chat template of a checkpoint's folder, if it has one.

    Raises:
        R2T2Error: a file is damaged.
    """
    return template_in({name: folder / name for name in TEMPLATES if (folder / name).is_file()})


def template_in(files: Mapping[str, Path]) -> str | None:
    """The chat template in a tokenizer's files by name, if one has it; raises as `read_template`."""
    present = [files[name] for name in TEMPLATES if name in files]
    return next((text for file in present if (text := _read_template(file)) is not None), None)


def read_chat(folder: Path) -> Chat:
    """Template and stop tokens of a checkpoint's folder.

    Raises:
        R2T2Error: no file names the token that ends a turn, or a file is damaged.
    """
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            described = read_json(folder / name)
            text_config = described.get("text_config")
            inner = text_config.get("eos_token_id") if isinstance(text_config, dict) else None
            ids = checked_value(name, "eos_token_id", described.get("eos_token_id", inner), int | list[int] | None)
            if ids is not None and ids != []:
                return Chat(read_template(folder), tuple(ids) if isinstance(ids, list) else (ids,))
    raise R2T2Error(f"{folder} names no eos_token_id in generation_config.json or config.json: no answer would end")


def _read_template(file: Path) -> str | None:
    """The default template in a file, if it has one."""
    if file.suffix == ".jinja":
        return read_text(file)
    template = read_json(file).get("chat_template")
    if isinstance(template, list):  # several by name
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise R2T2Error(f"{file}: 'chat_template' must be a string or a list of named strings")
    return template


def format_question(question: str, options: Sequence[str], style: str) -> str:
    """The question, one lettered option per line, and the instruction of the style.

    Raises:
        R2T2Error: there is no such style.
    """
    if style not in INSTRUCTIONS:
        raise R2T2Error(f"there is no prompt style {style!r}; choose one of {', '.join(INSTRUCTIONS)}")
    letters = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    lines = [question.strip(), *letters, INSTRUCTIONS[style]]
    return "\n".join(line for line in lines if line)


@dataclass(frozen=True)
class ChatTokenizer:
    """A checkpoint's tokenizer and template.

    Args:
        folder: with `tokenizer.json` and the other files of `CHAT_FILES`.
        chat: of the checkpoint.
    """

    folder: Path
    chat: Chat

    @classmethod
    def open(cls, folder: Path, stop_ids: tuple[int, ...]) -> ChatTokenizer:
        """The tokenizer of a folder; the stop tokens are the model's.

        Raises:
            R2T2Error: a file is missing or damaged.
        """
        if not (folder / "tokenizer.json").is_file():
            raise R2T2Error(f"{folder} has no tokenizer.json; convert the model again from a folder that has one")
        return cls(folder, Chat(read_template(folder), stop_ids))

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the package tokenizers."""
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the package raises plain exceptions
            raise R2T2Error(f"{self.folder / 'tokenizer.json'} cannot be read ({error})") from error

    @cached_property
    def _template(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self.chat.template or "")

    def render(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        """A conversation with the header of the assistant's turn, thinking off.

        Raises:
            R2T2Error: the template refuses the conversation, is damaged, or opens a think block that the tokenizer
                cannot close.
        """
        known = {"messages": messages, "add_generation_prompt": True, "enable_thinking": False, "tools": None}
        special = {f"{name}_token": self._special(f"{name}_token") for name in ("bos", "eos", "pad", "unk")}
        try:
            text = str(self._template.render({**special, **known, **settings}))
        except Exception as error:  # a template raises what its expressions raise
            raise R2T2Error(f"the chat template of {self.folder} fails: {' '.join(str(error).split())}") from error
        return self._without_thinking(text)

    def _without_thinking(self, text: str) -> str:
        tail = text.rpartition(THINK)
        if not tail[1] or END_OF_THINKING in tail[2] or tail[2].strip():
            return text
        if self.tokenizer.token_to_id(END_OF_THINKING) is None:
            raise R2T2Error(f"the chat template of {self.folder} opens {THINK}, which its tokenizer cannot end")
        return f"{text.rstrip()}\n\n{END_OF_THINKING}\n\n"

    def _special(self, name: str) -> str:
        file = self.folder / "tokenizer_config.json"
        value = read_json(file).get(name) if file.is_file() else None
        return str(value.get("content", "") if isinstance(value, dict) else value or "")

    def prompt(self, content: str | list[dict[str, Any]]) -> str:
        """The text of a prompt with one user's turn."""
        if self.chat.template is not None:
            return self.render([{"role": "user", "content": content}])
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        return f"{text}\nAnswer:"

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are recognized, and none is added."""
        try:
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        except R2T2Error:
            raise
        except Exception as error:  # the package raises plain exceptions
            reason = " ".join(str(error).split())
            raise R2T2Error(f"the tokenizer of {self.folder} fails on {text[:60]!r} ({reason})") from error

    def answer(self, text: str) -> list[int]:
        """An answer with the token that ends a turn."""
        return [*self.encode(text if self.chat.template is not None else f" {text}"), self.chat.stop_ids[0]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Generated tokens up to the first that ends the turn, without special tokens."""
        ended = next((i for i, token in enumerate(tokens) if token in self.chat.stop_ids), len(tokens))
        return str(self.tokenizer.decode(list(tokens[:ended]), skip_special_tokens=True)).strip()


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


@dataclass(frozen=True)
class TextProcessor:
    """Text-only samples to inputs, answers to tokens, and tokens to answers.

    Prompts and answers are padded to multiples of `prompt_bucket` and `answer_bucket` tokens.
    """

    config: MoEDecoderConfig
    tokenizer: ChatTokenizer
    prompt_bucket: int
    answer_bucket: int

    @property
    def reads_conversations(self) -> bool:
        """Whether samples may have a conversation."""
        return self.tokenizer.chat.template is not None

    def prepare(self, params: Any, samples: Sequence[Sample]) -> Prompt:
        """Prompts, padded on the left; every leaf has a leading axis B.

        Raises:
            R2T2Error: a sample has an image, its style is unknown, or its prompt is too long.
        """
        for sample in samples:
            if sample.image is not None:  # the first of a conversation's
                raise R2T2Error(f"sample {sample.id!r} has an image, and this model reads text only")
        rows = [self.tokenizer.encode(self._text(sample)) for sample in samples]
        check_length(samples, rows, self.config.max_positions)
        return self._prompt(rows)

    def prepare_tokens(
        self, params: Any, sequences: Sequence[TokenSequence]
    ) -> tuple[Prompt, LMAnswer, Int[np.ndarray, "B T+A"]]:
        """Prompts and answers of given token ids; as `TokenProcessor.prepare_tokens`."""
        check_tokens(sequences, self.config)
        prompt = self._prompt([list(sequence.prompt) for sequence in sequences])
        answer = pad_answers([sequence.answer for sequence in sequences], self.answer_bucket)
        return prompt, answer, token_kinds(prompt, answer)

    def _prompt(self, rows: Sequence[Sequence[int]]) -> Prompt:
        tokens, mask = pad_left(rows, self.prompt_bucket)
        own = np.maximum(np.cumsum(mask, axis=1) - 1, 0)  # [B, T]
        positions = np.broadcast_to(own[:, None], (len(rows), 3, own.shape[1]))
        lengths = np.array([len(row) for row in rows], np.int32)
        leaves: Any = (tokens, mask, positions.astype(np.int32), np.zeros_like(mask), lengths)
        return Prompt(*leaves)

    def _text(self, sample: Sample) -> str:
        """The prompt of a sample."""
        if not sample.conversation:
            return self.tokenizer.prompt(format_question(sample.question, sample.options, sample.style))
        return self.tokenizer.render(
            [{"role": turn.role, "content": "\n".join(map(str, turn.parts))} for turn in sample.conversation]
        )

    def answer_ids(self, answers: Sequence[str]) -> LMAnswer:
        """Answer tokens, end of turn included, padded on the right; every leaf has a leading axis B."""
        return pad_answers([self.tokenizer.answer(answer) for answer in answers], self.answer_bucket)

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to text."""
        return [self.tokenizer.decode(row) for row in np.asarray(tokens).tolist()]


def pad_answers(rows: Sequence[Sequence[int]], step: int) -> LMAnswer:
    """Answer tokens padded on the right to a multiple of `step`."""
    length = -(-max(map(len, rows)) // step) * step
    tokens = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    mask = np.arange(length)[None] < np.array([len(ids) for ids in rows])[:, None]
    return LMAnswer(*jax.device_put((tokens, mask)))


def pad_left(rows: Sequence[Sequence[int]], step: int) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows of token ids as one array, padded on the left to a multiple of `step`, and the mask of the tokens."""
    length = -(-max(map(len, rows)) // step) * step
    tokens = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[length - len(ids) :] = ids
    return tokens, np.arange(length)[None] >= np.array([length - len(ids) for ids in rows])[:, None]


def token_kinds(prompt: Prompt, answer: LMAnswer) -> Int[np.ndarray, "B T+A"]:
    """The kind of each row of prompts and answers, an index into `TOKEN_KINDS`; -1 for padding."""
    text, image, answered = (TOKEN_KINDS.index(kind) for kind in ("text", "image", "answer"))
    before = np.where(prompt.mask, np.where(prompt.visual, image, text), -1)
    return np.concatenate([before, np.where(answer.mask, answered, -1)], axis=1)


def check_tokens(sequences: Sequence[TokenSequence], config: MoEDecoderConfig) -> None:
    """Refuse sequences of token ids that a model cannot take.

    Raises:
        R2T2Error: a prompt is empty, a sequence is longer than the context, or a token is not in the vocabulary.
    """
    for sequence in sequences:
        length = len(sequence.prompt) + len(sequence.answer)
        if not sequence.prompt or length > config.max_positions:
            problem = "an empty prompt" if not sequence.prompt else f"{length:,} tokens"
            raise R2T2Error(f"sample {sequence.id!r}: {problem}; this model takes 1 to {config.max_positions:,} tokens")
        for token in (*sequence.prompt, *sequence.answer):
            if not 0 <= token < config.vocab_size:
                problem = "a token without an id" if token < 0 else f"the token {token}"
                known = f"the vocabulary has 0 to {config.vocab_size - 1:,}"
                raise R2T2Error(f"sample {sequence.id!r}: {problem}; {known}: is this the model that made the file?")


def check_length(samples: Sequence[Sample], rows: Sequence[Sequence[int]], limit: int) -> None:
    """Refuse prompts that are longer than the model's context.

    Raises:
        R2T2Error: a prompt is too long, or empty.
    """
    for sample, row in zip(samples, rows, strict=True):
        if not 0 < len(row) < limit:
            raise R2T2Error(
                f"sample {sample.id!r}: a prompt of {len(row):,} tokens; this model takes 1 to {limit - 1:,}"
            )
