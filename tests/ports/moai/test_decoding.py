"""Beam search equals exhaustive search, and one beam is greedy decoding."""

import dataclasses
from itertools import product

import jax.numpy as jnp
import numpy as np

from ports.moai.batch import MoAIAnswer
from ports.moai.config import MoAIConfig
from tests.compile_counts import quick_jit
from tests.ports.moai.tiny import draw_inputs, tiny

CONFIG = dataclasses.replace(
    MoAIConfig.tiny(), vocab_size=7, image_id=7, end_id=6, stop_ids=(2, 6), layers=2, vision_layers=1, remat="none"
)


def test_beams_for_the_whole_vocabulary_equal_exhaustive_search():
    """Every answer of at most two tokens is scored: the best mean log-probability, the ending token counted."""
    model, params = tiny(CONFIG)
    ends, vocabulary = CONFIG.stop_ids, range(CONFIG.vocab_size)
    answers = [(end,) for end in ends] + [pair for pair in product(vocabulary, repeat=2) if pair[0] not in ends]
    tokens = jnp.asarray([[*answer, CONFIG.pad_id][:2] for answer in answers])
    mask = jnp.asarray([[True, len(answer) == 2] for answer in answers])

    @quick_jit
    def search(inputs):
        features = model.encode(params, inputs)
        scores = model.answer_logprobs(params, features, None, MoAIAnswer(tokens, mask)) / mask.sum(axis=1)
        return scores, model.generate_beams(params, features, None, 2, num_beams=CONFIG.vocab_size)

    best_answers = set()
    for seed in range(6):
        scores, answer = search(draw_inputs(seed, config=CONFIG))
        best = answers[int(np.argmax(scores))]
        assert tuple(answer.tolist())[: len(best)] == best
        best_answers.add(best)
    assert len(best_answers) > 1  # not the same answer each time


def test_one_beam_is_greedy():
    model, params = tiny(CONFIG)

    @quick_jit
    def both(inputs):
        features = model.encode(params, inputs)
        return model.generate(params, features, None, 4), model.generate_beams(params, features, None, 4, num_beams=1)

    for seed in range(3):
        greedy, beam = (row.tolist() for row in both(draw_inputs(seed, config=CONFIG)))
        end = next((i + 1 for i, token in enumerate(greedy) if token in CONFIG.stop_ids), 4)
        assert beam[:end] == greedy[:end]
