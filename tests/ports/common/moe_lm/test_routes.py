"""Recorded routes of language models: those of a plain forward pass, without a change of the answer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ports.common.moe_lm.features import LMAnswer
from r2t2_jax.contract import TOKEN_KINDS, RecordingModel
from r2t2_jax.method.forward import encode_batch, generate_tokens
from r2t2_jax.routes.record import _record_tokens
from tests.compile_counts import quick_jit
from tests.ports.common.moe_lm.recorded import whole_forward
from tests.ports.common.moe_lm.test_model import CONFIG, LENGTH, PROMPT, model, sample, whole_batch

TOKENS = 4


@pytest.mark.parametrize(("scope", "layers"), [("last_prompt", (2, 3)), ("all", (0, 1, 2, 3))])
def test_routes_are_those_of_the_whole_forward_pass_and_the_answer_is_unchanged(scope, layers):
    routed, params = model(scope, layers)
    assert isinstance(routed, RecordingModel)
    assert routed.gated_layers == ("layer 0", "layer 1", "layer 2", "layer 3")
    prompt, _ = sample()
    batch = jax.tree.map(lambda leaf: leaf[None], prompt)
    features, _ = encode_batch(params, batch, model=routed)
    answers = generate_tokens(params, features, None, model=routed, max_new_tokens=TOKENS)
    recorded, routes = _record_tokens(params, batch, model=routed, max_new_tokens=TOKENS, logits=True)
    np.testing.assert_array_equal(recorded, answers)

    answer = routed.as_answer(recorded[0])
    real = np.asarray(jnp.concatenate([prompt.mask, answer.mask]))
    kinds = np.asarray(routes.kinds[0])
    np.testing.assert_array_equal(kinds >= 0, real)
    names = [TOKEN_KINDS[kind] for kind in kinds[real]]
    assert names[:PROMPT] == ["text", "image", "image", "image", "text", "text", "text"]
    assert set(names[PROMPT:]) == {"answer"}
    np.testing.assert_array_equal(routes.tokens[0][:LENGTH], prompt.tokens)
    np.testing.assert_array_equal(routes.tokens[0][LENGTH:], recorded[0])

    whole = quick_jit(partial(whole_forward, routed.decoder(params)))(whole_batch(prompt, LMAnswer(*_padded(answer))))
    ids, weights, logits = (np.asarray(leaf[0]).swapaxes(0, 1) for leaf in (whole.ids, whole.chosen, whole.router))
    np.testing.assert_array_equal(routes.experts[0][real], ids[real])
    np.testing.assert_allclose(routes.weights[0][real], weights[real], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(routes.logits[0][real], logits[real], rtol=1e-3, atol=1e-5)
    assert routes.weights.dtype == routes.logits.dtype == jnp.float16
    assert routes.experts.shape == (1, LENGTH + TOKENS, CONFIG.layers, CONFIG.top_k)


def _padded(answer):
    """Tokens and mask of an answer."""
    return answer.tokens, answer.mask
