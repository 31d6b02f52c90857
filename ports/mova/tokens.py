"""Prompts and tokenizers: templates, the language model's tokenizer, BERT's, upstream's rule for image marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ports.mova.batch import IMAGE
from r2t2_jax.contract import Sample, options_by_letter
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_json import read_json

IMAGE_MARK = "<image>"
PROMPTS = 2  # version of the prompts; 1 had the same form for every benchmark
_WORD = "Answer the question using a single word or phrase."

MODEL_POOL = (
    "This model can effectively extract the accurate spatial and semantic information from natural images.",
    "This model can handle images with text accurately and efficiently but fails to process natural images.",
    "This model is a state-of-the-art object detector that can identify objects in images.",
    "This model shows remarkable skill in text recognition, attaining top-tier text analysis outcomes across diverse "
    "areas",
    "This model is a specialized model designed to achieve state-of-the-art plot and chart understanding performance.",
    "This model is a foundation model designed for biomedical vision-language processing.",
    "This model is a leading image segmentation framework and achieves strong zero-shot segmentation performance.",
)
ROUTING_PROMPT = (
    "You are a helpful assistant router. Based on the visual content, questions, and model pool the user provides, you "
    "need to consider the expertise of these models to select the most 3 suitable models to help you answer the "
    "questions. Answer with the model's letter from the given choices directly. If no models are selected, just answer "
    "'none'.\nModel pool:\n"
    + "".join(f"{chr(ord('A') + number)}. {text}\n" for number, text in enumerate(MODEL_POOL))
    + "\nQuestion:\n"
)
# Requests of single benchmarks, from upstream's question files and scripts.
YES_NO = f"\n{_WORD} Answer yes or no, and check carefully to make sure your answer is correct."
ROUTED_WITHOUT_REQUEST = ("mmbench", "scienceqa")  # their scripts add the request to the answer's prompt only
STYLES = {
    "word": f"\n{_WORD}",
    "letter": "\nAnswer with the option's letter from the given choices directly.",
    "plain": "",
}


@dataclass(frozen=True)
class ChatTemplate:
    """A conversation as text: system text, role headers, and the strings that end a turn of user and assistant."""

    system: str
    user: str
    assistant: str
    user_end: str
    assistant_end: str

    def prompt(self, *messages: str) -> str:
        """The text up to the assistant's next turn.

        Args:
            messages: alternating, the first and the last are the user's.

        Raises:
            R2T2Error: the number of messages is even.
        """
        if len(messages) % 2 != 1:
            raise R2T2Error(f"a prompt of {len(messages)} messages; the first and the last must be the user's")
        turns = [
            f"{self.assistant}{message}{self.assistant_end}" if number % 2 else f"{self.user}{message}{self.user_end}"
            for number, message in enumerate(messages)
        ]
        return f"{self.system}{''.join(turns)}{self.assistant}"


_END = "<|eot_id|>"
TEMPLATES = {
    "llama3": ChatTemplate(
        system="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision "
        "assistant. You are able to understand the visual content that the user provides, and assist the user with a "
        f"variety of tasks using natural language.{_END}",
        user="<|start_header_id|>user<|end_header_id|>\n\n",
        assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
        user_end=_END,
        assistant_end=_END,
    ),
    "vicuna": ChatTemplate(
        system="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. ",
        user="USER: ",
        assistant="ASSISTANT:",
        user_end=" ",
        assistant_end="</s>",
    ),
}


def in_style(question: str, options: Sequence[str], style: str, dataset: str = "", context: str = "") -> str:
    """The question with its lettered options and the instruction of the style; image marks in it are removed.

    Args:
        question: the text.
        options: answer options; an empty one is left out, those after it keep their letters.
        style: `letter`, `word` or `plain`.
        dataset: name of the benchmark; MME has its own request.
        context: lines below the question, such as TextVQA's OCR tokens.

    Raises:
        R2T2Error: there is no such style.
    """
    if style not in STYLES:
        raise R2T2Error(f"MoVA has no answer style {style!r}; choose one of {', '.join(STYLES)}")
    below = [context] if context else []
    below += [f"{letter}. {option}" for letter, option in options_by_letter(options).items()]
    request = YES_NO if dataset == "mme" and style == "word" else STYLES[style]
    return "\n".join([question.replace(f"{IMAGE_MARK}\n", "").replace(IMAGE_MARK, ""), *below]) + request


def routing_question(sample: Sample) -> str:
    """The question of the first pass: that of the answer, on some benchmarks without its request."""
    style = "plain" if sample.dataset in ROUTED_WITHOUT_REQUEST else sample.style
    return in_style(sample.question, sample.options, style, sample.dataset, sample.context)


def routing_message(question: str) -> str:
    """The user's turn of the first pass."""
    return f"{IMAGE_MARK}\n{ROUTING_PROMPT}{question}"


def answer_message(question: str) -> str:
    """The user's turn of the second pass."""
    return f"{IMAGE_MARK}\n{question}"


def text_for_bert(*questions: str) -> str:
    """The input text of the adapter's text encoder; evaluation has one question."""
    return "".join(f"question {number}: {question.lower()}\n\n" for number, question in enumerate(questions))


def chosen_experts(answer: str, experts: int) -> tuple[bool, ...]:
    """The experts that the first pass's answer names.

    Upstream's rule: every capital letter anywhere in the first three comma-separated pieces counts. So "Default"
    chooses D, "NONE" chooses E, lower case chooses none, and more than three can be chosen.
    """
    pieces = ",".join(answer.split(",")[:3])
    return tuple(chr(ord("A") + number) in pieces for number in range(experts))


def prompt_ids(prompt: str, ids: Callable[[str], Sequence[int]], begin: int | None) -> list[int]:
    """The ids of a prompt, with IMAGE in place of each image mark.

    Upstream's rule: the pieces between marks are tokenized separately. If the first piece begins with `begin`, the
    first id of *every* later piece is dropped, even if it is not `begin`. With a tokenizer that does not add `begin` to
    a text, this drops the newline after the image.
    """
    pieces = [list(ids(piece)) for piece in prompt.split(IMAGE_MARK)]
    opened = bool(pieces[0]) and pieces[0][0] == begin
    tokens = pieces[0]
    for piece in pieces[1:]:
        tokens = [*tokens, IMAGE, *(piece[1:] if opened else piece)]
    return tokens


@dataclass(frozen=True)
class TextTokenizer:
    """The language model's tokenizer.

    Args:
        ids: ids of a text as upstream's tokenizer returns them, with its special tokens.
        plain: ids of a text without special tokens.
        text: text of ids; special tokens are skipped.
        begin: id of the begin-of-text token.
    """

    ids: Callable[[str], list[int]]
    plain: Callable[[str], list[int]]
    text: Callable[[list[int]], str]
    begin: int | None

    def prompt(self, prompt: str) -> list[int]:
        """Ids of a prompt with an image."""
        return prompt_ids(prompt, self.ids, self.begin)


def read_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer from `tokenizer.json`, or from `tokenizer.model`, which prepends a begin token as Llama's does.

    Raises:
        R2T2Error: neither file exists, or it cannot be read.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            return _fast(folder)
        return _sentencepiece(folder / "tokenizer.model")
    except Exception as error:  # both libraries raise bare exceptions
        raise R2T2Error(f"the tokenizer in {folder} cannot be read ({error}); convert the model again") from error


def _fast(folder: Path) -> TextTokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    named: Any = read_json(settings, dict).get("bos_token") if settings.is_file() else None
    named = named.get("content") if isinstance(named, dict) else named
    return TextTokenizer(
        ids=lambda text: tokenizer.encode(text).ids,
        plain=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        text=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        begin=tokenizer.token_to_id(str(named or "<|begin_of_text|>")),
    )


def _sentencepiece(file: Path) -> TextTokenizer:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(file))
    special = {model.bos_id(), model.eos_id(), model.unk_id()}
    return TextTokenizer(
        ids=lambda text: [model.bos_id(), *model.encode(text)],
        plain=lambda text: model.encode(text),
        text=lambda ids: model.decode([token for token in ids if token not in special]),
        begin=model.bos_id(),
    )


def read_wordpiece(file: Path, length: int) -> Callable[[str], list[int]]:
    """BERT's tokenizer from its vocabulary: lower case, with [CLS] and [SEP], truncated to `length` tokens.

    Raises:
        R2T2Error: the vocabulary cannot be read.
    """
    from tokenizers import BertWordPieceTokenizer

    try:
        tokenizer = BertWordPieceTokenizer(str(file), lowercase=True)
    except Exception as error:  # the library raises bare exceptions
        raise R2T2Error(f"{file} cannot be read ({error}); convert the model again") from error
    tokenizer.enable_truncation(length)
    return lambda text: tokenizer.encode(text).ids


def padded(
    rows: Sequence[Sequence[int]], bucket: int, pad: int = 0
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows of ids as one array, padded on the right to a multiple of `bucket`, and the mask of the tokens."""
    length = -(-max(len(row) for row in rows) // bucket) * bucket
    tokens = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        mask[number, : len(row)] = True
    return tokens, mask
