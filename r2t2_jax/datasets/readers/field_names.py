"""Field names of common question files (LLaVA's and others), read under the names of the JSONL format.

| read as | other names |
|---|---|
| `image` | `image_path`, `image_file`, `img`, `img_path`; `images`, a list of one |
| `question` | `prompt`, `query`, `text` |
| `answer` | `ground_truth`, `gt_answer`, `label`, `response` |
| `answers` | `ground_truths`, `gt_answers` |
| `options` | `choices` |
| `id` | `question_id`, `sample_id`, `qid`; a number is written as text |
| `question`, `answer` | the first two turns of `conversations` or `messages`, without `<image>` |
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from r2t2_jax.errors import R2T2Error, R2T2Warning

OTHER_NAMES = {
    "image": ("image_path", "image_file", "img", "img_path"),
    "question": ("prompt", "query", "text"),
    "answer": ("ground_truth", "gt_answer", "label", "response"),
    "answers": ("ground_truths", "gt_answers"),
    "options": ("choices",),
    "id": ("question_id", "sample_id", "qid"),
}
TALKS = ("conversations", "messages")
ROLES = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer", "model": "answer"}
IMAGE_TOKEN = "<image>"
NEAR = 0.8  # a name at least as similar to a known one is a typing error


@dataclass
class FieldNames:
    """Renames the fields of the lines of a file, and keeps what to report about the file.

    Args:
        file: its path.
        known: the names of the format.
    """

    file: str
    known: tuple[str, ...]
    read_as: dict[str, str] = field(default_factory=dict)
    not_read: list[str] = field(default_factory=list)

    def rename(self, fields: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The fields under the names of the format, without those that it does not have.

        Raises:
            R2T2Error: a name is a known one with a typing error, or turns or images do not have their form.
        """
        renamed = {name: value for name, value in fields.items() if name in self.known}
        for name, value in fields.items():
            if name not in self.known:
                for target, read in self._read(name, value, fields, where).items():
                    renamed.setdefault(target, read)
        return renamed

    def _read(self, name: str, value: Any, fields: Mapping[str, Any], where: str) -> dict[str, Any]:
        """What a field of another name gives, under the names of the format."""
        read: dict[str, Any] = {}
        if name in TALKS and "question" not in fields:
            read = _first_turns(name, value, where)
        elif name == "images" and "image" not in fields:
            read = {"image": _single_image(value, where)}
        else:
            for target, others in OTHER_NAMES.items():
                if name in others and target not in fields:
                    number = target == "id" and isinstance(value, int) and not isinstance(value, bool)
                    read = {target: str(value) if number else value}
        if read:
            self.read_as[name] = " and ".join(read)
            return read
        near = difflib.get_close_matches(name.lower(), self.known, n=1, cutoff=NEAR)
        if near and near[0] not in fields:
            known = ", ".join(self.known)
            raise R2T2Error(f"{where}: unknown field {name!r}; did you mean {near[0]!r}? known: {known}")
        if name not in self.not_read:
            self.not_read.append(name)
        return {}

    def report(self) -> None:
        """Warn once of the fields that were read under other names, and of those that were not read."""
        notes = [f"{name!r} is read as {target}" for name, target in self.read_as.items()]
        if self.not_read:
            notes.append(f"not read: {', '.join(map(repr, self.not_read))}")
        if notes:
            warnings.warn(f"{self.file}: {'; '.join(notes)}", R2T2Warning, stacklevel=2)


def _first_turns(name: str, turns: Any, where: str) -> dict[str, str]:
    """The first question of a conversation and its answer: of LLaVA (`from`, `value`) or by roles (`role`, `content`).

    Raises:
        R2T2Error: it is not a list of such turns.
    """
    form = f"{where}: {name!r} must be a list of turns, {{'from', 'value'}} or {{'role', 'content'}}"
    if not isinstance(turns, list):
        raise R2T2Error(form)
    read: dict[str, str] = {}
    for turn in turns:
        if not isinstance(turn, dict):
            raise R2T2Error(form)
        role = ROLES.get(str(turn.get("from", turn.get("role"))))
        text = _text(turn.get("value", turn.get("content")))
        if text is None:
            raise R2T2Error(form)
        if role == ("answer" if "question" in read else "question"):
            read[role] = text.replace(IMAGE_TOKEN, "").strip()
        if len(read) == 2:
            break
    return read


def _text(content: Any) -> str | None:
    """The text of a turn, which may be in parts; `None` if it has another form."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    texts = [part.get("text", "") for part in content if part.get("type", "text") == "text"]
    return "\n".join(texts) if all(isinstance(text, str) for text in texts) else None


def _single_image(images: Any, where: str) -> Any:
    if not isinstance(images, list) or len(images) != 1:
        count = len(images) if isinstance(images, list) else "no list of"
        raise R2T2Error(f"{where}: 'images' has {count} images; a question has one")
    return images[0]
