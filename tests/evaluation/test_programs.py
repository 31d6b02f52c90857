"""Strategies that differ only in their neighbors share one compiled program."""

import numpy as np

from r2t2_jax import strategy
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.method import rerouting
from r2t2_jax.metrics import get_metric
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import sample_keys, select
from tests.toy_port import make_samples, toy


def test_selectors_do_not_recompile() -> None:
    port = toy()
    bank = collect_bank(port, make_samples(30, seed=1, hinted=1.0), get_metric("exact_match"))
    questions = encode_questions(port, make_samples(4, seed=2, hinted=0.0))
    keys = sample_keys(0, np.arange(4))
    before = rerouting._reroute_on_cpu._cache_size()
    for name in ("ngd", "random_neighbors", "shuffled_references"):
        chosen = strategy(name)
        neighbors = select(chosen.selector, ExactIndex.build(bank.embeddings), questions.embeddings, keys)
        references = bank.references(neighbors, chosen.kernel)
        rerouting.reroute_batch(chosen, port.model, port.params, questions.queries, references, keys)
    assert rerouting._reroute_on_cpu._cache_size() == before + 1
