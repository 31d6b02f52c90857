"""What rivals need: token log-probabilities that are consistent with the loss, and the parameters of the warm-up."""

import jax
import numpy as np
import pytest

from ports.common.checkpoint.mapping import path_name
from ports.mova.config import MovaConfig
from ports.mova.modeling import abstract
from ports.mova.port import ADAPTED
from r2t2_jax.contract import LogprobModel
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.runtime.pytrees import select_params
from tests.ports.mova.tiny import drawn_answers, drawn_inputs, tiny
from tests.rivals.warmup_check import check_warmup


def test_token_logprobs_sum_to_the_loss():
    model, params = tiny()
    assert isinstance(model, LogprobModel)
    features, _ = encode_batch(params, drawn_inputs(), model=model)
    features, answer = jax.tree.map(lambda leaf: leaf[0], (features, drawn_answers()))
    logprobs, mask = jax.jit(model.token_logprobs)(params, features, None, answer)
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=-1), 1, rtol=1e-4)
    each = np.take_along_axis(np.asarray(logprobs), np.asarray(answer.tokens)[:, None], axis=1)[:, 0]
    loss = jax.jit(model.answer_loss)(params, features, None, answer)
    np.testing.assert_allclose(-each[np.asarray(mask)].mean(), loss, rtol=1e-4)


def test_warmup_adapts_connector_and_language_model():
    params = abstract(MovaConfig.tiny())[1]
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    adapted = select_params(params, ADAPTED)
    chosen = {name.partition("/")[0] for name, selected in zip(names, adapted, strict=True) if selected}
    rest = {name.partition("/")[0] for name, selected in zip(names, adapted, strict=True) if not selected}
    assert chosen == {"adapter", "decoder", "embed_tokens", "lm_head"}
    assert {"clip", "dinov2", "bert"} <= rest and not chosen & rest


@pytest.mark.slow
def test_warmup_answers_with_parameters_adapted_to_the_image():
    def inputs(count):
        drawn = drawn_inputs()
        rows = np.arange(count) % len(jax.tree.leaves(drawn)[0])
        return jax.tree.map(lambda leaf: leaf[rows], drawn)

    check_warmup(tiny(), inputs, ADAPTED)
