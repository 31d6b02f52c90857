"""Checks that a port keeps the contract of a model (docs/design.md, section 2), on a few questions.

`check_shapes` only traces. It runs once for every port that is not of this package, before its first questions are
encoded. `r2t2 check` also runs the model (`run_checks`).

Axis letters: B samples, L routed layers, E experts, T tokens, A answer tokens, C candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.contract import Answer, Features, Port, Sample, check_methods, support_of
from r2t2_jax.costs.jaxpr import depends_on_first_input
from r2t2_jax.errors import R2T2Error
from r2t2_jax.functional.arrays import loss_depends_on_routing, losses_at_weights
from r2t2_jax.method.forward import encode_batch, generate_batch
from r2t2_jax.plugins import PORTS, entries
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.checks import (
    SHARES,
    check_embeddings,
    check_finite,
    check_params,
    check_rows,
    check_weights,
    first_line,
    tracing_hint,
)
from r2t2_jax.runtime.pytrees import shapes_text

DISTRIBUTION = "r2t2-jax"
TRACED_SAMPLES = 2
CLOSE = 1e-3  # relative difference of two numbers that counts as none: rounding in batches of another size
QUESTIONS = ("What is shown?", "What is the largest object in the picture?", "How many are there?")  # without --data
_TRACED: set[tuple[Any, str]] = set()  # models and fingerprints that were checked in this process


@dataclass(frozen=True)
class CheckResult:
    """One check: its result in a few words, or the problem."""

    name: str
    result: str
    problem: str = ""


def built_in_samples(image: bool) -> list[Sample]:
    """Questions for a port whose own are not known, with small random images or without."""
    rng = np.random.default_rng(0)
    return [
        Sample(f"check-{i}", rng.integers(0, 256, (48, 64, 3), np.uint8) if image else None, question, ("yes",))
        for i, question in enumerate(QUESTIONS)
    ]


def check_foreign(port: Port, samples: Sequence[Sample]) -> None:
    """Run `check_shapes` on the first samples, once per process, unless the port is one of this package.

    Raises:
        R2T2Error: as `check_shapes`.
    """
    own = {entry.module.partition(".")[0] for entry in _entries_of_this_package()}
    if type(port.model).__module__.partition(".")[0] in own or (port.model, port.fingerprint) in _TRACED:
        return
    for check in check_shapes(port, samples[:TRACED_SAMPLES]):
        if check.problem:
            raise R2T2Error(f"{port.name}: {check.problem} (r2t2 check tests a port)")
    if all(sample.answers for sample in samples[:TRACED_SAMPLES]):  # else the loss is checked with later samples
        _TRACED.add((port.model, port.fingerprint))


@cache  # reading the metadata of all packages takes as long as answering ten questions
def _entries_of_this_package() -> list[Any]:
    return [entry for entry in entries(PORTS) if entry.dist is not None and entry.dist.name == DISTRIBUTION]


def check_shapes(port: Port, samples: Sequence[Sample]) -> list[CheckResult]:
    """The checks that run no model: methods, inputs, and the shapes of what each method returns."""
    return _run(_Probe(port, list(samples)), TRACED)


def run_checks(port: Port, samples: Sequence[Sample]) -> list[CheckResult]:
    """All checks; those that run the model only if its shapes are right."""
    probe = _Probe(port, list(samples))
    checks = _run(probe, TRACED)
    return checks if any(check.problem for check in checks) else checks + _run(probe, EVALUATED)


def _run(probe: _Probe, checks: dict[str, Callable[[_Probe], str]]) -> list[CheckResult]:
    """The checks up to the first that fails: the others read what it gives."""
    results: list[CheckResult] = []
    for name, check in checks.items():
        try:
            results.append(CheckResult(name, check(probe)))
        except R2T2Error as error:
            return [*results, CheckResult(name, "", str(error))]
        except Exception as error:
            hint = tracing_hint(error)
            text = f"{name} fails with {type(error).__name__}: {first_line(error)}" + (f"; {hint}" if hint else "")
            return [*results, CheckResult(name, "", text)]
    return results


@dataclass(frozen=True)
class _Probe:
    """A port and its questions, with what several checks read."""

    port: Port
    samples: list[Sample]

    @cached_property
    def inputs(self) -> Any:
        return self.port.processor.prepare(self.port.params, self.samples)

    @cached_property
    def labels(self) -> Answer | None:
        """The first answers of the samples; `None` if one has none."""
        if not all(sample.answers for sample in self.samples):
            return None
        return self.port.processor.answer_ids([sample.answers[0] for sample in self.samples])

    @cached_property
    def features(self) -> Features:
        """Shapes of the features of one sample."""
        return jax.eval_shape(self.port.model.encode, self.port.params, _first(self.inputs))

    @cached_property
    def tokens(self) -> jax.ShapeDtypeStruct:
        """The shape of a generated answer."""
        port = self.port
        return jax.eval_shape(
            lambda p, f: port.model.generate(p, f, None, port.max_new_tokens), port.params, self.features
        )

    @property
    def weights(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.port.model.spec.shape, jnp.float32)

    def loss(self, params: Any, features: Features, weights: Float[Array, "L E"] | None, answer: Answer) -> Any:
        routing = None if weights is None else Routing(weights)
        return self.port.model.answer_loss(params, features, routing, answer)

    @cached_property
    def encoded(self) -> tuple[Features, Float[np.ndarray, "B L E"]]:
        """Features and router weights of all samples."""
        return jax.tree.map(np.asarray, encode_batch(self.port.params, self.inputs, model=self.port.model))

    @cached_property
    def support(self) -> Bool[np.ndarray, "B L E"]:
        features, routing = self.encoded
        return np.asarray(support_of(self.port.model, features, jnp.asarray(routing)))

    @cached_property
    def answered(self) -> Int[np.ndarray, "B A"]:
        """The untouched model's answers."""
        return np.asarray(generate_batch(self.port, jax.tree.map(jnp.asarray, self.encoded[0]), None))


def _methods(probe: _Probe) -> str:
    check_methods(probe.port)
    check_params(probe.port.params)
    layers, experts = probe.port.model.spec.shape
    return f"all methods are there; {layers} x {experts} routing weights"


def _prepare(probe: _Probe) -> str:
    check_rows("prepare: inputs", probe.inputs, len(probe.samples))
    return f"inputs {shapes_text(_first(probe.inputs))} of each sample"


def _answer_ids(probe: _Probe) -> str:
    if probe.labels is None:
        return "not checked, the questions have no answers"
    check_rows("answer_ids", probe.labels, len(probe.samples))
    return f"answers {shapes_text(_first(probe.labels))}"


def _embed(probe: _Probe) -> str:
    vectors = probe.port.embedder.embed([sample.question for sample in probe.samples])
    check_embeddings("question embeddings", vectors)
    check_rows("question embeddings", vectors, len(probe.samples))
    return f"unit vectors of {vectors.shape[1]} numbers"


def _encode(probe: _Probe) -> str:
    return f"features {shapes_text(probe.features)}"


def _route(probe: _Probe) -> str:
    weights = jax.eval_shape(lambda p, f: probe.port.model.route(p, f), probe.port.params, probe.features)
    _check_weights(probe, "route", weights)
    return f"weights {shapes_text(weights)}"


def _check_weights(probe: _Probe, name: str, weights: Any) -> None:
    """Refuse anything but an array [L, E]; per-token gates are named."""
    layers, experts = probe.port.model.spec.shape
    shape = getattr(weights, "shape", None)
    if shape == (layers, experts):
        return
    needed = f"[{layers} layers, {experts} experts]"
    if shape is None or not shape or shape[-1] != experts:
        names = ", ".join(probe.port.model.spec.experts[:8])
        raise R2T2Error(f"{name} returns {shapes_text(weights)}; it must return {needed}, a weight per expert: {names}")
    extra = list(shape[:-1])
    if layers in extra:
        extra.remove(layers)
    if len(extra) == 1 and extra[0] > 1:
        layers_instead = f" (if these are layers, the RoutingSpec has layers={extra[0]})" if len(shape) == 2 else ""
        raise R2T2Error(
            f"{name} returns per-token gates {list(shape)}, {extra[0]} tokens; it must return {needed}: average the "
            "gates over the tokens (without padding), and let the weights that are set replace the gates of every token"
            f"{layers_instead}"
        )
    if len(shape) == 1:
        raise R2T2Error(f"{name} returns {list(shape)}; it must return {needed}, a row per layer, also for one layer")
    raise R2T2Error(f"{name} returns {list(shape)}; it must return {needed}, of one sample without a batch axis")


def _support(probe: _Probe) -> str:
    support = getattr(probe.port.model, "support", None)
    if support is None:
        return "all experts of the spec, for every sample"
    mask = jax.eval_shape(support, probe.features)
    _check_weights(probe, "support", mask)
    if mask.dtype != jnp.bool_:
        raise R2T2Error(f"support returns {mask.dtype}; it must return true for the experts that may have weight")
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), probe.features)
    several = jax.eval_shape(support, batch)
    if several.shape != (2, *mask.shape):
        raise R2T2Error(
            f"support returns {list(several.shape)} for the features of 2 samples; it must return {[2, *mask.shape]}: "
            "it takes one sample's features or a batch's"
        )
    return "a mask of each sample"


def _answer_loss(probe: _Probe) -> str:
    if probe.labels is None:
        return "not checked, the questions have no answers"
    answer, params = _first(probe.labels), probe.port.params
    for weights in (probe.weights, None):
        try:
            loss = jax.eval_shape(probe.loss, params, probe.features, weights, answer)
        except (AttributeError, TypeError) as error:
            if weights is not None:
                raise
            raise R2T2Error(
                f"answer_loss fails with routing=None, which stands for the gate's own weights ({error})"
            ) from error
        if getattr(loss, "shape", None) != ():
            raise R2T2Error(
                f"answer_loss returns {shapes_text(loss)}; it must return one number, the mean over the answer's tokens"
            )
    traced = jax.make_jaxpr(lambda w, p, f, a: probe.loss(p, f, w, a))(probe.weights, params, probe.features, answer)
    if not depends_on_first_input(traced.jaxpr):
        raise R2T2Error(
            "answer_loss does not depend on the routing weights: it never reads them. Pass `routing` on to the layers, "
            "where its values take the place of the gate's"
        )
    return "one number, which reads the routing weights"


def _generate(probe: _Probe) -> str:
    tokens, most = probe.tokens, probe.port.max_new_tokens
    if getattr(tokens, "ndim", None) != 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise R2T2Error(
            f"generate returns {shapes_text(tokens)}; it must return the tokens of one answer, whole numbers [A]"
        )
    if len(tokens.shape) and tokens.shape[0] > most:
        raise R2T2Error(f"generate returns {tokens.shape[0]} tokens; max_new_tokens is {most}")
    return f"{tokens.shape[0]} tokens"


def _answer_logprobs(probe: _Probe) -> str:
    if probe.labels is None:
        return "not checked, the questions have no answers"
    candidates = jax.tree.map(lambda leaf: jnp.stack([leaf[0], leaf[0], leaf[0]]), probe.labels)
    logprobs = jax.eval_shape(
        lambda p, f: probe.port.model.answer_logprobs(p, f, None, candidates), probe.port.params, probe.features
    )
    if getattr(logprobs, "shape", None) != (3,):
        raise R2T2Error(
            f"answer_logprobs returns {shapes_text(logprobs)} for 3 candidates; it must return one number each"
        )
    return "one number per candidate"


def _as_answer(probe: _Probe) -> str:
    answer = jax.eval_shape(probe.port.model.as_answer, probe.tokens)
    loss = jax.eval_shape(probe.loss, probe.port.params, probe.features, probe.weights, answer)
    if getattr(loss, "shape", None) != ():
        raise R2T2Error(f"answer_loss returns {shapes_text(loss)} for a generated answer; it must return one number")
    return "generated tokens can be scored"


def _routing_weights(probe: _Probe) -> str:
    features, routing = probe.encoded
    check_finite("features", features)
    check_weights("route", routing, probe.port.model.spec, remedy=SHARES)
    outside = (routing != 0) & ~probe.support
    if outside.any():
        raise R2T2Error("route gives weight to experts outside the support")
    return f"shares between {routing.min():.2g} and {routing.max():.2g}"


def _dependence(probe: _Probe) -> str:
    if probe.labels is None:
        return "not checked, the questions have no answers"
    features, routing = probe.encoded
    if not loss_depends_on_routing(probe.port.model, probe.port.params, features, probe.labels, routing, probe.support):
        raise R2T2Error(
            "answer_loss does not depend on the routing weights: the loss is the same at the router's weights, at half "
            "of them, at equal weights and at single experts"
        )
    answer, first = _first(probe.labels), jax.tree.map(jnp.asarray, _first(features))
    slope_of = jax.jit(jax.grad(lambda w, p, f, a: probe.loss(p, f, w, a)))
    slope = slope_of(jnp.asarray(routing[0]), probe.port.params, first, answer)
    if not np.asarray(slope).any():
        return "changes with the weights, but its gradient is zero: use the atlas, gradient descent does not move"
    return "changes with the routing weights"


def _decode(probe: _Probe) -> str:
    texts = probe.port.processor.decode(probe.answered)
    if len(texts) != len(probe.samples) or not all(isinstance(text, str) for text in texts):
        shown = " ".join(f"{texts!r:.80}".split())
        raise R2T2Error(f"decode returns {shown}; it must return one text per row of tokens")
    return ", ".join(repr(text[:20]) for text in texts[:3])


def _round_trip(probe: _Probe) -> str:
    """An answer that is decoded and read again has the loss of the generated tokens."""
    port, (features, routing) = probe.port, probe.encoded
    texts = port.processor.decode(probe.answered)
    if not all(texts):
        return "not checked, an answer is empty"
    generated = jax.vmap(port.model.as_answer)(jnp.asarray(probe.answered))
    try:
        read = port.processor.answer_ids(texts)
    except Exception as error:
        raise R2T2Error(
            f"answer_ids cannot read the answers that decode returns, {texts[0]!r} first ({type(error).__name__}: "
            f"{first_line(error)}): decode returns the text before the end-of-turn token, as answers are written"
        ) from error
    arrays = jax.tree.map(jnp.asarray, (features, routing[:, None]))
    first, second = (
        np.asarray(losses_at_weights(port.params, arrays[0], answers, arrays[1], model=port.model))[:, 0]
        for answers in (generated, jax.tree.map(jnp.asarray, read))
    )
    different = np.abs(first - second) > CLOSE * np.maximum(np.abs(first), 1)
    cut = _cut(probe, texts) if different.all() else np.zeros(len(texts), bool)
    if cut.all():
        return f"not checked, the answers are longer than max_new_tokens, {port.max_new_tokens}"
    if different.all():
        row = int(cut.argmin())
        raise R2T2Error(
            f"the answer {texts[row]!r} has loss {first[row]:.4g} as generated tokens (as_answer) and "
            f"{second[row]:.4g} as answer_ids reads its text: both must give the same tokens, end-of-turn token and "
            "mask included"
        )
    if different.any():
        return f"{int((~different).sum())} of {len(texts)} answers have the same loss as text and as tokens"
    return "answers have the same loss as text and as tokens"


def _cut(probe: _Probe, texts: Sequence[str]) -> Bool[np.ndarray, "B"]:
    """Which answers go on if twice as many tokens are allowed: their text has no end-of-turn token."""
    port = dataclasses.replace(probe.port, max_new_tokens=2 * probe.port.max_new_tokens)
    longer = port.processor.decode(np.asarray(generate_batch(port, jax.tree.map(jnp.asarray, probe.encoded[0]), None)))
    return np.array([text != more for text, more in zip(texts, longer, strict=True)])


def _batch(probe: _Probe) -> str:
    """Each sample has the same weights and answer in a batch of one, in its own length bucket, as among the others."""
    port, (_, routing) = probe.port, probe.encoded
    for i, sample in enumerate(probe.samples):
        inputs = port.processor.prepare(port.params, [sample])
        features, single = encode_batch(port.params, inputs, model=port.model)
        if not np.allclose(np.asarray(single)[0], routing[i], rtol=CLOSE, atol=CLOSE):
            raise R2T2Error(
                f"the routing weights of {sample.id!r} differ between a batch of one and one of {len(probe.samples)}: "
                "is padding masked, and is nothing normalized over the batch?"
            )
        if port.processor.decode(np.asarray(generate_batch(port, features, None))) != port.processor.decode(
            probe.answered[i : i + 1]
        ):
            raise R2T2Error(
                f"the answer to {sample.id!r} differs between a batch of one and a larger one: is padding masked?"
            )
        vector = np.asarray(port.embedder.embed([sample.question]))[0]
        together = np.asarray(port.embedder.embed([each.question for each in probe.samples]))[i]
        if not np.allclose(vector, together, atol=CLOSE):
            raise R2T2Error(f"the embedding of {sample.id!r} differs between a batch of one and a larger one")
    return f"{len(probe.samples)} samples give the same weights, answers and embeddings one by one and in a batch"


TRACED: dict[str, Callable[[_Probe], str]] = {
    "methods": _methods,
    "prepare": _prepare,
    "answer_ids": _answer_ids,
    "embed": _embed,
    "encode": _encode,
    "route": _route,
    "support": _support,
    "answer_loss": _answer_loss,
    "generate": _generate,
    "answer_logprobs": _answer_logprobs,
    "as_answer": _as_answer,
}
EVALUATED: dict[str, Callable[[_Probe], str]] = {
    "routing weights": _routing_weights,
    "loss": _dependence,
    "decode": _decode,
    "round trip": _round_trip,
    "batch": _batch,
}


def _first(tree: Any) -> Any:
    """The first sample of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
