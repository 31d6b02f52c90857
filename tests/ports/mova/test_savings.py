"""MoVA's cheaper variants of the gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ports.mova.batch import IMAGE
from ports.mova.costs import fake_sample, variants
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.flops_checks import check_variants
from tests.ports.mova.tiny import CONFIG, drawn_answers, drawn_inputs, row, tiny

TOKENS = 8
SMALL = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, attention_block=4))


def random_sample():
    """A raw sample with random views and words."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.asarray(rng.integers(3, 50, leaf.shape), leaf.dtype) if leaf.dtype == jnp.int32 else leaf

    sample = jax.tree.map(draw, fake_sample(CONFIG, TOKENS))
    patches = sample.views.patches.at[:, :2].set(jnp.ones(2))  # row and column of a patch
    return sample._replace(
        views=dataclasses.replace(sample.views, patches=patches), tokens=sample.tokens.at[TOKENS // 2].set(IMAGE)
    )


@pytest.mark.slow  # all seven towers are compiled several times
def test_every_variant_gives_the_literal_gradient():
    params = tiny()[1]
    r = jax.random.dirichlet(jax.random.key(1), np.ones(7), (3,))
    check_variants(variants(SMALL, TOKENS), lambda variant: params, random_sample(), r, row(drawn_answers(), 0))


@pytest.mark.slow  # compiles two programs with all towers
def test_a_known_prefix_changes_no_answer():
    """Prompts with padding behind them, and answers of several lengths."""
    model, params = tiny()
    routing = Routing(jnp.full((3, 7), 1 / 7))

    @quick_jit
    def losses(inputs, answers):
        def loss(one):
            inputs, answer = one
            return model.answer_loss(params, model.encode(params, inputs), routing, answer)

        return jax.lax.map(loss, (inputs, answers))

    known = dataclasses.replace(drawn_inputs(), prefix=3)
    np.testing.assert_allclose(losses(known, drawn_answers()), losses(drawn_inputs(), drawn_answers()), atol=1e-5)
