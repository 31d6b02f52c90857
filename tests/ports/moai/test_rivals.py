"""Token log-probabilities, which rivals need, are consistent with the loss."""

import jax
import numpy as np

from r2t2_jax.contract import LogprobModel
from tests.compile_counts import quick_jit
from tests.ports.moai.test_strategies import problem


def test_token_logprobs_sum_to_the_loss():
    model, params, queries, _ = problem()
    assert isinstance(model, LogprobModel)

    @quick_jit
    def both(params, queries):
        features, answer = jax.tree.map(lambda leaf: leaf[0], (queries.features, queries.answer))
        return model.token_logprobs(params, features, None, answer), model.answer_loss(params, features, None, answer)

    (logprobs, mask), loss = both(params, queries)
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=-1), 1, rtol=1e-4)
    tokens = np.asarray(queries.answer.tokens[0])
    each = np.take_along_axis(np.asarray(logprobs), tokens[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(-each[np.asarray(mask)].mean(), loss, rtol=1e-4)
