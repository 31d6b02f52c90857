"""Neighbours weighted by their images as well as by their questions: the product of two kernels.

Neighbours are still the nearest by question. The second kernel is a Gaussian of the L2 distance d between unit image
vectors, exp(-d^2 / (2 h^2)). Image vectors of one model lie far apart and those of another close together, so h is
given as a multiple of the neighbourhood's median distance.

Axis letters: B test samples, K neighbours, N bank size, H size of an image vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import normalized_probe
from r2t2_jax.method.kernels import SMALLEST_BANDWIDTH, median_distance
from r2t2_jax.runtime.batching import Rows, run_batch

BATCH = 16


@dataclass
class ReferenceImages:
    """Image vectors of a bank's references, computed when they are first asked for; any thread may ask.

    Nothing of them is stored: a bank that was made before there was this kernel serves it as well.
    """

    port: Port
    bank: ReferenceBank
    _known: dict[int, Float[np.ndarray, "H"]] = field(default_factory=dict, init=False, repr=False)
    _lock: Any = field(default_factory=Lock, init=False, repr=False)

    def __call__(self, rows: Int[np.ndarray, "B K"]) -> Float[np.ndarray, "B K H"]:
        """Vectors of rows of the bank."""
        with self._lock:
            missing = np.array([row for row in np.unique(rows).tolist() if row not in self._known], int)
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                vectors = run_batch(partial(self._compute, batch), 0, len(batch), BATCH)
                self._known.update(zip(batch.tolist(), vectors, strict=True))
        vectors = np.stack([self._known[row] for row in rows.ravel().tolist()])
        return vectors.reshape(*rows.shape, -1)

    def _compute(self, rows: Rows, places: Rows) -> Float[np.ndarray, "n H"]:
        features, _ = self.bank.samples(rows[places])
        return normalized_probe(self.port, features, "image_vector")


def open_images(port: Port, bank: ReferenceBank, strategies: Mapping[str, Any]) -> ReferenceImages | None:
    """The images of a bank, if one of the strategies weighs neighbours by them.

    Raises:
        R2T2Error: the model does not tell what an image looks like.
    """
    wanted = [
        name for name, one in strategies.items() if one.table is not None and one.table.image_bandwidth is not None
    ]
    if not wanted:
        return None
    if not hasattr(port.model, "image_vector"):
        raise R2T2Error(
            f"{wanted[0]} is to weigh neighbours by their images, and {port.name} does not tell what an image looks "
            "like (image_vector): leave atlas_image_bandwidth out"
        )
    return ReferenceImages(port, bank)


@jax.jit
def weigh_by_image(
    weights: Float[Array, "B K"],
    seen: Float[Array, "B H"],
    references: Float[Array, "B K H"],
    bandwidth: float | Float[Array, ""],
) -> Float[Array, "B K"]:
    """Kernel weights times a Gaussian of the images' distance, up to a common factor for each sample.

    `bandwidth` is a multiple of the median distance of those neighbours that have any weight. The common factor puts
    the nearest image of a neighbourhood at 1, so that a narrow kernel leaves one neighbour rather than none; it cancels
    in every weighted mean. By lax.map, so that a row does not depend on how many there are.
    """

    def one(row: tuple[Array, Array, Array]) -> Float[Array, "K"]:
        weights, seen, references = row
        counts = weights > 0
        # Nothing is fused across this line, so that a batch of one, whose loop is unrolled, computes the same bits.
        distance = jax.lax.optimization_barrier(jnp.sqrt(jnp.square(references - seen[None]).sum(axis=-1)))  # [K]
        nearest = jnp.where(counts, distance, jnp.inf).min()
        width = jnp.asarray(bandwidth, distance.dtype) * median_distance(distance, counts)
        width = jax.lax.optimization_barrier(jnp.maximum(width, SMALLEST_BANDWIDTH))
        near = jnp.exp(0.5 * ((nearest - distance) / width) * ((nearest + distance) / width))
        return jnp.where(counts, weights * near, 0.0)

    return jax.lax.map(one, (weights, seen, references))
