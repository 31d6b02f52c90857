"""The MoAI port: a converted model directory as a `Port`, the model's shapes, and how its weights are sharded."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from ports.common.checkpoint.load import ModelDirectory, open_model_directory, restore, split_variant
from ports.common.sharding import placed, shardings_by
from ports.moai.auxiliary.record import CachedRecords
from ports.moai.batch import MoAIAnswer
from ports.moai.config import MoAIConfig
from ports.moai.costs import costs
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract, fake_inputs
from r2t2_jax.contract import CAPTION_PROMPTS, CaptionModel, ModelShapes, Port
from r2t2_jax.errors import R2T2Error, R2T2Warning

RULES = (  # whole paths, and which axis of the leaf is sharded, counted from the end
    (r"(plain|mixed)/(qkv_proj|gate_proj|up_proj)/(main|image|lora_b)/kernel", -1),
    (r"(plain|mixed)/(o_proj|down_proj)/(main|image|lora_a)/kernel", -2),
    (r"mixed/mixer/\w+/(q_proj|k_proj|v_proj)/up/kernel", -1),
    (r"mixed/mixer/\w+/o_proj/down/kernel", -2),
    (r"vision/tower/layers/attention/(q_proj|k_proj|v_proj)/(kernel|bias)", -1),
    (r"vision/tower/layers/attention/o_proj/kernel", -2),
    (r"vision/tower/layers/fc1/(kernel|bias)", -1),
    (r"vision/tower/layers/fc2/kernel", -2),
    (r"vision/fc1/(kernel|bias)", -1),
    (r"vision/fc2/kernel", -2),
    (r"compressor/layers/(q_proj|kv_proj|fc1)/kernel", -1),
    (r"compressor/layers/(o_proj|fc2)/kernel", -2),
    (r"lm_head/kernel", -1),
    (r"embed_tokens", -1),  # the width; the number of rows, vocabulary + 1, is odd
)


def shardings(params: Any, mesh: Mesh | AbstractMesh) -> Any:
    """The sharding of every parameter over the mesh axis `model`; see `ports/common/sharding.py`.

    Raises:
        R2T2Error: the mesh has no axis `model`.
    """
    return shardings_by(RULES, params, mesh)


OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {  # settings of a variant: the config's field, and its values
    "dtype": ("dtype", ("float32", "bfloat16", "float16")),
    "gates": ("gate_dtype", ("float32", "float16")),
    "pixels": ("image_dtype", ("float32", "float16")),
    "plora": ("merged_plora", ("factored", "merged")),
    "remat": ("remat", ("none", "attention", "full")),
}
QUESTION_TOKENS, ANSWER_TOKENS = 64, 8  # typical lengths: the text of a prompt; an answer with its end
# Connectors and language model, which warmup trains; the vision tower stays.
ADAPTED = ("vision/fc1", "vision/fc2", "compressor", "plain", "mixed", "norm", "embed_tokens", "lm_head")
MAX_NEW_TOKENS, TOKEN_LIMITS = 128, {"mme": 5}  # of the published runs
SIZES = {"7b": MoAIConfig.full_7b, "tiny": MoAIConfig.tiny}


def load(variant: str | None, mesh: Mesh | None = None, weights: bool = True) -> Port:
    """MoAI with converted weights.

    Args:
        variant: the directory written by `r2t2 convert moai`, followed by comma-separated settings: `aux=FOLDER`
            (a store written by `r2t2 aux build`; several may be given; `none` for no auxiliary inputs, which is also
            the default, with a warning), `dtype`, `gates`, `pixels`, `plora`, `remat`.
        mesh: devices along the axis `model`, over which the weights are sharded as they are read.
        weights: if false, parameters are shapes.

    Raises:
        R2T2Error: no directory is named, it is damaged or another model's, or a setting is unknown.
    """
    from ports.moai.params import merge_plora
    from ports.moai.processing import TOKENIZER_FILE, MoAIProcessor, MoAITokenizer
    from r2t2_jax.retrieval.hashed_bag_of_words import default_embedder

    if not variant:
        raise R2T2Error("moai comes without weights: convert a checkpoint with r2t2 convert, then load moai:DIR")
    directory, config, auxiliary = _open(variant)
    tokenizer = MoAITokenizer(directory.tokenizer / TOKENIZER_FILE, config).adjusted()
    config = tokenizer.config
    records = _records(auxiliary)
    abstract_params = abstract(dataclasses.replace(config, merged_plora=False))[1]
    if mesh is not None:
        abstract_params = placed(abstract_params, shardings(abstract_params, mesh))
    params = restore(directory, abstract_params, weights)
    if config.merged_plora:
        merge = partial(merge_plora, dataclasses.replace(config, merged_plora=False))
        params = merge(params)[1] if weights else jax.eval_shape(lambda params: merge(params)[1], params)
    aux = records.fingerprint if records else "none"
    return Port(
        name=f"moai:{variant}" if auxiliary else f"moai:{variant},aux=none",
        model=MoAIModel(config, abstract(config)[0]),
        params=params,
        processor=MoAIProcessor(config, tokenizer, records),
        embedder=default_embedder(),
        fingerprint=f"moai@{directory.digest[:8]}:{config.dtype}:gates={config.gate_dtype}:aux={aux}",
        max_new_tokens=MAX_NEW_TOKENS,
        gate="mixed/mixer/gates",
        captioning=CaptionModel(CAPTION_PROMPTS, ADAPTED),
        token_limits=TOKEN_LIMITS,
    )


def _records(folders: Sequence[str]) -> CachedRecords | None:
    """The stores of records; `None`, with a warning unless `none` is given, if there are none."""
    if not folders:
        warnings.warn(
            "MoAI runs without auxiliary inputs (segments, detections, scene graph, text), and it was trained with "
            "them: make them by r2t2 aux build and load moai:DIR,aux=FOLDER; aux=none runs without this warning",
            R2T2Warning,
            stacklevel=3,
        )
    return CachedRecords.open(*map(Path, folders)) if folders and tuple(folders) != ("none",) else None


def _open(variant: str) -> tuple[ModelDirectory, MoAIConfig, list[str]]:
    """The directory of a variant, its config under the variant's settings, and the stores of auxiliary records."""
    folder, settings, auxiliary = _settings(variant)
    directory = open_model_directory(folder, "moai")
    return directory, MoAIConfig.from_json({**directory.config, **settings}), auxiliary


def _settings(variant: str) -> tuple[str, dict[str, Any], list[str]]:
    """The directory or size that a variant names, its settings, and the stores of auxiliary records."""
    head, pairs = split_variant(variant)
    settings: dict[str, Any] = {}
    auxiliary: list[str] = []
    for name, value in pairs:
        if name == "aux" and value:
            auxiliary.append(value)
            continue
        field, values = OPTIONS.get(name, ("", ()))
        if value not in values:
            known = "; ".join(f"{option}={'|'.join(allowed)}" for option, (_, allowed) in OPTIONS.items())
            raise R2T2Error(f"moai has no setting '{name}={value}'; known settings: aux=FOLDER|none; {known}")
        settings[field] = value == "merged" if field == "merged_plora" else value
    return head, settings, auxiliary


def shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
    """MoAI without weights.

    Args:
        variant: `7b` (the default), `tiny`, or a model directory, followed by settings as for `load`.
        question_tokens: text tokens of the prompt, system text and template included, image tokens excluded.
        answer_tokens: of the answer, end of turn included.

    Raises:
        R2T2Error: there is neither such a size nor such a directory.
    """
    name = variant or "7b"
    size, settings, _ = _settings(name)
    config = dataclasses.replace(SIZES[size](), **settings) if size in SIZES else _open(name)[1]
    graph, params = abstract(config)
    model = MoAIModel(config, graph)
    text = question_tokens or QUESTION_TOKENS
    inputs = jax.eval_shape(lambda: fake_inputs(config, text))
    features = jax.eval_shape(model.encode, params, inputs)
    length = answer_tokens or ANSWER_TOKENS
    answer = jax.eval_shape(lambda: MoAIAnswer(jnp.zeros(length, jnp.int32), jnp.ones(length, bool)))
    return ModelShapes(f"moai:{name}", model, params, features, answer, costs(config, text), shardings)
