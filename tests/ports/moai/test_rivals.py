"""What rivals need: token log-probabilities that are consistent with the loss, and the parameters of the warm-up."""

import jax
import numpy as np
import pytest

from ports.common.checkpoint.mapping import path_name
from ports.moai.modeling import abstract
from ports.moai.port import ADAPTED
from r2t2_jax.contract import CAPTION_PROMPTS, LogprobModel
from r2t2_jax.runtime.pytrees import select_params
from tests.compile_counts import quick_jit
from tests.ports.moai.goldens import stacked
from tests.ports.moai.test_strategies import CONFIG, problem
from tests.ports.moai.tiny import draw_inputs, tiny
from tests.rivals.warmup_check import check_warmup


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


def test_warmup_adapts_everything_but_the_vision_tower():
    params = abstract(CONFIG)[1]
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    adapted = select_params(params, ADAPTED)
    assert {name for name, chosen in zip(names, adapted, strict=True) if not chosen} == {
        name for name in names if name.startswith("vision/tower/")
    }


@pytest.mark.slow
def test_warmup_answers_with_parameters_adapted_to_the_image():
    assert len(CAPTION_PROMPTS) == 10
    check_warmup(tiny(CONFIG), lambda count: stacked([draw_inputs(i, config=CONFIG) for i in range(count)]), ADAPTED)
