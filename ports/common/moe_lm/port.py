"""Ports of routed language models: settings of a variant, weights of a model directory, shapes, sharding, conversion.

A variant is `DIR` or the name of a size, followed by settings: `layers=last5|all|8-20|43,45`,
`scope=last_prompt|prompt|image|text|all`, `core_experts=20|all`, `dtype=float32|bfloat16`, `prompt_bucket=64`,
`answer_bucket=4`. Buckets change no result; one that is as long as the longest prompt gives all features one shape,
which a bank needs to store them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ports.common.checkpoint.convert import CONFIG_FILE, TOKENIZER_JSON, Converter
from ports.common.checkpoint.load import ModelDirectory, open_model_directory, restore
from ports.common.checkpoint.mapping import Leaf
from ports.common.configs import ConfigFields, config_from_json, read_json
from ports.common.layers.moe_decoder import MoEDecoderConfig, abstract
from ports.common.moe_lm.chat import CHAT_FILES, ChatTokenizer, TextProcessor, read_chat
from ports.common.moe_lm.config import NUMBER, RoutingScope, routing_scope, text_fields
from ports.common.moe_lm.costs import costs
from ports.common.moe_lm.features import LMAnswer, Prompt
from ports.common.moe_lm.model import RoutedLM
from ports.common.moe_lm.params import NESTED, adapted, dequantized, fp8_block, moe_decoder_leaves, tied_head
from ports.common.sharding import Rules, placed, shardings_by
from r2t2_jax.contract import ModelShapes, Port
from r2t2_jax.errors import R2T2Error

SETTINGS = {
    "layers": "last5|all|8-20|43,45",
    "scope": "last_prompt|prompt|image|text|all",
    "core_experts": "20|all",
    "dtype": "float32|bfloat16",
    "prompt_bucket": "64",
    "answer_bucket": "4",
}
LARGEST_BUCKET = 1 << 20  # tokens
BUCKETS = {"prompt_bucket": 64, "answer_bucket": 4}
QUESTION_TOKENS, ANSWER_TOKENS, MAX_NEW_TOKENS = 256, 2, 16
RULES = (  # of the decoder: whole paths, and which axis of the leaf is sharded, counted from the end
    (r"(decoder/)?layers/experts/(gate_up|down)", -3),  # the experts
    (r"(decoder/)?layers/(q_proj|k_proj|v_proj)/kernel", -1),
    (r"(decoder/)?layers/o_proj/kernel", -2),
    (r"(decoder/)?lm_head/kernel", -1),
    (r"(decoder/)?embed_tokens", -1),
)
FIELDS = text_fields("config.json", {}, ("quantization_config",))


@dataclass(frozen=True)
class LMConfig:
    """A text model as a model directory describes it.

    Args:
        decoder: sizes.
        stop_ids: tokens that end a turn.
        separate_experts: the checkpoint has one tensor per expert and matrix.
        fp8_block: side of the blocks of an FP8 checkpoint; 0 for other checkpoints.
        fp8_leaves: paths of the parameters that it quantizes.
        prefix: of the names of the decoder's tensors.
    """

    decoder: MoEDecoderConfig
    stop_ids: tuple[int, ...]
    separate_experts: bool = True
    fp8_block: int = 0
    fp8_leaves: tuple[str, ...] = ()
    prefix: str = "model."


def moe_leaves(config: LMConfig) -> dict[str, Leaf]:
    """The leaf that makes each parameter of `MoEDecoder` of upstream's tensors, by path."""
    return moe_decoder_leaves("", config.prefix, "", config.decoder, config.separate_experts)


@dataclass(frozen=True)
class Family:
    """One family of text models.

    Args:
        name: of the port.
        config: the decoder's config from upstream's fields.
        sizes: configs by name, for shapes without weights.
        hub: the hub id of released weights.
        kind: class of its configs.
        leaves: how parameters are made of tensors that are not quantized.
        rules: of sharding, as in `ports/common/sharding.py`.
        fields: the port's knowledge of the fields of `config.json`.
        ignored: regular expressions of whole names of tensors that are not needed.
    """

    name: str
    config: Callable[[Mapping[str, Any], str], MoEDecoderConfig]
    sizes: Mapping[str, Callable[[], MoEDecoderConfig]]
    hub: str = ""
    kind: type[LMConfig] = LMConfig
    leaves: Callable[[Any], dict[str, Leaf]] = moe_leaves
    rules: Rules = RULES
    fields: ConfigFields = FIELDS
    ignored: tuple[str, ...] = (r".*\.rotary_emb\.inv_freq",)

    def load(self, variant: str | None, mesh: Mesh | None = None, weights: bool = True) -> Port:
        """The model with converted weights; see `load` of a port."""
        from r2t2_jax.retrieval.hashed_bag_of_words import default_embedder

        if not variant:
            raise R2T2Error(
                f"{self.name} comes without weights: convert a checkpoint with r2t2 convert, then load {self.name}:DIR"
            )
        folder, settings = parse_variant(self.name, variant)
        directory = open_model_directory(folder, self.name)
        config = config_from_json(self.kind, directory.config)
        decoder = with_dtype(config.decoder, settings, directory)
        scope = routing_scope(decoder, settings)
        refuse_images(self.name, scope)
        graph, shapes = abstract(decoder)
        if mesh is not None:
            shapes = placed(shapes, shardings_by(self.rules, shapes, mesh))
        tokenizer = ChatTokenizer.open(directory.tokenizer, config.stop_ids)
        return Port(
            name=f"{self.name}:{variant}",
            model=RoutedLM(decoder, scope, config.stop_ids, graph),
            params=restore(directory, shapes, weights),
            processor=TextProcessor(decoder, tokenizer, *buckets(settings)),
            embedder=default_embedder(),
            fingerprint=fingerprint(self.name, directory, decoder, scope),
            max_new_tokens=MAX_NEW_TOKENS,
            gate="layers/gate",
        )

    def shapes(self, variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
        """The model without weights; see `shapes` of a port."""
        head, settings = parse_variant(self.name, variant or next(iter(self.sizes)))
        if head in self.sizes:
            decoder = self.sizes[head]()
            decoder = dataclasses.replace(decoder, dtype=dtype_of(settings, decoder.dtype))
        else:
            directory = open_model_directory(head, self.name)
            decoder = with_dtype(config_from_json(self.kind, directory.config).decoder, settings, directory)
        scope = routing_scope(decoder, settings)
        refuse_images(self.name, scope)
        graph, params = abstract(decoder)
        model = RoutedLM(decoder, scope, (0,), graph)
        length = question_tokens or QUESTION_TOKENS
        inputs = jax.eval_shape(lambda: fake_prompt(length))
        return model_shapes(f"{self.name}:{variant or head}", model, params, inputs, answer_tokens, self.rules)

    def converter(self) -> Converter:
        """The description of upstream's checkpoint."""
        return Converter(
            port=self.name,
            config_from=self.config_from,
            leaves=self.all_leaves,
            ignored=lambda config: self.ignored,
            abstract_params=lambda config: abstract(config.decoder)[1],
            side_files=(CONFIG_FILE, TOKENIZER_JSON),
            adapt=self.adapt,
            tied=lambda config: tied_head(config.decoder, config.prefix),
            copied=CHAT_FILES,
            known={"config.json": self.fields},
            hub=self.hub,
        )

    def config_from(self, folder: Path) -> LMConfig:
        """The config of a checkpoint's folder.

        Raises:
            R2T2Error: a field is missing, or has a value that is not implemented.
        """
        file = folder / "config.json"
        described = read_json(file)
        block = fp8_block(described.pop("quantization_config", None), str(file))
        decoder = self.config(described, str(file))
        return self.kind(decoder, read_chat(folder).stop_ids, fp8_block=block)

    def all_leaves(self, config: LMConfig) -> dict[str, Leaf]:
        """The leaf that makes each parameter of upstream's tensors, by path."""
        return dequantized(self.leaves(config), config)

    def adapt(self, config: LMConfig, names: Collection[str]) -> LMConfig:
        """The config for a checkpoint with tensors of these names; raises as `params.adapted`."""
        nested = f"{NESTED}embed_tokens.weight" in names
        return adapted(dataclasses.replace(config, prefix=NESTED if nested else "model."), names, self.leaves)


def parse_variant(port: str, variant: str) -> tuple[str, dict[str, str]]:
    """The directory or size that a variant names, and its settings; a list of layers may contain commas.

    Raises:
        R2T2Error: a setting is unknown or has no value.
    """
    head, *pieces = variant.split(",")
    settings: dict[str, str] = {}
    name = ""
    for piece in pieces:
        if name == "layers" and "=" not in piece:
            settings[name] += f",{piece}"
            continue
        name, _, value = piece.partition("=")
        if name not in SETTINGS or not value:
            known = "; ".join(f"{option}={values}" for option, values in SETTINGS.items())
            raise R2T2Error(f"{port} has no setting {piece!r}; known settings: {known}")
        settings[name] = value
    return head, settings


def buckets(settings: Mapping[str, str]) -> tuple[int, int]:
    """The multiples of tokens to which prompts and answers are padded: settings `prompt_bucket` and `answer_bucket`.

    Raises:
        R2T2Error: one is no positive number.
    """
    chosen = {name: settings.get(name, str(size)) for name, size in BUCKETS.items()}
    for name, value in chosen.items():
        if not (re.fullmatch(NUMBER, value) and 1 <= int(value) <= LARGEST_BUCKET):
            problem = f"{name}={value} is no number of tokens from 1 to {LARGEST_BUCKET:,}"
            raise R2T2Error(f"{problem}; give one such as {BUCKETS[name]}")
    prompt, answer = (int(value) for value in chosen.values())
    return prompt, answer


def dtype_of(settings: Mapping[str, str], default: str) -> str:
    """The setting `dtype`, or the default.

    Raises:
        R2T2Error: it is not one of the two dtypes.
    """
    if settings.get("dtype", "float32") not in ("float32", "bfloat16"):
        raise R2T2Error(f"dtype={settings['dtype']}: choose float32 or bfloat16")
    return settings.get("dtype", default)


def with_dtype(config: MoEDecoderConfig, settings: Mapping[str, str], directory: ModelDirectory) -> MoEDecoderConfig:
    """The config in the dtype of the setting, or else of the directory's first parameter."""
    first = next(iter(directory.parameters.values())).dtype
    return dataclasses.replace(config, dtype=dtype_of(settings, first))


def refuse_images(name: str, scope: RoutingScope) -> None:
    """Refuse the scope `image` of a model without images.

    Raises:
        R2T2Error: the scope is `image`.
    """
    if scope.scope == "image":
        raise R2T2Error(f"{name} reads no images: choose another scope than image")


def fingerprint(name: str, directory: ModelDirectory, config: MoEDecoderConfig, scope: RoutingScope) -> str:
    """The identity on which results depend: weights, dtype, and the scope of re-routing."""
    layers = "+".join(map(str, scope.layers))
    return f"{name}@{directory.digest[:8]}:{config.dtype}:layers={layers}:{scope.scope}:core={scope.core_experts}"


def fake_prompt(length: int) -> Prompt:
    """A prompt of zeros."""
    tokens = jnp.zeros(length, jnp.int32)
    positions = jnp.zeros((3, length), jnp.int32)
    return Prompt(tokens, jnp.ones(length, bool), positions, jnp.zeros(length, bool), jnp.asarray(length))


def model_shapes(
    name: str, model: RoutedLM, params: Any, inputs: Any, answer_tokens: int | None, rules: Rules
) -> ModelShapes:
    """`ModelShapes` of a model and one sample's inputs; `rules` shard its parameters."""
    features = jax.eval_shape(model.encode, params, inputs)
    length = answer_tokens or ANSWER_TOKENS
    answer = jax.eval_shape(lambda: LMAnswer(jnp.zeros(length, jnp.int32), jnp.ones(length, bool)))
    return ModelShapes(
        name, model, params, features, answer, costs(model, params, inputs, length), partial(shardings_by, rules)
    )
