"""MoVA's ladder: every saving gives the plain gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ports.mova.batch import IMAGE
from ports.mova.costs import fake_case, ladder
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.flops_checks import check_ladder
from tests.ports.mova.tiny import CONFIG, drawn_answers, drawn_inputs, row, tiny

TOKENS = 8
SMALL = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, attention_block=4))


def drawn_case():
    """A case whose views and words are drawn."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.asarray(rng.integers(3, 50, leaf.shape), leaf.dtype) if leaf.dtype == jnp.int32 else leaf

    case = jax.tree.map(draw, fake_case(CONFIG, TOKENS))
    patches = case.views.patches.at[:, :2].set(jnp.ones(2))  # row and column of a patch
    return case._replace(
        views=dataclasses.replace(case.views, patches=patches), tokens=case.tokens.at[TOKENS // 2].set(IMAGE)
    )


@pytest.mark.slow  # all seven towers are compiled several times
def test_every_rung_gives_the_plain_gradient():
    params, case = tiny()[1], drawn_case()
    r = jax.random.dirichlet(jax.random.key(1), np.ones(7), (3,))
    check_ladder(ladder(SMALL, TOKENS, len(case.words), 4), lambda rung: params, case, r, row(drawn_answers(), 0))


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
