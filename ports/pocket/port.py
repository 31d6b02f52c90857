"""The pocket port: the models with the weights that ship with the package, and their shapes without them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ports.pocket.costs import costs
from ports.pocket.model import PocketModel
from ports.pocket.modeling import PocketAnswer, abstract, fake_inputs
from ports.pocket.params import FOLDER, GATES, SPARSE, read_weights
from ports.pocket.processing import PocketEmbedder, PocketProcessor
from ports.pocket.questions import questions_on_any_scene
from ports.pocket.tokenizer import Tokenizer
from r2t2_jax.contract import CaptionModel, ModelShapes, Port
from r2t2_jax.errors import R2T2Error

# The parameters of projector and language model.
LANGUAGE = (
    "project_in",
    "project_out",
    "embed_tokens",
    "question_position_embedding",
    "image_position_embedding",
    "answer_position_embedding",
    "blocks",
    "lm_head",
)


def load(variant: str | None) -> Port:
    """The pocket model with one of its two gates, or the sparse model.

    Args:
        variant: `narrow` (trained only on color and shape questions), `balanced` (the default), or `sparse`, which
            takes settings (`ports/pocket/sparse.py`).

    Raises:
        R2T2Error: no such variant, or the shipped weights are missing or damaged.
    """
    if _is_sparse(variant):
        from ports.pocket.sparse import load_sparse  # imported for this variant only, which takes a fifth of a second

        return load_sparse(str(variant), load("balanced").embedder)
    gate = _gate(variant)
    weights = read_weights()
    config, tokenizer = weights.config, Tokenizer(weights.words)
    graph, params = abstract(config)
    params = nnx.to_pure_dict(weights.fill(params, gate))  # JAX flattens it ten times as fast for each call
    model = PocketModel(config, graph)
    embedder = PocketEmbedder(
        model=model,
        params=params,
        tokenizer=tokenizer,
        layer=weights.embedding_layer,
        mean=weights.embedding_mean,
        spread=weights.embedding_spread,
        fingerprint=f"pocket-lm@{weights.fingerprint}",
        known=_known_states(weights.fingerprint),
    )
    return Port(
        name=f"pocket:{gate}",
        model=model,
        params=params,
        processor=PocketProcessor(config, tokenizer),
        embedder=embedder,
        fingerprint=f"pocket:{gate}@{weights.fingerprint}",
        max_new_tokens=config.answer_length,
        presets=weights.presets,
        gate="gate",
        captioning=CaptionModel(questions_on_any_scene(), LANGUAGE),
        atlas=_atlas_folder(gate),
    )


@cache
def _known_states(fingerprint: str) -> dict[str, np.ndarray]:
    """States of texts under a language model, which both gates and the sparse model share."""
    return {}


def shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
    """The pocket model without weights. Both gates have the same shapes.

    Raises:
        R2T2Error: no such variant, or lengths that differ from those to which the model pads questions and answers.
    """
    if _is_sparse(variant):
        from ports.pocket.sparse import sparse_shapes

        return sparse_shapes(str(variant), question_tokens, answer_tokens)
    gate, config = _gate(variant), read_weights().config
    own = config.question_length, config.answer_length
    if (question_tokens or own[0], answer_tokens or own[1]) != own:
        raise R2T2Error(f"pocket pads questions to {own[0]} tokens and answers to {own[1]}; leave the lengths out")
    graph, params = abstract(config)
    model = PocketModel(config, graph)
    features = jax.eval_shape(model.encode, params, fake_inputs(config))
    size = (config.answer_length,)
    answer = jax.eval_shape(lambda: PocketAnswer(jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)))
    return ModelShapes(f"pocket:{gate}", model, params, features, answer, costs(model, params))


def _is_sparse(variant: str | None) -> bool:
    return variant is not None and variant.split(",")[0] == SPARSE


def _gate(variant: str | None) -> str:
    gate = variant or "balanced"
    if gate not in GATES:
        known = ", ".join(f"pocket:{name}" for name in (*GATES, SPARSE))
        raise R2T2Error(f"pocket has no variant {variant!r}; choose one of {known}")
    return gate


def _atlas_folder(gate: str) -> Path | None:
    folder = FOLDER / f"atlas-{gate}"
    return folder if folder.exists() else None
