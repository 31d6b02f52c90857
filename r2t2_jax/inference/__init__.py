"""Answers single questions: the function behind `r2t2 answer` and `r2t2_jax.answer(port, image, question)`.

`reporting.answer_report` shows a `Prediction` as text, as a page or in a notebook.

Axis letters: L routed layers, E experts, P points of a path, Q losses.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.inspect import leaked_samples
from r2t2_jax.bank.manifest import fingerprints_of
from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets.images import decode_image, encoded_image, rgb_pixels
from r2t2_jax.errors import R2T2Error, R2T2Warning
from r2t2_jax.evaluation.batch import PreparedBatch, evaluate_batch
from r2t2_jax.evaluation.encode import EncodedQuestions, encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.records import BatchResult, Neighbor, neighbors_of
from r2t2_jax.evaluation.setup import open_bank, with_decoding
from r2t2_jax.inference.reference_cache import own_references
from r2t2_jax.method.needs import REFERENCE_NEEDS
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.search.kernel_regression import FixedRouting
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import BASE, Method, find_preset, own_preset, preset_name
from r2t2_jax.methods import strategy as named_strategy
from r2t2_jax.runs.fingerprint import numerics
from r2t2_jax.runtime.batching import threads_at_a_time, worker_threads
from r2t2_jax.runtime.checks import check_routing, check_seed, check_whole_number
from r2t2_jax.steering.files import Steering, opened_steering
from r2t2_jax.steering.steer import Steer
from r2t2_jax.validation.strategies import check_strategies

BY_HAND = "by hand"
MIN_REPORTED_SECONDS = 1e-3  # opening references that are in memory already is not reported

_BANKS: dict[tuple[Any, ...], ReferenceBank] = {}  # ports' own references, by what they depend on in one process


@dataclass(frozen=True)
class Prediction:
    """One question, answered with the router's own weights and after re-routing.

    Args:
        model, strategy, preset: what answered; the strategy is `by hand` for weights that the caller gave, and `steer`
            for a steering file.
        question, image: the input.
        before, after: the answer with the router's own weights, and the answer after re-routing.
        neighbors: the references of the question with their kernel weights, the nearest first.
        experts, layers: names of the axes of the weights.
        router_weights, weights: routing weights before and after.
        path, losses: the weights after each step and the loss there, for strategies that take steps.
        used_fallback: no neighbor had any weight, so the router's weights were kept.
        evaluations: forward passes that depend on the routing.
        seconds: of each stage; a stage that runs for the first time also compiles.
        is_reference: the same question about the same image is in the bank, with its answer.
    """

    model: str
    strategy: str
    preset: str
    question: str
    image: UInt8[np.ndarray, "height width 3"] | None
    before: str
    after: str
    neighbors: tuple[Neighbor, ...]
    experts: tuple[str, ...]
    layers: tuple[str, ...]
    router_weights: Float[np.ndarray, "L E"]
    weights: Float[np.ndarray, "L E"]
    path: Float[np.ndarray, "P L E"]
    losses: Float[np.ndarray, "Q"]
    used_fallback: bool
    evaluations: int
    seconds: Mapping[str, float]
    is_reference: bool = False


class AnswerOptions(TypedDict, total=False):
    """The types of the keyword arguments of `answer`."""

    strategy: str | Strategy | None
    preset: str | Path | Preset | Mapping[str, Any] | None
    bank: ReferenceBank | str | Path | None
    routing: Any
    steering: Steering | Mapping[str, Any] | str | Path | None
    seed: int
    beams: int | None
    max_new_tokens: int | None


@overload
def answer(port: Port, image: Any, question: str, **options: Unpack[AnswerOptions]) -> Prediction: ...


@overload
def answer(port: Port, image: Any, question: Sequence[str], **options: Unpack[AnswerOptions]) -> list[Prediction]: ...


def answer(
    port: Port,
    image: Any,
    question: str | Sequence[str],
    *,
    strategy: str | Strategy | None = None,
    preset: str | Path | Preset | Mapping[str, Any] | None = None,
    bank: ReferenceBank | str | Path | None = None,
    routing: Any = None,
    steering: Steering | Mapping[str, Any] | str | Path | None = None,
    seed: int = 0,
    beams: int | None = None,
    max_new_tokens: int | None = None,
) -> Prediction | list[Prediction]:
    """Answer a question, or several, with the router's own weights and with re-routed weights.

    Args:
        port: the model.
        image: a path, a PIL image or uint8 pixels [height, width, 3], or `None` for a model that reads text only; for
            several questions a list of images, or one image for all of them.
        question: a text, or a list of texts.
        strategy: a name of `methods.py`, or a `Strategy` with its settings; `ngd` by default.
        preset: settings of a strategy that is given by name: the name of a preset, the file of `r2t2 tune`, a `Preset`,
            or settings that change the paper's; by default the port's own, else the paper's.
        bank: references, or their directory; by default the port's own, which are collected once and kept
            in the user's cache.
        routing: weights [L, E], or [E] for all layers, to answer with instead of a strategy's.
        steering: rules to answer with instead of a strategy: a steering file, or its content.
        seed: of everything that a strategy draws.
        beams: of the beam search, for a model that has one; 1 for greedy answers. By default the port's.
        max_new_tokens: longest answer; by default the port's.

    Returns:
        A `Prediction`, or a list with one per question. Questions go one by one, so one compiled program serves all.

    Raises:
        R2T2Error: the image cannot be read, the question is empty, there is no such strategy or preset, the bank is
            another model's, or the weights or the steering do not fit the model.
    """
    _check_types(port, question, bank)
    check_seed(seed)
    several = not isinstance(question, str)
    questions = [question] if isinstance(question, str) else list(question)
    images = list(image) if several and isinstance(image, list | tuple) else [image] * len(questions)
    samples = _samples(images, questions)
    _warn_of_unknown_words(port, questions)
    decoding = port if beams is None else with_decoding(port, beams)
    if max_new_tokens is not None:
        check_whole_number("max_new_tokens", max_new_tokens, 1)
        decoding = replace(decoding, max_new_tokens=max_new_tokens)
    weights: Float[np.ndarray, "L E"] | None = None
    method: Method
    if routing is not None and strategy is None and steering is None:
        weights = check_weights(port, routing)
    check_alternatives(strategy, preset, bank, routing, steering)
    if steering is not None:
        method, shown, references, seconds = Steer(opened_steering(steering)), "", None, 0.0
        method.check_port(port)
    elif routing is not None:
        method, shown, references, seconds = by_hand(), "", None, 0.0
    else:
        method, shown = _method(port, strategy, preset)
        opened = ReferenceBank.open(bank) if isinstance(bank, str | Path) else bank
        check_strategies({method.name: method}, samples, opened, port, port.name)
        references, seconds = _timed(
            lambda: open_references(port, bank, samples) if _reads_references(method) else None
        )
    strategies: dict[str, Method] = {BASE: named_strategy(BASE), method.name: method}
    evaluator = Evaluator.create(decoding, references, strategies, None, seed)
    leaked = [] if references is None else [sample.id for sample in leaked_samples(references, samples)]
    predictions = [
        replace(_answer(evaluator, sample, method.name, shown, weights), is_reference=sample.id in leaked)
        for sample in samples
    ]
    if seconds > MIN_REPORTED_SECONDS:
        first = predictions[0]
        predictions[0] = replace(first, seconds={"references": seconds, **first.seconds})
    return predictions if several else predictions[0]


def _check_types(port: Any, question: Any, bank: Any) -> None:
    """Refuse arguments of `answer` of other types, with the order of the arguments."""
    if not isinstance(port, Port):
        raise R2T2Error(
            f"port is of type {type(port).__name__}; give a Port, such as r2t2_jax.load('pocket:narrow'); for a loss "
            "function there is r2t2_jax.reroute"
        )
    if not isinstance(question, Iterable):
        raise R2T2Error(
            f"question is of type {type(question).__name__}; give a text or a list of texts (the order is port, image, "
            "question)"
        )
    if bank is not None and not isinstance(bank, ReferenceBank | str | Path):
        raise R2T2Error(f"bank is of type {type(bank).__name__}; give a ReferenceBank or its folder")


def check_alternatives(strategy: Any, preset: Any, bank: Any, routing: Any, steering: Any) -> None:
    """Refuse arguments of `answer` that would not be used; `None` stands for one that is not given.

    Raises:
        R2T2Error: there is another argument besides a steering, or besides routing weights.
    """
    if steering is not None and any(each is not None for each in (strategy, preset, bank, routing)):
        raise R2T2Error("a steering takes the place of strategy, preset, bank and routing weights: leave these out")
    if routing is not None and strategy is not None:
        raise R2T2Error("routing weights given by hand take the place of a strategy: give one or the other")
    if routing is not None and (preset is not None or bank is not None):
        raise R2T2Error("routing weights given by hand read neither a preset nor a bank: leave these out")


def _method(
    port: Port, strategy: str | Strategy | None, preset: str | Path | Preset | Mapping[str, Any] | None
) -> tuple[Strategy, str]:
    """The strategy, and the name of the preset that it has its settings from."""
    if isinstance(strategy, Strategy):
        if preset is not None:
            raise R2T2Error("a Strategy has its settings: give its name with a preset, or the Strategy without one")
        return strategy, "custom"
    chosen = own_preset(port.name, port.presets) if preset is None or preset == "" else preset
    return named_strategy(strategy or "ngd", find_preset(chosen, port.presets)), preset_name(chosen)


def _warn_of_unknown_words(port: Port, questions: Sequence[str]) -> None:
    """Warn of words that the model's processor does not know."""
    if message := note_of_unknown_words(port, questions):
        warnings.warn(message, R2T2Warning, stacklevel=3)


def note_of_unknown_words(port: Port, questions: Sequence[str]) -> str:
    """A line about words that the model's processor does not know; empty without any, or if it cannot tell."""
    unknown: Callable[[str], Sequence[str]] = getattr(port.processor, "unknown_words", lambda question: ())
    words = dict.fromkeys(word for question in questions for word in unknown(question))
    if not words:
        return ""
    listed = ", ".join(map(repr, words))
    return f"{port.name} does not know {listed}: it reads an unknown word there, and may answer anything"


def _samples(images: Sequence[Any], questions: Sequence[str]) -> list[Sample]:
    if not questions:
        raise R2T2Error("there is no question to answer")
    if len(images) != len(questions):
        raise R2T2Error(f"{len(images)} images for {len(questions)} questions: give one image each, or one for all")
    for question in questions:
        if not isinstance(question, str):
            raise R2T2Error(f"a question is of type {type(question).__name__}; give a text")
        if not question.strip():
            raise R2T2Error(f"the question is empty ({question!r}): ask something")
    pixels = {id(image): _pixels(image) for image in images}
    return [
        Sample(id=f"question-{i}", image=pixels[id(image)], question=question, answers=())
        for i, (image, question) in enumerate(zip(images, questions, strict=True), start=1)
    ]


def _pixels(image: Any) -> UInt8[np.ndarray, "height width 3"] | None:
    if image is None:
        return None
    if isinstance(image, str | Path):
        return decode_image(encoded_image(Path(image), "cannot answer"), on_white=True)
    array = rgb_pixels(image, on_white=True) if isinstance(image, Image.Image) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise R2T2Error(
            f"an image is a path, a PIL image or uint8 pixels [height, width, 3], not {array.dtype} {array.shape}"
        )
    return array


def open_references(port: Port, bank: ReferenceBank | str | Path | None, questions: Sequence[Sample]) -> ReferenceBank:
    """A bank, opened if it is a directory; `None` stands for the references that are registered with the port.

    Raises:
        R2T2Error: as `open_bank`.
    """
    if isinstance(bank, ReferenceBank):
        return bank
    if bank is not None:
        return open_bank(port, Path(bank), {}, [], keep_wrong=True)
    key = (*vars(fingerprints_of(port)).values(), port.beams, *numerics().values())
    if key not in _BANKS:
        _BANKS[key] = own_references(port, questions)
    return _BANKS[key]


def _reads_references(strategy: Strategy) -> bool:
    return bool(strategy.needs & REFERENCE_NEEDS)


def by_hand() -> Strategy:
    """The strategy that answers with the weights of `with_weights`."""
    return Strategy(BY_HAND, search=FixedRouting("task"))


def check_weights(port: Port, routing: Any) -> Float[np.ndarray, "L E"]:
    """Weights given by hand as [L, E]; one row is repeated for all layers. Raises `R2T2Error` if they do not fit."""
    layers, experts = port.model.spec.shape
    try:
        weights = np.asarray(routing, np.float32)
    except (TypeError, ValueError) as error:
        raise R2T2Error(f"routing weights must be numbers [{layers}][{experts}] or [{experts}]: {error}") from error
    if weights.shape == (experts,):
        weights = np.broadcast_to(weights, (layers, experts))
    if weights.shape != (layers, experts):
        raise R2T2Error(
            f"routing weights have shape {list(weights.shape)}; this model needs [{layers}][{experts}] (layers, "
            f"experts) or [{experts}] for all layers; experts: {', '.join(port.model.spec.experts)}"
        )
    check_routing("routing by hand", port.model.spec, weights[None])
    return weights


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def _answer(
    evaluator: Evaluator, sample: Sample, name: str, preset: str, weights: Float[np.ndarray, "L E"] | None
) -> Prediction:
    """The prediction for one sample.

    Args:
        evaluator: of `base` and one other strategy.
        sample: the question.
        name: of the other strategy.
        preset: name of its settings.
        weights: routing weights given by hand.
    """
    questions, encoding = _timed(lambda: encode_questions(evaluator.port, [sample], 1))
    if weights is not None:
        questions = with_weights(questions, weights[None])
    batch = evaluator.prepare_batch(questions)
    with worker_threads(threads_at_a_time()) as pool:  # both compile at a time
        before, after = pool.map(lambda key: evaluate_batch(batch, [key])[0], (BASE, name))
    seconds = {"question": encoding, BASE: before.seconds_per_sample, name: after.seconds_per_sample}
    return prediction_of(batch, after, 0, before.predictions[0], preset, seconds)


def prediction_of(
    batch: PreparedBatch, result: BatchResult, row: int, before: str, preset: str, seconds: Mapping[str, float]
) -> Prediction:
    """The prediction for one sample of an evaluated batch.

    Args:
        batch: with the sample.
        result: of one strategy on the batch.
        row: of the sample.
        before: the answer with the router's own weights.
        preset: name of the strategy's settings.
        seconds: of each stage.
    """
    port, sample, own = batch.port, result.samples[row], result.neighbors_of(row)
    records = [batch.neighbors.records[j] for j in result.neighbors[row, own].tolist()]
    return Prediction(
        model=port.name,
        strategy=result.name,
        preset=preset,
        question=sample.question,
        image=sample.image,
        before=before,
        after=result.predictions[row],
        neighbors=neighbors_of(records, result.kernel_weights[row, own]),
        experts=port.model.spec.experts,
        layers=port.model.spec.layer_names,
        router_weights=result.router_weights[row],
        weights=result.weights[row],
        path=result.path[row],
        losses=result.losses[row],
        used_fallback=bool(result.used_fallback[row]),
        evaluations=result.evaluations,
        seconds=seconds,
    )


def with_weights(questions: EncodedQuestions, weights: Float[np.ndarray, "B L E"]) -> EncodedQuestions:
    """The questions with given weights as their task routing, on full support so that the weights stay as they are.

    The strategy `by_hand` answers with them.
    """
    task = jnp.asarray(weights)
    return replace(questions, queries=replace(questions.queries, task_routing=task, support=jnp.ones(task.shape, bool)))
