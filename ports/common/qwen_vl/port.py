"""Ports of multimodal Qwen models: weights of a model directory, shapes, and settings of a variant.

Settings are those of `ports/common/moe_lm/port.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    Family,
    buckets,
    dtype_of,
    fake_prompt,
    fingerprint,
    model_shapes,
    parse_variant,
    with_dtype,
)
from ports.common.qwen_vl.config import QwenVLConfig
from ports.common.qwen_vl.model import RoutedVL, VLInputs, abstract
from ports.common.qwen_vl.processing import ImageLimits, QwenVLProcessor
from ports.common.qwen_vl.vision import Patches
from ports.common.sharding import Rules, placed, shardings_by
from r2t2_jax.contract import ModelShapes, Port
from r2t2_jax.errors import R2T2Error

QUESTION_TOKENS = 1300  # of a prompt with an image
TEXT_TOKENS = 100  # of these; the others are the image's


@dataclass(frozen=True)
class VLFamily:
    """One family of multimodal models.

    Args:
        name: of the port.
        config: class of its configs.
        sizes: configs by name, for shapes without weights; the first is the default.
        rules: of sharding, as in `ports/common/sharding.py`.
        text: models of the family without a tower, of which the port also loads directories.
    """

    name: str
    config: type[QwenVLConfig]
    sizes: Mapping[str, Callable[[], QwenVLConfig]]
    rules: Rules = RULES
    text: Family | None = None

    def load(self, variant: str | None, mesh: Mesh | None = None, weights: bool = True) -> Port:
        """The model with converted weights; see `load` of a port."""
        from r2t2_jax.retrieval.hashed_bag_of_words import default_embedder

        if not variant:
            raise R2T2Error(
                f"{self.name} comes without weights: convert a checkpoint with r2t2 convert, then load {self.name}:DIR"
            )
        folder, settings = parse_variant(self.name, variant)
        directory = open_model_directory(folder, self.name)
        if self.text is not None and "vision" not in directory.config:
            return self.text.load(variant, mesh, weights)
        config = config_from_json(self.config, directory.config)
        config = in_dtype(config, with_dtype(config.decoder, settings, directory).dtype)
        scope = routing_scope(config.decoder, settings)
        graph, abstract_params = abstract(config)
        if mesh is not None:
            abstract_params = placed(abstract_params, shardings_by(self.rules, abstract_params, mesh))
        tokenizer = ChatTokenizer.open(directory.tokenizer, config.stop_ids)
        if tokenizer.chat.template is None:
            raise R2T2Error(f"{folder} has no chat template; convert the model again from a folder that has one")
        limits = ImageLimits.read(directory.tokenizer, config)
        needs_image = scope.scope == "image"
        return Port(
            name=f"{self.name}:{variant}",
            model=RoutedVL(config.decoder, scope, config.stop_ids, graph),
            params=restore(directory, abstract_params, weights),
            processor=QwenVLProcessor(config, tokenizer, limits, *buckets(settings), needs_image, self.name),
            embedder=default_embedder(),
            fingerprint=fingerprint(self.name, directory, config.decoder, scope),
            max_new_tokens=MAX_NEW_TOKENS,
            gate="decoder/layers/gate",
        )

    def shapes(self, variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
        """The model without weights; see `shapes` of a port."""
        head, settings = parse_variant(self.name, variant or next(iter(self.sizes)))
        if head in self.sizes:
            config = self.sizes[head]()
            config = in_dtype(config, dtype_of(settings, config.decoder.dtype))
        else:
            directory = open_model_directory(head, self.name)
            if self.text is not None and "vision" not in directory.config:
                return self.text.shapes(variant, question_tokens, answer_tokens)
            config = config_from_json(self.config, directory.config)
            config = in_dtype(config, with_dtype(config.decoder, settings, directory).dtype)
        graph, params = abstract(config)
        model = RoutedVL(config.decoder, routing_scope(config.decoder, settings), (0,), graph)
        inputs = jax.eval_shape(lambda: fake_inputs(config, question_tokens or QUESTION_TOKENS))
        return model_shapes(f"{self.name}:{variant or head}", model, params, inputs, answer_tokens, self.rules)


def in_dtype(config: QwenVLConfig, dtype: str) -> QwenVLConfig:
    """The config with parameters and activations of tower and decoder in one dtype."""
    decoder, vision = dataclasses.replace(config.decoder, dtype=dtype), dataclasses.replace(config.vision, dtype=dtype)
    return dataclasses.replace(config, decoder=decoder, vision=vision)


def fake_inputs(config: QwenVLConfig, length: int) -> Any:
    """Inputs of zeros: a prompt of `length` tokens, of which all but `TEXT_TOKENS` (at most half) are the image's."""
    image = length - min(TEXT_TOKENS, length // 2)
    patches = image * config.vision.merge**2
    prompt = dataclasses.replace(fake_prompt(length), visual=jnp.arange(length) < image)
    numbers = jnp.zeros((patches, 4), jnp.int32)
    values = jnp.zeros((patches, config.vision.patch_values))
    return VLInputs(prompt, Patches(values, numbers[:, 0], numbers[:, :2], numbers, numbers.astype(jnp.float32)))
