"""Answers in OpenAI's format: text, tokens with log-probabilities, usage, the block `r2t2`, and streams.

Axis letters: L routed layers, E experts, P points of a path, A answer tokens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json

from r2t2_jax.contract import Port
from r2t2_jax.serve.engine import AnsweredQuestion
from r2t2_jax.serve.schemas import ChatRequest

DIGITS = 6  # of weights and losses
DRAWS = random.Random()  # of names and seeds; the system's source would make the thread wait for Python's lock


@dataclass(frozen=True)
class Completion:
    """The answer of a request.

    Args:
        text: cut at the first stop text and at the largest number of tokens.
        pieces: the text of each token; joined they are the text.
        finish_reason: `stop` or `length`.
    """

    text: str
    pieces: tuple[str, ...]
    finish_reason: str


def complete(port: Port, answered: AnsweredQuestion, limit: int, stops: Sequence[str]) -> Completion:
    """The answer within a number of tokens, up to the first of the stop texts."""
    texts = _prefixes(port, answered)  # of 1, 2, ... tokens
    reason = "stop"
    if len(texts) > limit:
        texts, reason = texts[:limit], "length"
    elif answered.tokens is not None and len(texts) == len(answered.tokens):
        reason = "length"  # no end of turn within the server's own limit
    text = texts[-1] if texts else ""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    if ends:
        text, reason = text[: min(ends)], "stop"
        texts = [prefix for prefix in texts if len(prefix) < len(text)] + [text] * bool(text)
    starts = ["", *texts][: len(texts)]
    joinable = all(prefix.startswith(start) for start, prefix in zip(starts, texts, strict=True))
    pieces = [prefix[len(start) :] for start, prefix in zip(starts, texts, strict=True)] if joinable else [text]
    return Completion(text, tuple(pieces), reason)


def _prefixes(port: Port, answered: AnsweredQuestion) -> list[str]:
    """The text after each token, up to the last token that adds to it."""
    whole = answered.prediction.after
    if answered.tokens is None:  # of a baseline, which returns a text
        words = whole.split()
        return [" ".join(words[:n]) for n in range(1, len(words))] + [whole] * bool(whole)
    tokens = np.asarray(answered.tokens)
    whole = port.processor.decode(tokens[None])[0]
    texts: list[str] = []
    while (texts[-1] if texts else "") != whole and len(texts) < len(tokens):
        texts.append(port.processor.decode(tokens[None, : len(texts) + 1])[0])
    return texts


def logprobs_content(port: Port, answered: AnsweredQuestion, count: int, top: int) -> list[dict[str, Any]]:
    """The log-probability of each of the first `count` tokens, and the `top` likeliest there."""
    scores, tokens = answered.scores, answered.tokens
    if scores is None or tokens is None:
        return []

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = port.processor.decode(np.array([[token]], tokens.dtype))[0]
        return {"token": text, "logprob": round(max(logprob, -9999.0), DIGITS), "bytes": list(text.encode("utf-8"))}

    return [
        entry(int(tokens[i]), float(scores.chosen[i]))
        | {
            "top_logprobs": [
                entry(token, value)
                for token, value in zip(scores.ids[i, :top].tolist(), scores.values[i, :top].tolist(), strict=True)
            ]
        }
        for i in range(min(count, len(scores.chosen)))
    ]


def rerouting_block(answered: AnsweredQuestion, returned: Sequence[str]) -> dict[str, Any]:
    """The block `r2t2` of a reply."""
    prediction = answered.prediction
    block: dict[str, Any] = {
        "strategy": prediction.strategy,
        "preset": prediction.preset,
        "evaluations": prediction.evaluations,
        "used_fallback": prediction.used_fallback,
        "is_reference": prediction.is_reference,
        "seconds": {name: round(seconds, DIGITS) for name, seconds in prediction.seconds.items()},
        "notes": list(answered.notes),
    }
    if "before" in returned:
        block["before"] = prediction.after if prediction.strategy == "base" else prediction.before
    if "routing" in returned:
        block["routing"] = {
            "layers": list(prediction.layers),
            "experts": list(prediction.experts),
            "before": _numbers(prediction.router_weights),
            "after": _numbers(prediction.weights),
        }
    if "neighbors" in returned:
        weights = _numbers([each.share for each in prediction.neighbors])
        block["neighbors"] = [
            {"id": each.id, "question": each.question, "answer": each.answer, "weight": weight}
            for each, weight in zip(prediction.neighbors, weights, strict=True)
        ]
    if "path" in returned:
        block["path"] = {"weights": _numbers(prediction.path), "losses": _numbers(prediction.losses)}
    if "routes" in returned:
        block["routes"] = answered.routes
    return block


def _numbers(values: Any) -> Any:
    """Nested lists of rounded numbers; `None` for what JSON does not have."""
    numbers = np.asarray(np.round(np.asarray(values, np.float64), DIGITS))
    finite = np.isfinite(numbers)
    if not finite.all():
        numbers = numbers.astype(object)
        numbers[~finite] = None
    return numbers.tolist()


@dataclass(frozen=True)
class Reply:
    """One answered request, as a whole or as a stream.

    Args:
        request: with the settings of the reply.
        model: its name.
        fingerprint: of the model.
        completion: the answer.
        prompt_tokens: of the question.
        logprobs: of the tokens; `None` unless requested.
        block: the block `r2t2`.
    """

    request: ChatRequest
    model: str
    fingerprint: str
    completion: Completion
    prompt_tokens: int
    logprobs: list[dict[str, Any]] | None
    block: dict[str, Any]

    @property
    def usage(self) -> dict[str, int]:
        """Numbers of tokens."""
        count = len(self.completion.pieces)
        both = {"prompt_tokens": self.prompt_tokens, "completion_tokens": count}
        return both | {"total_tokens": self.prompt_tokens + count}

    def _head(self, kind: str) -> dict[str, Any]:
        identity = {"id": f"chatcmpl-{DRAWS.getrandbits(96):024x}", "object": kind, "created": int(time.time())}
        return identity | {"model": self.model, "system_fingerprint": self.fingerprint}

    def whole(self) -> bytes:
        """A `chat.completion`, as JSON."""
        message = {"role": "assistant", "content": self.completion.text, "refusal": None}
        logprobs = None if self.logprobs is None else {"content": self.logprobs, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": self.completion.finish_reason}
        return _json(self._head("chat.completion") | {"choices": [choice], "usage": self.usage, "r2t2": self.block})

    def events(self) -> Iterator[bytes]:
        """Server-sent events: the role, a chunk per token, the end with the block `r2t2`, and usage if requested."""
        head = self._head("chat.completion.chunk")

        def event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": more.pop("logprobs", None), "finish_reason": reason}
            return _event(head | {"choices": [choice]} | more)

        yield event({"role": "assistant", "content": ""})
        for i, piece in enumerate(self.completion.pieces):
            content = (self.logprobs or [])[i : i + 1]
            yield event({"content": piece}, logprobs={"content": content, "refusal": None} if content else None)
        yield event({}, self.completion.finish_reason, r2t2=self.block)
        if self.request.stream_options is not None and self.request.stream_options.include_usage:
            yield _event(head | {"choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _json(content)


def _json(content: dict[str, Any]) -> bytes:
    return to_json(content, inf_nan_mode="null")
