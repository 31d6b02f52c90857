"""Token log-probabilities, which rivals need, are consistent with the loss."""

import jax
import numpy as np

from r2t2_jax.contract import LogprobModel
from r2t2_jax.method.forward import encode_batch
from tests.ports.mova.tiny import drawn_answers, drawn_inputs, tiny


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
