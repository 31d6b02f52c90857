"""One batch of reference questions: what the model sees, how it routes, what it answers, and how its question embeds.

Axis letters: B samples of a batch, M embedding size, L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from r2t2_jax.bank.fingerprints import image_digest
from r2t2_jax.bank.manifest import EMBEDDINGS, ROUTING
from r2t2_jax.bank.samples import StoredLeaf, as_stored, stored_leaves
from r2t2_jax.checks import UNIT_TOLERANCE
from r2t2_jax.contract import Embedder, Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batches import take
from r2t2_jax.evaluation.collect import record_of
from r2t2_jax.evaluation.passes import encode_batch, generate_batch
from r2t2_jax.metrics import Metric
from r2t2_jax.runs.workers import worker_threads

T = TypeVar("T")
U = TypeVar("U")


class Answering:
    """Rows of batches: records, and arrays by the name of the bank's file that will hold them.

    Args:
        port: the model.
        embedder: of the questions.
        size: samples a batch; a smaller one is filled up, so that one compiled program serves all.
        features: whether rows hold what the model computes of a sample, and the answer's tokens.
    """

    def __init__(self, port: Port, embedder: Embedder, size: int, features: bool) -> None:
        self._port, self._embedder, self._size, self._features = port, embedder, size, features
        self._ports: dict[jax.Device, Port] = {}

    @cached_property
    def _devices(self) -> list[jax.Device]:
        return jax.local_devices()

    @property
    def workers(self) -> int:
        """Batches at a time: one a device, and one that is prepared on the host meanwhile."""
        return len(self._devices) + 1

    def rows(self, number: int, samples: Sequence[Sample], metric: Metric) -> list[dict[str, Any]]:
        """The rows of one batch, on the device whose turn it is; they do not depend on which.

        Raises:
            R2T2Error: a feature, a routing weight or an embedding is NaN, or an embedding is zero; names the samples.
        """
        device = self._devices[number % len(self._devices)]
        filled = [*samples, *[samples[-1]] * (self._size - len(samples))]
        with jax.default_device(device):
            port = self._on(device)
            inputs = port.processor.prepare(port.params, filled)
            features, routing = encode_batch(port.params, inputs, model=port.model)
            tokens = np.asarray(generate_batch(port, features, None))
        predictions = port.processor.decode(tokens[: len(samples)])
        arrays = {EMBEDDINGS: self._embed(samples), ROUTING: np.asarray(routing, np.float32)[: len(samples)]}
        _check(f"{port.name}: routing", samples, ~np.isfinite(arrays[ROUTING]).all(axis=(1, 2)), "NaN or infinite")
        if self._features:
            arrays |= self._stored_arrays(features, samples)
        return [
            record_of(sample, prediction, metric(prediction, sample))
            | {"image_sha256": image_digest(sample.image)}
            | {name: array[i] for name, array in arrays.items()}
            for i, (sample, prediction) in enumerate(zip(samples, predictions, strict=True))
        ]

    def stored(self, samples: Sequence[Sample]) -> Mapping[str, Sequence[StoredLeaf]]:
        """How features and answers are stored; empty where they are not. Needs a sample or two and computes nothing."""
        if not self._features:
            return {}
        port = self._port
        inputs = port.processor.prepare(port.params, samples)
        features, _ = jax.eval_shape(
            lambda params, inputs: encode_batch(params, inputs, model=port.model), port.params, inputs
        )
        answers = port.processor.answer_ids([sample.answers[0] for sample in samples])
        return {name: stored_leaves(name, tree) for name, tree in {"features": features, "answers": answers}.items()}

    def _on(self, device: jax.Device) -> Port:
        if len(self._devices) == 1:
            return self._port
        if device not in self._ports:
            self._ports[device] = replace(self._port, params=jax.device_put(self._port.params, device))
        return self._ports[device]

    def _embed(self, samples: Sequence[Sample]) -> Float[np.ndarray, "B M"]:
        vectors = np.asarray(self._embedder.embed([sample.question for sample in samples]), np.float32)
        length = np.square(vectors).sum(axis=1)
        _check("question embeddings", samples, ~np.isfinite(length), "NaN or infinite")
        _check("question embeddings", samples, length == 0, "zero")
        _check("question embeddings", samples, np.abs(length - 1) > UNIT_TOLERANCE, "not of unit length")
        return vectors

    def _stored_arrays(self, features: Any, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        answers = self._port.processor.answer_ids([sample.answers[0] for sample in samples])
        arrays = {}
        for name, tree in {"features": take(features, np.arange(len(samples))), "answers": answers}.items():
            for leaf, array in zip(stored_leaves(name, tree), as_stored(tree), strict=True):
                arrays[leaf.file] = array
        return arrays


def _check(what: str, samples: Sequence[Sample], bad: np.ndarray, fault: str) -> None:
    if bad.any():
        names = [sample.id for sample, wrong in zip(samples, bad, strict=True) if wrong]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise R2T2Error(f"{what} of {shown} are {fault}: drop those samples, or mend what computes them")


def ahead(work: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """`work` of every item in order, with as many more begun before they are asked for."""
    waiting: deque[Any] = deque()
    with worker_threads(workers) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
