"""A toy query, its references, another routing, and the toy model's outputs for them."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.methods import strategy
from r2t2_jax.routing import Routing
from tests.toy import MODEL, A, references_for, toy_bank, toy_params, toy_queries

ROUTING = Routing(jnp.array([[0.1, 0.6, 0.2, 0.1], [0.3, 0.3, 0.0, 0.4]]))


@cache
def one_case(number=0):
    """(query, references) of one sample."""
    queries, embeddings = toy_queries()
    references = references_for(strategy("ngd"), toy_bank(), embeddings)
    return jax.tree.map(lambda leaf: leaf[number], (queries, dataclasses.replace(references, bank_routing=None)))


def value_of(objective, case, routing=ROUTING):
    """The objective's value for (query, references)."""
    return float(jax.jit(lambda params, case: objective(MODEL, params, *case, routing))(toy_params(), case))


@cache
def _compiled():
    return jax.jit(MODEL.generate, static_argnums=3), jax.jit(MODEL.token_logprobs)


def own_answer(query):
    """The untouched model's answer."""
    return MODEL.as_answer(_compiled()[0](toy_params(), query.features, None, A))


def probabilities(features, routing, answer):
    """Probabilities [A, V] of every word at each place of an answer, and which places count."""
    logprobs, mask = _compiled()[1](toy_params(), features, routing, answer)
    return np.exp(np.asarray(logprobs, np.float64)), np.asarray(mask)


def mean_entropy(features, routing, answer):
    """In nats, written out."""
    p, mask = probabilities(features, routing, answer)
    return np.mean([-(row * np.log(row)).sum() for row in p[mask]])
