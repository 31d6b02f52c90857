"""MoAI as a routed model: the contract over `modeling.py` and `continuation.py`, and a converted directory as a port.

Axis letters: L mixers, E = 6 experts, A answer tokens, C candidates, D width, S slots of the prompt.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from ports.common.checkpoint.load import ModelDirectory, open_model_directory, restore
from ports.common.sharding import placed, shardings_by
from ports.moai.auxiliary.record import CachedRecords
from ports.moai.batch import MoAIAnswer, MoAIFeatures, MoAIInputs
from ports.moai.config import MoAIConfig
from ports.moai.generate import beams, greedy, tokens_logprobs, words_logprobs
from ports.moai.modeling import MoAINet
from r2t2_jax.contract import ModelShapes, Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import Routing, RoutingSpec

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


@dataclass(frozen=True)
class MoAIModel:
    """The contract's functions; traced, one sample. `graph` is the structure of the NNX modules."""

    config: MoAIConfig
    graph: Any

    @property
    def spec(self) -> RoutingSpec:
        return self.config.spec

    def _net(self, params: Any) -> MoAINet:
        return nnx.merge(self.graph, params)

    def encode(self, params: Any, inputs: MoAIInputs) -> MoAIFeatures:
        """The tower twice, the compressor, the layers before the first mixer, and that mixer's six expert outputs."""
        return self._net(params).encode(inputs)

    def route(self, params: Any, features: MoAIFeatures, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The weights in effect: the gates' mean over the tokens of each side. Replacing by it is itself a change."""
        if routing is not None and routing.mode == "replace":
            return routing.values
        _, _, means = self._net(params).read(features, routing)
        return means

    def answer_loss(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, answer: MoAIAnswer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, which no mixer and no adapter sees: the case of decoding."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return -tokens_logprobs(net, x, cache, features, answer).sum() / jnp.maximum(answer.mask.sum(), 1)

    def answer_logprobs(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, candidates: MoAIAnswer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate; the prompt is read once."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return jax.vmap(lambda answer: tokens_logprobs(net, x, cache, features, answer).sum())(candidates)

    def token_logprobs(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, answer: MoAIAnswer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every word at each place of the answer."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return words_logprobs(net, x, cache, features, answer), answer.mask

    def generate(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded after the end of the turn."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return greedy(net, net.logits(x)[0], cache, features.layout, max_new_tokens)

    def generate_beams(
        self, params: Any, features: MoAIFeatures, routing: Routing | None, max_new_tokens: int, num_beams: int = 3
    ) -> Int[Array, "A"]:
        """The best answer that a beam search finds; three beams are the published setting."""
        net = self._net(params)
        x, cache, _ = net.read(features, routing)
        return beams(net, net.logits(x)[0], cache, features.layout, max_new_tokens, num_beams)

    def as_answer(self, tokens: Int[Array, "A"]) -> MoAIAnswer:
        """Generated tokens as an answer: up to and with the first that stops decoding."""
        ended = (tokens[:, None] == jnp.asarray(self.config.stop_ids)[None]).any(axis=1)
        return MoAIAnswer(tokens, jnp.cumsum(ended) - ended == 0)


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
    wanted = dataclasses.replace(config, merged_plora=False).abstract()[1]
    params = restore(directory, wanted if mesh is None else placed(wanted, shardings(wanted, mesh)))
    if config.merged_plora:
        _, params = merge_plora(dataclasses.replace(config, merged_plora=False), params)
    known = records.fingerprint if records else "none"
    return Port(
        name=f"moai:{variant}",
        model=MoAIModel(config, config.abstract()[0]),
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
    graph, params = config.abstract()
    model = MoAIModel(config, graph)
    text = question_tokens or QUESTION_TOKENS
    inputs = jax.eval_shape(lambda: config.fake_inputs(text))
    features = jax.eval_shape(model.encode, params, inputs)
    length = answer_tokens or ANSWER_TOKENS
    answer = jax.eval_shape(lambda: MoAIAnswer(jnp.zeros(length, jnp.int32), jnp.ones(length, bool)))
    return ModelShapes(f"moai:{name}", model, params, features, answer, costs(config, text, length))
