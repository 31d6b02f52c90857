"""The Qwen3-VL-MoE port: converted weights as a `Port`, shapes, and conversion."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ports.common.checkpoint.load import open_model_directory, restore
from ports.common.configs import config_from_json
from ports.common.moe_lm.chat import ChatTokenizer
from ports.common.moe_lm.config import routing_scope
from ports.common.moe_lm.port import (
    MAX_NEW_TOKENS,
    RULES,
    buckets,
    dtype_of,
    fake_prompt,
    fingerprint,
    model_shapes,
    parse_variant,
    with_dtype,
)
from ports.common.sharding import placed, shardings_by
from ports.qwen3_vl_moe.config import Qwen3VLMoEConfig, full_30b_a3b, full_235b_a22b, tiny
from ports.qwen3_vl_moe.model import Qwen3VLMoEModel, VLInputs, abstract
from ports.qwen3_vl_moe.params import converter
from ports.qwen3_vl_moe.processing import ImageLimits, Qwen3VLMoEProcessor
from ports.qwen3_vl_moe.vision import Patches
from r2t2_jax.contract import ModelShapes, Port
from r2t2_jax.errors import R2T2Error

__all__ = ["converter", "load", "shapes"]

NAME = "qwen3_vl_moe"
SIZES = {"30b-a3b": full_30b_a3b, "235b-a22b": full_235b_a22b, "tiny": tiny}
QUESTION_TOKENS = 1300  # of a prompt with an image
TEXT_TOKENS = 100  # of these; the others are the image's


def load(variant: str | None, mesh: Mesh | None = None) -> Port:
    """Qwen3-VL-MoE with converted weights.

    Args:
        variant: the directory written by `r2t2 convert qwen3_vl_moe`, followed by comma-separated settings: `layers`,
            `scope`, `core_experts`, `dtype` (`ports/common/moe_lm/port.py`).
        mesh: devices along the axis `model`, over which experts and heads are sharded as they are read.

    Raises:
        R2T2Error: no directory is named, it is damaged or another model's, or a setting is unknown.
    """
    from r2t2_jax.retrieval.hashed_bag_of_words import default_embedder

    if not variant:
        raise R2T2Error(f"{NAME} comes without weights: convert a checkpoint with r2t2 convert, then load {NAME}:DIR")
    folder, settings = parse_variant(NAME, variant)
    directory = open_model_directory(folder, NAME)
    config = config_from_json(Qwen3VLMoEConfig, directory.config)
    config = in_dtype(config, with_dtype(config.decoder, settings, directory).dtype)
    scope = routing_scope(config.decoder, settings)
    graph, abstract_params = abstract(config)
    if mesh is not None:
        abstract_params = placed(abstract_params, shardings_by(RULES, abstract_params, mesh))
    tokenizer = ChatTokenizer.open(directory.tokenizer, config.stop_ids)
    limits = ImageLimits.read(directory.tokenizer, config)
    return Port(
        name=f"{NAME}:{variant}",
        model=Qwen3VLMoEModel(config.decoder, scope, config.stop_ids, graph),
        params=restore(directory, abstract_params),
        processor=Qwen3VLMoEProcessor(config, tokenizer, limits, *buckets(settings), scope.scope == "image"),
        embedder=default_embedder(),
        fingerprint=fingerprint(NAME, directory, config.decoder, scope),
        max_new_tokens=MAX_NEW_TOKENS,
        gate="decoder/layers/gate",
    )


def in_dtype(config: Qwen3VLMoEConfig, dtype: str) -> Qwen3VLMoEConfig:
    """The config with parameters and activations of tower and decoder in one dtype."""
    decoder, vision = dataclasses.replace(config.decoder, dtype=dtype), dataclasses.replace(config.vision, dtype=dtype)
    return dataclasses.replace(config, decoder=decoder, vision=vision)


def shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
    """Qwen3-VL-MoE without weights.

    Args:
        variant: `30b-a3b` (the default), `235b-a22b`, `tiny`, or a model directory, followed by settings as for `load`.
        question_tokens: tokens of the prompt, image tokens included.
        answer_tokens: of the answer, end of turn included.

    Raises:
        R2T2Error: there is neither such a size nor such a directory, or a setting is unknown.
    """
    head, settings = parse_variant(NAME, variant or "30b-a3b")
    if head in SIZES:
        config = SIZES[head]()
        config = in_dtype(config, dtype_of(settings, config.decoder.dtype))
    else:
        directory = open_model_directory(head, NAME)
        config = config_from_json(Qwen3VLMoEConfig, directory.config)
        config = in_dtype(config, with_dtype(config.decoder, settings, directory).dtype)
    graph, params = abstract(config)
    model = Qwen3VLMoEModel(config.decoder, routing_scope(config.decoder, settings), (0,), graph)
    inputs = jax.eval_shape(lambda: fake_inputs(config, question_tokens or QUESTION_TOKENS))
    return model_shapes(f"{NAME}:{variant or head}", model, params, inputs, answer_tokens)


def fake_inputs(config: Qwen3VLMoEConfig, length: int) -> Any:
    """Inputs of zeros: a prompt of `length` tokens, of which all but `TEXT_TOKENS` (at most half) are the image's."""
    image = length - min(TEXT_TOKENS, length // 2)
    patches = image * config.vision.merge**2
    prompt = dataclasses.replace(fake_prompt(length), visual=jnp.arange(length) < image)
    numbers = jnp.zeros((patches, 4), jnp.int32)
    values = jnp.zeros((patches, config.vision.patch_values))
    return VLInputs(prompt, Patches(values, numbers[:, 0], numbers[:, :2], numbers, numbers.astype(jnp.float32)))
