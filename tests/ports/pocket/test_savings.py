"""The cost variants of the pocket model give the same gradient."""

import jax
import numpy as np

from ports.pocket.port import load, shapes
from ports.pocket.scenes import IMAGE
from r2t2_jax.contract import Sample
from tests.flops_checks import check_variants

SHAPES = shapes(None, None, None)


def test_every_cost_variant_gives_the_same_gradient():
    port = load("narrow")
    image = np.random.default_rng(0).integers(0, 256, (IMAGE, IMAGE, 3), np.uint8)
    sample = Sample("a", image, "what color is the circle", ("red",))
    raw, answer = jax.tree.map(
        lambda leaf: leaf[0],
        (port.processor.prepare(port.params, [sample]), port.processor.answer_ids(["red"])),
    )
    r = jax.random.dirichlet(jax.random.key(1), np.ones(6), (2,))
    check_variants(SHAPES.costs.variants, lambda variant: port.params, raw, r, answer)
