"""Kernels: the weight of each reference as a function of its distance to the test sample.

Every kernel is called as `kernel(distance, dot, mask)` on one neighborhood: L2 distances and dot products of the
embeddings, and the mask of the K entries that are not padding. Negative values are clipped to zero (a weighted mean of
losses needs non-negative weights); padded entries have weight zero. The weights need not sum to one.

Bandwidths and offsets are traced: changing one never recompiles. The paper gives no bandwidth. `bandwidth=None` is the
median of the positive distances of the neighborhood: references with the question's own text (the rule in VQA v2, GQA,
and CLEVR) lie at distance zero and carry no information on the scale. Distances of at most `NOISE` count as zero, and
if all are zero, all references have weight one. Kernels compute in float32, also for half-precision distances.

Axis letters: K neighbors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval.protocol import NOISE
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

SMALLEST_BANDWIDTH = 1e-12  # of a neighborhood whose distances are all zero: each reference then has weight 1


def median_distance(distance: Float[Array, "K"], mask: Bool[Array, "K"]) -> Float[Array, ""]:
    """Median of the unmasked distances: the mean of the middle two if their number is even, 0 if there is none."""
    ordered = jnp.sort(jnp.where(mask, distance, jnp.inf))  # [K], padding last
    count = mask.sum()
    low, high = jnp.maximum((count - 1) // 2, 0), jnp.maximum(count // 2, 0)
    return jnp.where(count > 0, (ordered[low] + ordered[high]) / 2, 0.0)


def _scaled(
    distance: Float[Array, "K"], mask: Bool[Array, "K"], bandwidth: float | Float[Array, ""] | None
) -> Float[Array, "K"]:
    """Distances in units of the bandwidth, those within `NOISE` as zero."""
    distance = distance.astype(jnp.float32)
    positive = distance > NOISE
    distance = jnp.where(positive, distance, 0.0)
    width = median_distance(distance, mask & positive) if bandwidth is None else jnp.asarray(bandwidth, jnp.float32)
    return distance / jnp.maximum(width, SMALLEST_BANDWIDTH)


def _clip(values: Float[Array, "K"], mask: Bool[Array, "K"]) -> Float[Array, "K"]:
    return jnp.where(mask, jnp.maximum(values.astype(jnp.float32), 0.0), 0.0)


def _check_bandwidth(bandwidth: object) -> None:
    """Refuse a bandwidth that is not a positive number; traced values are not checked."""
    if isinstance(bandwidth, int | float) and not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise R2T2Error(
            f"bandwidth {bandwidth} must be positive; leave it out for the median of the positive distances"
        )


@register_pytree_dataclass
@dataclass(frozen=True)
class Gaussian:
    """K = exp(-d^2 / (2 h^2)), bandwidth h. The paper's choice (R2-T2, table 6)."""

    bandwidth: float | None = None

    def __post_init__(self) -> None:
        _check_bandwidth(self.bandwidth)

    def __call__(
        self, distance: Float[Array, "K"], dot: Float[Array, "K"], mask: Bool[Array, "K"]
    ) -> Float[Array, "K"]:
        return _clip(jnp.exp(-0.5 * _scaled(distance, mask, self.bandwidth) ** 2), mask)


@register_pytree_dataclass
@dataclass(frozen=True)
class Matern:
    """Matern kernel of smoothness nu = 0.5, 1.5 or 2.5 and length scale h (Rasmussen & Williams 2006, eq. 4.17)."""

    nu: float = field(default=1.5, metadata={"static": True})
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        if self.nu not in (0.5, 1.5, 2.5):
            raise R2T2Error(f"Matern kernel with nu={self.nu}; choose 0.5, 1.5 or 2.5")
        _check_bandwidth(self.bandwidth)

    def __call__(
        self, distance: Float[Array, "K"], dot: Float[Array, "K"], mask: Bool[Array, "K"]
    ) -> Float[Array, "K"]:
        u = math.sqrt(2 * self.nu) * _scaled(distance, mask, self.bandwidth)
        polynomial = {0.5: jnp.ones_like(u), 1.5: 1 + u, 2.5: 1 + u + u**2 / 3}[self.nu]
        return _clip(polynomial * jnp.exp(-u), mask)


@register_pytree_dataclass
@dataclass(frozen=True)
class Polynomial:
    """K = max(x . y + c, 0)^degree: negative values are clipped before an even power too."""

    degree: int = field(default=2, metadata={"static": True})
    offset: float = 1.0

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise R2T2Error(f"polynomial kernel of degree {self.degree}; it must be at least 1")

    def __call__(
        self, distance: Float[Array, "K"], dot: Float[Array, "K"], mask: Bool[Array, "K"]
    ) -> Float[Array, "K"]:
        return _clip(
            jnp.maximum(dot.astype(jnp.float32) + jnp.asarray(self.offset, jnp.float32), 0.0) ** self.degree, mask
        )


@register_pytree_dataclass
@dataclass(frozen=True)
class Linear:
    """K = x . y, clipped at zero."""

    def __call__(
        self, distance: Float[Array, "K"], dot: Float[Array, "K"], mask: Bool[Array, "K"]
    ) -> Float[Array, "K"]:
        return _clip(dot, mask)


Kernel = Gaussian | Matern | Polynomial | Linear
