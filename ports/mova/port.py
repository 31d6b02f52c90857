"""The MoVA port: a converted model directory as a `Port`, the model's shapes, and how its weights are sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from ports.common.checkpoint.load import ModelDirectory, open_model_directory, restore, split_variant
from ports.common.sharding import placed, shardings_by
from ports.mova.batch import MovaAnswer
from ports.mova.config import MovaConfig
from ports.mova.costs import costs
from ports.mova.model import MovaModel
from ports.mova.modeling import abstract, fake_inputs
from r2t2_jax.contract import CAPTION_PROMPTS, CaptionModel, ModelShapes, Port
from r2t2_jax.errors import R2T2Error

OPTIONS = {
    "dtype": ("float32", "bfloat16", "float16"),
    "keep": ("outputs", "keys"),
    "remat": ("none", "attention", "full"),
    "support": ("selected", "all"),
    "towers": ("all", "selected"),
}
SIZES = {"8b": MovaConfig.full_8b, "vicuna-7b": MovaConfig.vicuna_7b, "tiny": MovaConfig.tiny}
QUESTION_TOKENS, ANSWER_TOKENS = 96, 8  # a prompt is some 50 tokens of template and the question; an answer is short

# Upstream's scripts for these allow 1024 tokens, 8 times as many as the others.
LONG_ANSWERS, LONGER = ("mmbench", "scienceqa", "mathvista", "qbench"), 8

ADAPTED = ("adapter", "decoder", "embed_tokens", "lm_head")  # connector and language model, which warmup trains

_LAYERS = r"(clip|dinov2|pix2struct|deplot|biomedclip|bert|decoder)/layers|(vary/encoder|sam|codetr)/runs/\d+"
_BLOCKS = r"adapter/blocks/\d+"

RULES = (  # whole paths, and which axis of the leaf is sharded, counted from the end
    (r"embed_tokens", -2),
    (r"lm_head/kernel", -1),
    (rf"({_LAYERS})/(attention/)?(q_proj|k_proj|v_proj|qkv/linear)/(kernel|bias)", -1),
    (rf"({_LAYERS})/(attention/)?o_proj/kernel", -2),
    (rf"({_LAYERS}|{_BLOCKS})/(mlp/)?(gate_proj|up_proj|fc1|weights_in|wi_0|wi_1|intermediate)/(kernel|bias)", -1),
    (rf"({_LAYERS}|{_BLOCKS})/(mlp/)?(down_proj|fc2|weights_out|wo|output)/kernel", -2),
    (rf"{_BLOCKS}/(expert_kv/\d+/)?kv/(k_proj|v_proj)/kernel", -1),
    (rf"{_BLOCKS}/(cross_attn/attention|self_attn)/q_proj/kernel", -1),
    (rf"{_BLOCKS}/(cross_attn/attention|self_attn)/o_proj/kernel", -2),
    (r"adapter/downsample/fc1/(kernel|bias)", -1),
    (r"adapter/downsample/fc2/kernel", -2),
)


def shardings(params: Any, mesh: Mesh | AbstractMesh) -> Any:
    """The sharding of every parameter over the mesh axis `model`; see `ports/common/sharding.py`.

    Raises:
        R2T2Error: the mesh has no axis `model`.
    """
    return shardings_by(RULES, params, mesh)


def load(variant: str | None, mesh: Mesh | None = None, weights: bool = True) -> Port:
    """MoVA with converted weights.

    Args:
        variant: the directory written by `r2t2 convert mova`, optionally followed by settings: `DIR,support=all`.
            `dtype` of parameters and activations defaults to the checkpoint's; `keep` and `support` are fields of
            `MovaConfig`, `remat` of its adapter and decoder, `towers` of `MovaProcessor`.
        mesh: devices along the axis `model`, over which the weights are sharded as they are read.
        weights: if false, parameters are shapes.

    Raises:
        R2T2Error: no directory is named, it is damaged or another port's, or there is no such setting.
    """
    from ports.mova.processing import MovaEmbedder, MovaProcessor
    from ports.mova.tokens import read_tokenizer, read_wordpiece

    if not variant:
        raise R2T2Error("mova comes without weights: convert a checkpoint with r2t2 convert, then load mova:DIR")
    directory, config, towers = _open(variant)
    graph, abstract_params = abstract(config)
    if mesh is not None:
        abstract_params = placed(abstract_params, shardings(abstract_params, mesh))
    model, params = MovaModel(config, graph), restore(directory, abstract_params, weights)
    words = read_wordpiece(directory.tokenizer / "vocab.txt", config.bert.positions)
    fingerprint = f"mova@{directory.digest[:8]}:{config.dtype}"
    return Port(
        name=f"mova:{variant}",
        model=model,
        params=params,
        processor=MovaProcessor(model, read_tokenizer(directory.tokenizer), words, towers),
        embedder=MovaEmbedder(model, params, words, f"{fingerprint}:bert"),
        fingerprint=fingerprint,
        max_new_tokens=config.answer_length,
        captioning=CaptionModel(CAPTION_PROMPTS, ADAPTED),
        token_limits=dict.fromkeys(LONG_ANSWERS, LONGER * config.answer_length),
    )


def _open(variant: str) -> tuple[ModelDirectory, MovaConfig, Any]:
    """The directory of a variant, its config under the variant's settings, and which towers to run."""
    folder, pairs = split_variant(variant)
    settings: dict[str, Any] = {}
    for name, value in pairs:
        if value not in OPTIONS.get(name, ()):
            known = "; ".join(f"{option}={'|'.join(values)}" for option, values in OPTIONS.items())
            raise R2T2Error(f"mova has no setting '{name}={value}'; known settings: {known}")
        settings[name] = value
    directory = open_model_directory(folder, "mova")
    towers, dtype, remat = settings.pop("towers", "all"), settings.pop("dtype", None), settings.pop("remat", None)
    config = MovaConfig.from_json({**directory.config, **settings})
    config = config if remat is None else config.with_remat(remat)
    return directory, config.in_dtype(dtype or config.dtype), towers


def shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
    """MoVA without weights.

    Args:
        variant: `8b` (the default), `vicuna-7b`, `tiny`, or a model directory as for `load`.
        question_tokens: of the prompt, template included, IMAGE counted as one.
        answer_tokens: of the answer, end token included.

    Raises:
        R2T2Error: there is neither such a size nor such a directory.
    """
    if (variant or "8b") in SIZES:
        config = SIZES[variant or "8b"]()
    else:
        _, config, _ = _open(variant or "")
    graph, params = abstract(config)
    model = MovaModel(config, graph)
    tokens, length = question_tokens or QUESTION_TOKENS, answer_tokens or ANSWER_TOKENS
    inputs = jax.eval_shape(lambda: fake_inputs(config, tokens))
    features = jax.eval_shape(model.encode, params, inputs)
    answer = jax.eval_shape(lambda: MovaAnswer(jnp.zeros(length, jnp.int32), jnp.ones(length, bool)))
    return ModelShapes(f"mova:{variant or '8b'}", model, params, features, answer, costs(config, tokens), shardings)
