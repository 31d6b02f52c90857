"""Answers groups of questions with one strategy, by the evaluator that every command calls.

Axis letters: B questions of a group, L routed layers, E experts, A answer tokens, a places that a model scores.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.inspect import reference_test
from r2t2_jax.contract import LogprobModel, Port, Sample, Turn
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import PreparedBatch
from r2t2_jax.evaluation.encode import EncodedQuestions, PreparedQuestions, encode_prepared
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.records import BatchResult
from r2t2_jax.inference import (
    BY_HAND,
    Prediction,
    by_hand,
    check_weights,
    note_of_unknown_words,
    prediction_of,
    with_weights,
)
from r2t2_jax.method.forward import logprobs_of_tokens, sample_tokens
from r2t2_jax.method.needs import REFERENCE_NEEDS, Need
from r2t2_jax.method.presets import PRESETS
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import BASE, METHODS, Method, find_preset, method_of, own_preset
from r2t2_jax.rivals.base import reads_references
from r2t2_jax.routes.record import record_samples
from r2t2_jax.runtime.batching import run_batch, take
from r2t2_jax.serve.schemas import MAX_TOP_LOGPROBS, ApiError, Rerouting, without_folders
from r2t2_jax.steering.files import parse_steering
from r2t2_jax.steering.steer import STEER, Steer
from r2t2_jax.validation.strategies import check_strategies

EVALUATORS = 16  # strategies with settings that are ready; the least recently used is dropped
NAME = "question-1"  # of the sample of a request
UNSERVED = ("warmup",)  # trains parameters for every question, which takes minutes


@dataclass(frozen=True)
class RoutingChoice:
    """A strategy with its settings; in its place `routing`, weights given by hand, or a steering with its digest."""

    strategy: str
    preset: str
    method: Method
    routing: Float[np.ndarray, "L E"] | None = None
    digest: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Choices of equal keys have the same evaluator."""
        return self.strategy, self.preset, self.digest


@dataclass(frozen=True)
class ServedQuestion:
    """A request, ready for the model.

    Args:
        choice: how to re-route.
        prepared: the sample with its inputs; every leaf has a leading axis 1.
        temperature: of sampling; 0 is greedy.
        seed: of sampling.
        logprobs: also score the tokens of the answer.
        before: also answer with the router's own weights.
        routes: also record the experts of each token.
        notes: remarks for the reply.
        seconds: of each stage so far.
    """

    choice: RoutingChoice
    prepared: PreparedQuestions
    temperature: float = 0.0
    seed: int = 0
    logprobs: bool = False
    before: bool = False
    routes: bool = False
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def group(self) -> tuple[Any, ...]:
        """Questions of equal groups can share a compiled program, and are answered together."""
        leaves, structure = jax.tree.flatten(self.prepared.inputs)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        return (self.choice.key, self.temperature > 0, self.logprobs, self.before, self.routes, str(structure), shapes)


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities of an answer's tokens, and the likeliest tokens at each place with theirs."""

    chosen: Float[np.ndarray, "a"]
    ids: Int[np.ndarray, "a top"]
    values: Float[np.ndarray, "a top"]


@dataclass(frozen=True)
class AnsweredQuestion:
    """An answered question; `tokens` is `None` for a baseline that returns a text."""

    prediction: Prediction
    tokens: Int[np.ndarray, "A"] | None
    scores: TokenScores | None
    routes: Mapping[str, Any] | None
    notes: tuple[str, ...]
    prompt_tokens: int


class Engine:
    """A model with its references and all strategies that can be served.

    Args:
        port: the model.
        bank: its references; `None` to serve strategies that read none.
        strategy: answers where a request names none.
        preset: name or file of its settings; by default the model's own.
        vmap_size: questions that the device computes together.
    """

    def __init__(
        self, port: Port, bank: ReferenceBank | None, strategy: str, preset: str | None = None, vmap_size: int = 1
    ) -> None:
        self.port, self.bank, self.vmap_size = port, bank, vmap_size
        self.own = own_preset(port.name, port.presets)
        self._preset = preset or self.own
        self.strategies = _served(port, bank)
        if strategy not in self.strategies:
            check_strategies({strategy: method_of(strategy)}, [], bank, port, port.name)
            raise R2T2Error(f"{strategy} cannot be served; choose one of {', '.join(self.strategies)}")
        self.strategy = strategy
        self._scores_tokens = isinstance(port.model, LogprobModel) and port.beams == 1
        self.presets = (*PRESETS, *(name for name in port.presets if name not in PRESETS))
        self._is_reference = (lambda sample: False) if bank is None else reference_test(bank)
        self._evaluators: OrderedDict[tuple[str, str, str], Evaluator] = OrderedDict()
        self._named = cache(self._named_choice)  # there are as many as strategies times presets
        self._lock = threading.Lock()
        self.choose(Rerouting())  # an error in the settings ends the start

    def choose(self, rerouting: Rerouting) -> RoutingChoice:
        """The strategy of a request with its settings.

        Raises:
            ApiError: 400, with the field, for what is not served.
        """
        for field_name, others in (("steer", ("strategy", "preset", "routing")), ("routing", ("strategy", "preset"))):
            if getattr(rerouting, field_name) is None:
                continue
            for name in others:
                if getattr(rerouting, name) is not None:
                    message = f"{field_name} takes the place of a strategy: leave {name} out"
                    raise ApiError(400, message, f"r2t2.{name}", "invalid_value")
        if rerouting.steer is not None:
            return self._steered(rerouting.steer)
        if rerouting.routing is not None:
            return self._by_hand(rerouting.routing)
        name = self.strategy if rerouting.strategy is None else rerouting.strategy
        if name not in self.strategies:
            message = f"unknown strategy {name[:80]!r}; choose one of {', '.join(self.strategies)}"
            raise ApiError(400, message, "r2t2.strategy", "invalid_value")
        if rerouting.preset is None:
            preset = self._preset
        elif rerouting.preset in self.presets:  # a name, never a file
            preset = rerouting.preset
        else:
            message = f"unknown preset {rerouting.preset[:80]!r}; choose one of {', '.join(self.presets)}"
            raise ApiError(400, message, "r2t2.preset", "invalid_value")
        return self._named(name, preset)

    def _named_choice(self, name: str, preset: str) -> RoutingChoice:
        return RoutingChoice(name, preset, method_of(name, find_preset(preset, self.port.presets)))

    def _steered(self, content: Mapping[str, Any]) -> RoutingChoice:
        try:
            steering = parse_steering(content, "steer")
            steer = Steer(steering)
            steer.check_port(self.port)
        except R2T2Error as error:
            raise ApiError(400, without_folders(str(error)), "r2t2.steer", "invalid_value") from None
        return RoutingChoice(STEER, "", steer, digest=steering.digest)

    def _by_hand(self, routing: list[Any]) -> RoutingChoice:
        rows = routing if routing and isinstance(routing[0], list) else [routing]
        numbers = [value for row in rows for value in (row if isinstance(row, list) else [row])]
        if not numbers or any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
            raise ApiError(400, "routing is a list of numbers, or of lists of numbers", "r2t2.routing", "invalid_type")
        try:
            weights = check_weights(self.port, routing)
        except (R2T2Error, OverflowError) as error:
            raise ApiError(400, without_folders(str(error)), "r2t2.routing", "invalid_value") from None
        return RoutingChoice(BY_HAND, "", by_hand(), weights)

    def prepare(
        self,
        choice: RoutingChoice,
        turns: Sequence[Turn],
    ) -> ServedQuestion:
        """The inputs of the model for a question, computed on the host.

        Args:
            choice: how to re-route.
            turns: the question as the last one, whose text is embedded; instructions and earlier turns in front.

        Raises:
            ApiError: 400, the model cannot read the question.
        """
        start = time.perf_counter()
        port, question = self.port, _text(turns[-1:])
        sample = self._as_sample(choice, turns)
        text = _text(turns) if sample.conversation else sample.question
        fits = getattr(port.processor, "fits", lambda question: True)
        if not question.strip():
            raise ApiError(400, "the question is empty: ask something", "messages", "invalid_value")
        if not fits(text):
            message = f"the question is too long for {port.name}"
            raise ApiError(400, message, "messages", "context_length_exceeded")
        try:
            inputs = port.processor.prepare(port.params, [sample])
            embeddings = port.embedder.embed([question])
        except R2T2Error as error:
            raise ApiError(400, without_folders(str(error)), "messages", "invalid_value") from None
        notes = tuple(filter(None, (note_of_unknown_words(port, [text]),)))
        prepared = PreparedQuestions((sample,), inputs, embeddings)
        return ServedQuestion(choice, prepared, notes=notes, seconds={"host": time.perf_counter() - start})

    def _as_sample(self, choice: RoutingChoice, turns: Sequence[Turn]) -> Sample:
        """The sample of a conversation. Models without a chat template take instructions in front of the question.

        Raises:
            ApiError: 400, the model or the strategy reads one question about one image.
        """
        images = [part for turn in turns for part in turn.parts if not isinstance(part, str)]
        image, question = images[0] if images else None, _text(turns[-1:])
        if len(turns) == 1 and len(images) < 2:
            return Sample(NAME, image, question, ())
        name, method, reason = self.port.name, choice.method, ""
        if getattr(self.port.processor, "reads_conversations", False):
            if isinstance(method, Steer) or (isinstance(method, Strategy) and method.augmentations is None):
                return Sample(NAME, image, question, (), conversation=tuple(turns))
            reason = f"{choice.strategy} reads a single question: leave earlier messages and further images out"
        elif any(turn.role != "system" for turn in turns[:-1]):
            reason = f"{name} answers a question without earlier turns: leave them out"
        elif len(images) > 1:
            reason = f"{name} reads one image; {len(images)} were given"
        if reason:
            raise ApiError(400, reason, "messages", "unsupported_parameter")
        return Sample(NAME, image, _text(turns), ())

    def check_decoding(self, choice: RoutingChoice, temperature: float, logprobs: bool) -> None:
        """Refuse what the model cannot decode.

        Raises:
            ApiError: 400.
        """
        port = self.port
        if self._scores_tokens and isinstance(choice.method, Strategy):
            return
        for name, wanted in (("temperature", temperature > 0), ("logprobs", logprobs)):
            if wanted:
                message = f"{choice.strategy} on {port.name} returns no probabilities: leave {name} out"
                raise ApiError(400, message, name, "unsupported_parameter")

    def answer(self, questions: Sequence[ServedQuestion]) -> list[AnsweredQuestion]:
        """Answer questions of one group. The answer to a question does not depend on the others.

        Raises:
            R2T2Error: the model, the bank or a question cannot be used.
        """
        first, n = questions[0], len(questions)
        began = time.perf_counter()
        encoded = self._encode(questions)
        encoding = (time.perf_counter() - began) / n
        batch = self._evaluator(first.choice).prepare_batch(encoded, np.zeros(n, int))
        names = [BASE] if first.before and first.choice.strategy != BASE else []
        outputs, results = {}, {}
        for name in (*names, first.choice.strategy):
            began = time.perf_counter()
            outputs[name] = run_batch(partial(batch.answer, name), 0, n, n)
            if name == first.choice.strategy and first.temperature > 0:
                outputs[name]["tokens"] = self._sample(batch, questions, outputs[name])
            results[name] = batch.score(name, outputs[name], seconds=(time.perf_counter() - began) / n)
        return self._answers(questions, batch, outputs[first.choice.strategy], results, encoding)

    def _encode(self, questions: Sequence[ServedQuestion]) -> EncodedQuestions:
        """All questions, encoded; their inputs have equal shapes."""
        prepared = [question.prepared for question in questions]
        inputs = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(each.inputs for each in prepared))
        embeddings = np.concatenate([np.asarray(each.embeddings) for each in prepared])
        joined = PreparedQuestions(tuple(each.samples[0] for each in prepared), inputs, embeddings)
        with tqdm(disable=True) as progress:
            encoded = encode_prepared(self.port, joined, len(questions), progress, vmap_size=self.vmap_size)
        by_hand = [question.choice.routing for question in questions if question.choice.routing is not None]
        return with_weights(encoded, np.stack(by_hand)) if by_hand else encoded

    def _evaluator(self, choice: RoutingChoice) -> Evaluator:
        """The evaluator of a strategy and of `base`, created at its first use."""
        key = choice.key
        with self._lock:
            if key in self._evaluators:
                self._evaluators.move_to_end(key)
                return self._evaluators[key]
        method = choice.method
        reads = bool(method.needs & REFERENCE_NEEDS) if isinstance(method, Strategy) else reads_references(method)
        strategies = {BASE: method_of(BASE), choice.strategy: method}
        bank = self.bank if reads else None
        evaluator = Evaluator.create(self.port, bank, strategies, None, vmap_size=self.vmap_size)
        with self._lock:
            self._evaluators[key] = evaluator
            while len(self._evaluators) > EVALUATORS:
                self._evaluators.popitem(last=False)
        return evaluator

    def _sample(
        self, batch: PreparedBatch, questions: Sequence[ServedQuestion], output: Mapping[str, Any]
    ) -> Int[np.ndarray, "B A"]:
        keys = jnp.stack([jax.random.key(question.seed % 2**32) for question in questions])
        temperatures = jnp.asarray([question.temperature for question in questions], jnp.float32)
        drawn = sample_tokens(
            self.port.params, _on_device(batch.queries.features), output["routing"], output["tokens"],
            keys, temperatures, model=self._logprob_model,
        )  # fmt: skip
        return np.asarray(drawn)

    @property
    def _logprob_model(self) -> LogprobModel:
        assert isinstance(self.port.model, LogprobModel)  # `check_decoding` checks it
        return self.port.model

    def _scores(self, batch: PreparedBatch, output: Mapping[str, Any]) -> list[TokenScores]:
        arrays = logprobs_of_tokens(
            self.port.params, _on_device(batch.queries.features), output["routing"], output["tokens"],
            model=self._logprob_model, top=MAX_TOP_LOGPROBS,
        )  # fmt: skip
        chosen, ids, values = map(np.asarray, arrays)
        return [TokenScores(*row) for row in zip(chosen, ids, values, strict=True)]

    def _answers(
        self,
        questions: Sequence[ServedQuestion],
        batch: PreparedBatch,
        output: Mapping[str, Any],
        results: Mapping[str, BatchResult],
        encoding: float,
    ) -> list[AnsweredQuestion]:
        first, name = questions[0], questions[0].choice.strategy
        scores = self._scores(batch, output) if first.logprobs else [None] * len(questions)
        routes = self._routes(questions, output) if first.routes else [None] * len(questions)
        answers = []
        for i, question in enumerate(questions):
            seconds = {**question.seconds, "question": encoding}
            seconds |= {key: result.seconds_per_sample for key, result in results.items()}
            before = results[BASE].predictions[i] if BASE in results else ""
            prediction = prediction_of(batch, results[name], i, before, self.preset_label(question.choice), seconds)
            sample = question.prepared.samples[0]
            prediction = replace(prediction, is_reference=not sample.conversation and self._is_reference(sample))
            tokens = output["tokens"][i] if "tokens" in output else None
            size = prompt_tokens(question.prepared)
            answers.append(AnsweredQuestion(prediction, tokens, scores[i], routes[i], question.notes, size))
        return answers

    def preset_label(self, choice: RoutingChoice) -> str:
        """The name of a choice's settings; a file of the operator is `custom`."""
        return choice.preset if choice.preset in (*self.presets, "") else "custom"

    def _routes(self, questions: Sequence[ServedQuestion], output: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The experts of each token of prompt and greedy answer under the routing of the reply; those of the router for
        a baseline that imposes none.
        """
        method, routing = questions[0].choice.method, output.get("routing")
        steering = method.steering if isinstance(method, Steer) else None
        untouched = output.get("untouched", np.zeros(len(questions), bool))
        recorded = []
        for i, question in enumerate(questions):
            own = None if routing is None or untouched[i] else take(routing, np.array([i]))
            sample = question.prepared.samples[0]
            recorded += record_samples(self.port, [sample], "", "all", False, 1, steering, own)
        return [
            {
                "answer": routes.prediction,
                "kinds": list(routes.kinds),
                "tokens": routes.tokens.tolist(),
                "experts": routes.experts.tolist(),
                "weights": np.asarray(routes.weights, np.float32).round(6).tolist(),
            }
            for routes in recorded
        ]


def prompt_tokens(prepared: PreparedQuestions) -> int:
    """Tokens of a question's prompt by the mask of the model's inputs; words where the inputs have no mask."""
    inputs = prepared.inputs
    for owner in (getattr(inputs, "prompt", inputs), inputs):
        mask = owner.get("mask") if isinstance(owner, dict) else getattr(owner, "mask", None)
        if mask is not None:
            return int(np.asarray(mask, bool).sum())
    return len(prepared.samples[0].question.split())


def _text(turns: Sequence[Turn]) -> str:
    """The texts of some turns, a line or more for each."""
    return "\n".join(part for turn in turns for part in turn.parts if isinstance(part, str))


def _on_device(features: Any) -> Any:
    return jax.device_put(features)


def _served(port: Port, bank: ReferenceBank | None) -> tuple[str, ...]:
    """The strategies that answer unlabeled questions with this model and bank, without training."""
    unlabeled = Sample(NAME, None, "", ())
    names = []
    for name in METHODS:
        method = method_of(name)
        needs = method.needs if isinstance(method, Strategy) else frozenset({Need.NEIGHBORS})
        trains = Need.FINETUNED_ROUTING in needs or (method.atlas is not None and method.atlas.source == "mlp")
        if trains or name in UNSERVED or (bank is None and needs & REFERENCE_NEEDS):
            continue
        try:
            check_strategies({name: method}, [unlabeled], bank, port, port.name)
        except R2T2Error:
            continue
        names.append(name)
    return tuple(names)
