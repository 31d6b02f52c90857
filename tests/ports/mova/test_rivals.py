"""The odds of every word, which rivals ask for, are those that the loss is made of."""

import jax
import numpy as np

from r2t2_jax.contract import LogprobModel
from r2t2_jax.method.forward import encode_batch
from tests.ports.mova.tiny import drawn_answers, drawn_inputs, tiny


def test_its_odds_are_those_of_its_losses():
    model, params = tiny()
    assert isinstance(model, LogprobModel)
    features, _ = encode_batch(params, drawn_inputs(), model=model)
    features, answer = jax.tree.map(lambda leaf: leaf[0], (features, drawn_answers()))
    logprobs, mask = jax.jit(model.token_logprobs)(params, features, None, answer)
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=-1), 1, rtol=1e-4)
    each = np.take_along_axis(np.asarray(logprobs), np.asarray(answer.tokens)[:, None], axis=1)[:, 0]
    loss = jax.jit(model.answer_loss)(params, features, None, answer)
    np.testing.assert_allclose(-each[np.asarray(mask)].mean(), loss, rtol=1e-4)
