"""What rivals ask of the pocket model beside the contract."""

import jax
import numpy as np
import pytest

from r2t2_jax.contract import LogprobModel
from r2t2_jax.datasets import load_dataset
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.plugins import load
from r2t2_jax.routing import Routing, uniform
from r2t2_jax.runtime.pytrees import select_params


@pytest.fixture(scope="module")
def port():
    return load("pocket:narrow")


@pytest.fixture(scope="module")
def asked(port):
    return encode_questions(port, load_dataset("pocket", "validation", 4))


def test_its_odds_are_those_of_its_losses(port, asked):
    assert isinstance(port.model, LogprobModel)
    query = jax.tree.map(lambda leaf: leaf[0], asked.queries)
    routing = Routing(uniform(port.model.spec, query.support))
    tell, loss = jax.jit(port.model.token_logprobs), jax.jit(port.model.answer_loss)
    for mixed in (None, routing):
        logprobs, mask = tell(port.params, query.features, mixed, query.answer)
        np.testing.assert_allclose(np.exp(logprobs).sum(axis=-1), 1, rtol=1e-5)
        each = np.take_along_axis(np.asarray(logprobs), np.asarray(query.answer.tokens)[:, None], axis=1)[:, 0]
        expected = float(loss(port.params, query.features, mixed, query.answer))
        np.testing.assert_allclose(-each[np.asarray(mask)].mean(), expected, rtol=1e-5)


def test_words_behind_the_end_do_not_count(port):
    processor, model = port.processor, port.model
    tokens = processor.answer_ids(["red"]).tokens[0]
    tokens = tokens.at[2].set(tokens[0])
    np.testing.assert_array_equal(model.as_answer(tokens).mask, [True, True, False])


def test_questions_on_any_scene_are_read_whole_and_known(port):
    told = port.captioning
    assert len(set(told.prompts)) == 10
    for prompt in told.prompts:
        assert port.processor.fits(prompt)
        assert 1 not in port.processor.tokenizer.encode(prompt)  # no unknown word
    assert not port.processor.fits(" ".join(told.prompts))


def test_projector_and_language_model_are_adapted_and_nothing_else(port):
    leaves = jax.tree_util.tree_leaves_with_path(port.params)
    chosen = select_params(port.params, port.captioning.adapted)
    left = {path[0].key for (path, _), mine in zip(leaves, chosen, strict=True) if not mine}
    assert left == {"base", "experts", "stream", "mixers", "gate"}
