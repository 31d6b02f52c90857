"""Test-Time Warmup on a model of a port, with inputs in place of images and prompts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from r2t2_jax.contract import CaptionModel, Port, Query, Sample
from r2t2_jax.method.forward import encode_batch, generate_batch
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.rivals.base import BaselineBatch
from r2t2_jax.rivals.warmup import Warmup

TOKENS = 3


@dataclasses.dataclass(frozen=True)
class DrawnInputs:
    """A processor whose inputs depend on the number of samples only."""

    draw: Callable[[int], Any]

    def prepare(self, params: Any, samples: Any) -> Any:
        return self.draw(len(samples))


def check_warmup(tiny: tuple[Any, Any], draw: Callable[[int], Any], adapted: tuple[str, ...]) -> None:
    """A rate of zero gives the untouched model's answer and weights; another rate other weights, and finite ones."""
    model, params = tiny
    captioning = CaptionModel(("Describe this image.", "What does it show?"), adapted)
    port = Port("tiny", model, params, DrawnInputs(draw), None, "tiny", TOKENS, captioning=captioning)  # type: ignore[arg-type]
    sample = Sample("1", np.zeros((2, 2, 3), np.uint8), "What?", (), ("a", "b"), "letter")
    features, routing = encode_batch(params, draw(1), model=model)
    query = Query(features, routing, np.ones(routing.shape, bool))
    batch = BaselineBatch(port, [sample], query, None, [[]], sample_keys(0, np.arange(1)))  # type: ignore[arg-type]
    warmup = Warmup(0.0, candidates=2, batch=2, epochs=1)
    untouched, trained = (dataclasses.replace(warmup, learning_rate=rate).answer(batch) for rate in (0.0, 0.03))
    np.testing.assert_array_equal(untouched["tokens"], generate_batch(port, features, None))
    np.testing.assert_allclose(untouched["weights"], routing, atol=1e-5)
    assert np.isfinite(trained["weights"]).all()
    assert np.abs(np.asarray(trained["weights"]) - np.asarray(jax.device_get(routing))).max() > 1e-4
