"""The MoAI port: a converted model directory as a `Port`, the model's shapes, and how its weights are sharded."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ports.common.checkpoint.load import ModelDirectory, open_model_directory, restore
from ports.common.sharding import placed, shardings_by
from ports.moai.auxiliary.record import CachedRecords
from ports.moai.batch import MoAIAnswer
from ports.moai.config import MoAIConfig
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract, fake_inputs
from r2t2_jax.contract import ModelShapes, Port
from r2t2_jax.errors import R2T2Error

# Whole paths, and which axis of the leaf is cut, counted from the end.
RULES = (
    (r"(plain|mixed)/(qkv|gate|up)/(main|image|up)/kernel", -1),
    (r"(plain|mixed)/(out|down)/(main|image|down)/kernel", -2),
    (r"mixed/mixer/\w+/(query|key|value)/up/kernel", -1),
    (r"mixed/mixer/\w+/out/down/kernel", -2),
    (r"vision/tower/layers/attention/(q_proj|k_proj|v_proj)/(kernel|bias)", -1),
    (r"vision/tower/layers/attention/o_proj/kernel", -2),
    (r"vision/tower/layers/fc1/(kernel|bias)", -1),
    (r"vision/tower/layers/fc2/kernel", -2),
    (r"vision/up/(kernel|bias)", -1),
    (r"vision/out/kernel", -2),
    (r"compressor/layers/(query|key_value|up)/kernel", -1),
    (r"compressor/layers/(out|down)/kernel", -2),
    (r"lm_head/kernel", -1),
    (r"embed_tokens", -1),  # the width: the rows are one more than the vocabulary, and odd
)


def shardings(params: Any, mesh: Mesh) -> Any:
    """A sharding for every parameter, as `ports/common/sharding.py` describes it."""
    return shardings_by(RULES, params, mesh)


OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {  # a variant's settings: the config's field, and its values
    "dtype": ("dtype", ("float32", "bfloat16", "float16")),
    "gates": ("gate_dtype", ("float32", "float16")),
    "pixels": ("image_dtype", ("float32", "float16")),
    "plora": ("merged_plora", ("factored", "merged")),
    "remat": ("remat", ("none", "attention", "full")),
}
QUESTION_TOKENS, ANSWER_TOKENS = 64, 8  # usual ones: a prompt's text, an answer with its end
MAX_NEW_TOKENS = 128  # of the published runs
SIZES = {"7b": MoAIConfig.full_7b, "tiny": MoAIConfig.tiny}


def load(variant: str | None, mesh: Mesh | None = None) -> Port:
    """A converted MoAI.

    Args:
        variant: a directory made by `r2t2 convert moai`, and after commas `aux=FOLDER` (records made by
            `r2t2 aux build`; without it the model runs without auxiliary inputs, and says so) and settings:
            `dtype`, `gates`, `pixels`, `plora`, `remat`.
        mesh: devices along the axis `model`, over which the weights are cut as they are read.

    Raises:
        R2T2Error: no directory is named, it is damaged or another model's, or a setting is unknown.
    """
    from ports.moai.params import merge_plora
    from ports.moai.processing import FILE, MoAIProcessor, Tokenizer
    from r2t2_jax.retrieval.hashed_bag_of_words import default_embedder

    if not variant:
        raise R2T2Error("moai comes without weights: convert a checkpoint with r2t2 convert, then load moai:DIR")
    directory, config, auxiliary = _open(variant)
    tokenizer = Tokenizer(directory.tokenizer / FILE, config).adjusted()
    config = tokenizer.config
    records = _records(auxiliary)
    wanted = abstract(dataclasses.replace(config, merged_plora=False))[1]
    params = restore(directory, wanted if mesh is None else placed(wanted, shardings(wanted, mesh)))
    if config.merged_plora:
        _, params = merge_plora(dataclasses.replace(config, merged_plora=False), params)
    known = records.fingerprint if records else "none"
    return Port(
        name=f"moai:{variant}",
        model=MoAIModel(config, abstract(config)[0]),
        params=params,
        processor=MoAIProcessor(config, tokenizer, records),
        embedder=default_embedder(),
        fingerprint=f"moai@{directory.digest[:8]}:{config.dtype}:gates={config.gate_dtype}:aux={known}",
        max_new_tokens=MAX_NEW_TOKENS,
        gate="mixed/mixer/gates",
    )


def _records(folder: Path | None) -> CachedRecords | None:
    if folder is None:
        warnings.warn(
            "MoAI runs without auxiliary inputs (segments, detections, scene graph, text): it was trained with them; "
            "r2t2 aux build makes them, moai:DIR,aux=FOLDER takes them",
            stacklevel=3,
        )
        return None
    return CachedRecords.open(folder)


def _open(variant: str) -> tuple[ModelDirectory, MoAIConfig, Path | None]:
    """The directory of a variant, its config under the variant's settings, and the folder of auxiliary records."""
    folder, settings, auxiliary = _settings(variant)
    directory = open_model_directory(folder, "moai")
    return directory, MoAIConfig.from_json({**directory.config, **settings}), auxiliary


def _settings(variant: str) -> tuple[str, dict[str, Any], Path | None]:
    """What stands before the settings of a variant, the settings, and the folder of auxiliary records."""
    head, *pairs = variant.split(",")
    settings: dict[str, Any] = {}
    auxiliary = None
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name == "aux" and value:
            auxiliary = Path(value)
            continue
        field, values = OPTIONS.get(name, ("", ()))
        if value not in values:
            known = "; ".join(f"{option}={'|'.join(allowed)}" for option, (_, allowed) in OPTIONS.items())
            raise R2T2Error(f"moai has no setting {pair!r}; it has aux=FOLDER; {known}")
        settings[field] = value == "merged" if field == "merged_plora" else value
    return head, settings, auxiliary


def shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
    """MoAI without weights.

    Args:
        variant: `7b` (the default), `tiny`, or a model directory, and settings behind it as for `load`.
        question_tokens: text of the prompt, system text and template included, without the image.
        answer_tokens: of the answer, end of turn included.

    Raises:
        R2T2Error: no such size and no such directory.
    """
    from ports.moai.costs import costs

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
    return ModelShapes(f"moai:{name}", model, params, features, answer, costs(config, text, length))
