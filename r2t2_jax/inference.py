"""One question at a time: what `r2t2 answer` and `r2t2_jax.answer(port, image, question)` do.

Axis letters: B questions, L routed layers, E experts, P points of a path, Q losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets.images import decode_image, encoded_image
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import EncodedQuestions, encode_questions
from r2t2_jax.evaluation.evaluator import prepare
from r2t2_jax.evaluation.records import Neighbor, neighbors_of
from r2t2_jax.evaluation.setup import open_bank
from r2t2_jax.method.forward import generate_batch
from r2t2_jax.method.presets import find_preset, own_preset
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.search.mode_finding import ModeFinding
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import strategy as named_strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.batching import take
from r2t2_jax.runtime.checks import check_routing

BASE = "base"
BY_HAND = "by hand"
NOTABLE = 1e-3  # seconds; references that are at hand already are not told of
METRIC = "exact_match"  # decides which of a port's own references count as answered correctly

_BANKS: dict[tuple[str, str], ReferenceBank] = {}  # own references by the fingerprints of model and embedder


@dataclass(frozen=True)
class Prediction:
    """One question before and after re-routing.

    Args:
        model, strategy, preset: what answered; the strategy is `by hand` for weights that were given.
        question, image: what was asked.
        before, after: the answer with the router's own weights, and the new one.
        neighbors: the references that spoke for it, the nearest first; empty without any.
        experts, layers: names of the axes of the weights.
        router_weights, weights: routing weights before and after.
        path, losses: the weights after each step, and the loss there, for strategies that take steps.
        fell_back: no neighbour weighed anything, so the router's weights were kept.
        evaluations: forward passes that depend on the routing.
        seconds: how long each part took; what runs for the first time compiles first.
    """

    model: str
    strategy: str
    preset: str
    question: str
    image: UInt8[np.ndarray, "height width 3"]
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

    def __str__(self) -> str:
        from r2t2_jax.reporting.answer_report import as_text

        return as_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from r2t2_jax.reporting.answer_report import as_html

        return as_html([self])


class Predictions(list[Prediction]):
    """Several questions; prints them one below the other."""

    def __str__(self) -> str:
        return "\n\n".join(map(str, self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from r2t2_jax.reporting.answer_report import as_html

        return as_html(self)


def answer(
    port: Port,
    image: Any,
    question: str | Sequence[str],
    *,
    strategy: str | None = None,
    preset: str | None = None,
    bank: ReferenceBank | str | Path | None = None,
    routing: Any = None,
    seed: int = 0,
) -> Prediction | Predictions:
    """Answer a question, or several, with the router's own weights and with re-routed ones.

    Args:
        port: the model.
        image: a path, a PIL image or uint8 pixels [height, width, 3]; for several questions a list of them, or one that
            all are about.
        question: a text, or a list of them.
        strategy: a name of `strategies.py`; `ngd` by default.
        preset: its numbers; by default the port's own, else the paper's.
        bank: references, or the folder they are in; by default the port's own, collected once a process.
        routing: weights [L, E], or [E] for all layers, to answer with instead of a strategy's.
        seed: of what a strategy draws.

    Returns:
        `Prediction`, or for a list of questions `Predictions`. All go one by one, so one compiled program serves them.

    Raises:
        R2T2Error: the image cannot be read, the question is empty, there is no such strategy or preset, the bank is
            another model's, or the weights do not fit the model.
    """
    several = not isinstance(question, str)
    questions = [question] if isinstance(question, str) else list(question)
    images = list(image) if several and isinstance(image, list | tuple) else [image] * len(questions)
    samples = _samples(images, questions)
    if routing is not None:
        if strategy is not None:
            raise R2T2Error("routing weights given by hand take the place of a strategy: give one or the other")
        by_hand = _by_hand(port, routing)
        answers = Predictions(_answer_by_hand(port, sample, by_hand) for sample in samples)
    else:
        chosen = preset or own_preset(port.name, port.presets)
        plan = named_strategy(strategy or "ngd", find_preset(chosen, port.presets))
        references, seconds = _timed(lambda: _references(port, bank) if _reads_references(plan) else None)
        opened = {"references": seconds} if seconds > NOTABLE else {}
        answers = Predictions(
            _answer(port, references, sample, plan, chosen, seed, {} if number else opened)
            for number, sample in enumerate(samples)
        )
    return answers if several else answers[0]


def _samples(images: Sequence[Any], questions: Sequence[str]) -> list[Sample]:
    if not questions:
        raise R2T2Error("there is no question to answer")
    if len(images) != len(questions):
        raise R2T2Error(f"{len(images)} images for {len(questions)} questions: give one each, or one for all")
    for question in questions:
        if not isinstance(question, str) or not question.strip():
            raise R2T2Error(f"the question is empty ({question!r}): ask something")
    pixels = {id(image): _pixels(image) for image in images}
    return [
        Sample(id=f"question-{i}", image=pixels[id(image)], question=question, answers=())
        for i, (image, question) in enumerate(zip(images, questions, strict=True), start=1)
    ]


def _pixels(image: Any) -> UInt8[np.ndarray, "height width 3"]:
    if isinstance(image, str | Path):
        return decode_image(encoded_image(Path(image), "cannot answer"))
    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise R2T2Error(
            f"an image is a path, a PIL image or uint8 pixels [height, width, 3], not {array.dtype} {array.shape}"
        )
    return array


def _references(port: Port, bank: ReferenceBank | str | Path | None) -> ReferenceBank:
    if isinstance(bank, ReferenceBank):
        return bank
    if bank is not None:
        return open_bank(port, Path(bank), get_metric(METRIC), [], keep_wrong=True)
    key = (port.fingerprint, port.embedder.fingerprint)
    if key not in _BANKS:
        _BANKS[key] = open_bank(port, None, get_metric(METRIC), [], keep_wrong=True)
    return _BANKS[key]


def _reads_references(plan: Strategy) -> bool:
    alone = plan.selector is None and plan.atlas is None and plan.augmentations is None
    return not alone or isinstance(plan.search, ModeFinding)


def _by_hand(port: Port, routing: Any) -> Float[np.ndarray, "L E"]:
    """Weights given by hand, checked; one row for all layers is spread over them."""
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
    port: Port,
    bank: ReferenceBank | None,
    sample: Sample,
    plan: Strategy,
    preset: str,
    seed: int,
    seconds: Mapping[str, float],
) -> Prediction:
    questions, encoding = _timed(lambda: encode_questions(port, [sample], 1))
    answer, neighbors = _answerer(port, bank, questions, plan, seed)
    base, before = _timed(lambda: _on_host(answer(named_strategy(BASE))))
    found, after = _timed(lambda: _on_host(answer(plan)))
    return Prediction(
        **_frame(port, sample),
        strategy=plan.name,
        preset=preset,
        before=port.processor.decode(base["tokens"])[0],
        after=port.processor.decode(found["tokens"])[0],
        neighbors=neighbors_of(neighbors, found["kernel_weights"][0]),
        router_weights=np.asarray(questions.queries.routing)[0],
        weights=found["weights"][0],
        path=found["path"][0],
        losses=found["losses"][0],
        used_fallback=bool(found["used_fallback"][0]),
        evaluations=int(found["evaluations"][0]),
        seconds={**seconds, "question": encoding, BASE: before, plan.name: after},
    )


def _answerer(
    port: Port, bank: ReferenceBank | None, questions: EncodedQuestions, plan: Strategy, seed: int
) -> tuple[Callable[[Strategy], dict[str, Any]], list[Mapping[str, Any]]]:
    """What answers the question with a strategy, and the records of the plan's neighbours."""
    row = np.zeros(1, int)
    if bank is not None:
        strategies = {BASE: named_strategy(BASE), plan.name: plan}
        evaluation = prepare(port, bank, questions, strategies, get_metric(METRIC), seed)
        near = evaluation.lookup.neighbors(plan.name, row)[0].tolist()
        return lambda one: evaluation.answer(one.name, row), [bank.records[j] for j in near]

    def alone(one: Strategy) -> dict[str, Any]:
        queries = questions.queries
        found = reroute_batch(one, port.model, port.params, queries, None, sample_keys(seed, row))
        return {
            "tokens": generate_batch(port, queries.features, found.routing),
            "kernel_weights": np.zeros((1, 0), np.float32),
            "evaluations": np.full(1, found.evaluations),
            **{key: getattr(found, key) for key in ("weights", "path", "losses", "used_fallback")},
        }

    return alone, []


def _answer_by_hand(port: Port, sample: Sample, weights: Float[np.ndarray, "L E"]) -> Prediction:
    questions, encoding = _timed(lambda: encode_questions(port, [sample], 1))
    features = take(questions.queries.features, np.zeros(1, int))
    routing = Routing(jnp.asarray(weights)[None])  # [B, L, E]
    base, before = _timed(lambda: np.asarray(generate_batch(port, features, None)))
    tokens, after = _timed(lambda: np.asarray(generate_batch(port, features, routing)))
    return Prediction(
        **_frame(port, sample),
        strategy=BY_HAND,
        preset="",
        before=port.processor.decode(base)[0],
        after=port.processor.decode(tokens)[0],
        neighbors=(),
        router_weights=np.asarray(questions.queries.routing)[0],
        weights=weights,
        path=weights[None],
        losses=np.zeros(0, np.float32),
        used_fallback=False,
        evaluations=1,
        seconds={"question": encoding, BASE: before, BY_HAND: after},
    )


def _frame(port: Port, sample: Sample) -> dict[str, Any]:
    """What does not depend on how it was answered."""
    spec = port.model.spec
    return {
        "model": port.name,
        "question": sample.question,
        "image": sample.image,
        "experts": spec.experts,
        "layers": spec.layer_names,
    }


def _on_host(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in found.items()}  # waits until it is computed
