"""What MoVA is told: the template, the routing prompt, a question in a style, the text that BERT reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r2t2_jax.errors import R2T2Error

IMAGE_MARK = "<image>"

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
STYLES = {
    "word": "\nAnswer the question using a single word or phrase.",
    "letter": "\nAnswer with the option's letter from the given choices directly.",
    "plain": "",
}


@dataclass(frozen=True)
class Template:
    """A conversation as text: roles, and what closes a turn of the user and of the assistant."""

    system: str
    user: str
    assistant: str
    user_end: str
    assistant_end: str

    def prompt(self, *messages: str) -> str:
        """The text up to the assistant's next turn; messages alternate and begin and end with the user's."""
        if len(messages) % 2 != 1:
            raise R2T2Error(f"a prompt of {len(messages)} messages; it begins and ends with the user's")
        turns = [
            f"{self.assistant}{message}{self.assistant_end}" if number % 2 else f"{self.user}{message}{self.user_end}"
            for number, message in enumerate(messages)
        ]
        return f"{self.system}{''.join(turns)}{self.assistant}"


_END = "<|eot_id|>"
TEMPLATES = {
    "llama3": Template(
        system="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision "
        "assistant. You are able to understand the visual content that the user provides, and assist the user with a "
        f"variety of tasks using natural language.{_END}",
        user="<|start_header_id|>user<|end_header_id|>\n\n",
        assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
        user_end=_END,
        assistant_end=_END,
    ),
    "vicuna": Template(
        system="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. ",
        user="USER: ",
        assistant="ASSISTANT:",
        user_end=" ",
        assistant_end="</s>",
    ),
}


def in_style(question: str, options: Sequence[str], style: str) -> str:
    """The question with its options and the request for a form of answer. The mark of the image is taken out of it.

    Raises:
        R2T2Error: no such style.
    """
    if style not in STYLES:
        raise R2T2Error(f"MoVA has no answer style {style!r}; it has {', '.join(STYLES)}")
    listed = "".join(f"\n{chr(ord('A') + number)}. {option}" for number, option in enumerate(options))
    return question.replace(f"{IMAGE_MARK}\n", "").replace(IMAGE_MARK, "") + listed + STYLES[style]


def routing_message(question: str) -> str:
    """The user's turn of the first pass."""
    return f"{IMAGE_MARK}\n{ROUTING_PROMPT}{question}"


def answer_message(question: str) -> str:
    """The user's turn of the second pass."""
    return f"{IMAGE_MARK}\n{question}"


def text_for_bert(*questions: str) -> str:
    """What the adapter's text encoder reads; evaluation has one question."""
    return "".join(f"question {number}: {question.lower()}\n\n" for number, question in enumerate(questions))


def chosen_experts(answer: str, experts: int) -> tuple[bool, ...]:
    """The experts that the first pass's answer names.

    Upstream's rule: of the first three comma-separated pieces, every capital letter that occurs anywhere counts. So
    "Default" chooses D, "NONE" chooses E, lower case nothing, and more than three can be chosen.
    """
    heard = ",".join(answer.split(",")[:3])
    return tuple(chr(ord("A") + number) in heard for number in range(experts))
