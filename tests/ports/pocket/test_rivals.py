"""The parts of the contract that only rivals need."""

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
def questions(port):
    return encode_questions(port, load_dataset("pocket", "validation", 4))


def test_token_logprobs_agree_with_the_losses(port, questions):
    assert isinstance(port.model, LogprobModel)
    query = jax.tree.map(lambda leaf: leaf[0], questions.queries)
    routing = Routing(uniform(port.model.spec, query.support))
    logprobs_of, loss = jax.jit(port.model.token_logprobs), jax.jit(port.model.answer_loss)
    for mixed in (None, routing):
        logprobs, mask = logprobs_of(port.params, query.features, mixed, query.answer)
        np.testing.assert_allclose(np.exp(logprobs).sum(axis=-1), 1, rtol=1e-5)
        each = np.take_along_axis(np.asarray(logprobs), np.asarray(query.answer.tokens)[:, None], axis=1)[:, 0]
        expected = float(loss(port.params, query.features, mixed, query.answer))
        np.testing.assert_allclose(-each[np.asarray(mask)].mean(), expected, rtol=1e-5)


def test_tokens_after_the_end_do_not_count(port):
    processor, model = port.processor, port.model
    tokens = processor.answer_ids(["red"]).tokens[0]
    tokens = tokens.at[2].set(tokens[0])
    np.testing.assert_array_equal(model.as_answer(tokens).mask, [True, True, False])


def test_questions_on_any_scene_are_short_and_have_known_words(port):
    captioning = port.captioning
    assert len(set(captioning.prompts)) == 10
    for prompt in captioning.prompts:
        assert port.processor.fits(prompt)
        assert 1 not in port.processor.tokenizer.encode(prompt)  # no unknown word
    assert not port.processor.fits(" ".join(captioning.prompts))


def test_only_projector_and_language_model_are_adapted(port):
    leaves = jax.tree_util.tree_leaves_with_path(port.params)
    chosen = select_params(port.params, port.captioning.adapted)
    left = {path[0].key for (path, _), mine in zip(leaves, chosen, strict=True) if not mine}
    assert left == {"base", "experts", "stream", "mixers", "gate"}
