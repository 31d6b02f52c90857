"""`pocket:sparse`: Qwen3-VL-MoE's architecture at 0.9 million parameters, trained on the pocket world's questions.

Model, processor and settings are those of the multimodal Qwen ports (`ports/common/qwen_vl`); the words are the pocket
model's, and so is the embedder of questions. `weights/sparse/` holds `model.json` (config, sha256 and fingerprint of
the weights, recipe and measurements of the training), `weights.npz`, bfloat16 as 16-bit integers, and `presets.json`,
the settings tuned on validation questions (`python -m benchmarks.sparse`). `weights/atlas-sparse/` is the loss atlas of
the default settings.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ports.common.checkpoint.mapping import path_name
from ports.common.configs import config_from_json
from ports.common.moe_lm.config import routing_scope
from ports.common.moe_lm.port import RULES, buckets, dtype_of, model_shapes, parse_variant
from ports.common.qwen_vl.config import QwenVLConfig
from ports.common.qwen_vl.model import RoutedVL, VLInputs, abstract
from ports.common.qwen_vl.port import fake_inputs, in_dtype
from ports.common.qwen_vl.processing import ImageLimits, QwenVLProcessor
from ports.pocket.params import FOLDER, SPARSE, read_object
from ports.pocket.questions import vocabulary
from ports.pocket.scenes import IMAGE
from ports.pocket.tokenizer import BEGIN, END, SPECIAL, UNKNOWN, Tokenizer
from r2t2_jax.contract import Embedder, ModelShapes, Port, Sample
from r2t2_jax.errors import R2T2Error

WEIGHTS, ATLAS = FOLDER / SPARSE, FOLDER / "atlas-sparse"
BUCKETS = {"prompt_bucket": "32", "answer_bucket": "3"}  # the longest prompt and answer of the pocket world
PATCHES = 64  # of a scene
IMAGE_WORD, ANSWER_WORD = "<image>", SPECIAL[BEGIN]
_REBUILD = "reinstall the package, or rebuild the weights with python -m ports.pocket.training.sparse"


@dataclass(frozen=True)
class SparseTokenizer:
    """Whole words, the token of an image, and the one in front of an answer; what the Qwen processor calls."""

    words: Tokenizer
    image_token: int

    def render(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        """Images and texts of a conversation in order, then the token in front of the answer."""
        parts = [part for message in messages for part in message["content"]]
        texts = [IMAGE_WORD if part["type"] == "image" else part["text"] for part in parts]
        return " ".join([*texts, ANSWER_WORD])

    def encode(self, text: str) -> list[int]:
        """Token ids; the words of image and answer are recognized, and unknown words become `<unknown>`."""
        special = {IMAGE_WORD: [self.image_token], ANSWER_WORD: [BEGIN]}
        pieces = re.split(f"({IMAGE_WORD}|{ANSWER_WORD})", text)
        return [token for piece in pieces for token in special.get(piece) or self.words.encode(piece)]

    def answer(self, text: str) -> list[int]:
        """An answer with the token that ends a turn."""
        return [*self.words.encode(text), END]

    def decode(self, tokens: Sequence[int]) -> str:
        """Generated tokens up to the one that ends the turn; the token of an image becomes `<unknown>`."""
        return self.words.decode([token if token < self.words.size else UNKNOWN for token in tokens])


@dataclass(frozen=True)
class SparseProcessor(QwenVLProcessor):
    """The Qwen processor without its instruction to answer briefly: the model knows short answers only."""

    def prepare(self, params: Any, samples: Sequence[Sample]) -> VLInputs:
        """Prompts, padded on the left, and patches; every leaf has a leading axis B.

        Raises:
            R2T2Error: as for the Qwen processor, or a conversation has earlier turns.
        """
        if any(turn.role == "assistant" for sample in samples for turn in sample.conversation):
            raise R2T2Error("this model answers one question at a time: leave earlier turns out")
        return super().prepare(params, [replace(s, style="plain") if s.style == "word" else s for s in samples])

    def unknown_words(self, question: str) -> list[str]:
        """The words of a question that are not in the vocabulary, in order."""
        assert isinstance(self.tokenizer, SparseTokenizer)
        return self.tokenizer.words.unknown(question)


@dataclass(frozen=True)
class SparseWeights:
    """The content of the weights folder."""

    config: QwenVLConfig
    arrays: Mapping[str, np.ndarray]
    fingerprint: str
    presets: Mapping[str, Any]

    def fill(self, shapes: Any) -> Any:
        """`shapes` with every shape replaced by its array, in the dtype of the shape.

        Raises:
            R2T2Error: an array is missing, unknown or has another shape.
        """
        arrays = dict(self.arrays)

        def put(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
            name = path_name(path)
            value = arrays.pop(name, None)
            if value is None or value.shape != leaf.shape:
                has = "is missing" if value is None else f"has shape {value.shape}, not {leaf.shape}"
                raise R2T2Error(f"weights of pocket:sparse: {name} {has}; {_REBUILD}")
            return jax.device_put(value.astype(leaf.dtype))

        filled = jax.tree_util.tree_map_with_path(put, shapes)
        if arrays:
            raise R2T2Error(f"weights of pocket:sparse hold unknown arrays {sorted(arrays)}; {_REBUILD}")
        return filled


def read_sparse(folder: Path = WEIGHTS) -> SparseWeights:
    """Read and check the shipped weights.

    Raises:
        R2T2Error: a file is missing or damaged.
    """
    described = read_object(folder / "model.json")
    try:
        packed = (folder / "weights.npz").read_bytes()
        digest = hashlib.sha256(packed).hexdigest()
        if digest != described["sha256"]:
            raise R2T2Error(f"weights of pocket:sparse in {folder} are damaged (sha256 {digest[:8]}...); {_REBUILD}")
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            arrays = {name: file[name].view(jnp.bfloat16) for name in file.files}
        config = config_from_json(QwenVLConfig, described["config"])
        presets = folder / "presets.json"
        return SparseWeights(config, arrays, digest[:8], read_object(presets) if presets.exists() else {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R2T2Error(f"weights of pocket:sparse in {folder} cannot be read ({error}); {_REBUILD}") from error


def write_sparse(folder: Path, config: QwenVLConfig, params: Any, **facts: Any) -> None:
    """Write the weights in bfloat16 and `model.json`; `facts` are additional fields of `model.json`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    rounded: dict[str, Any] = {
        path_name(path): np.asarray(jnp.asarray(leaf, jnp.bfloat16)).view(np.uint16) for path, leaf in leaves
    }
    packed = io.BytesIO()
    np.savez(packed, **rounded)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.npz").write_bytes(packed.getvalue())
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    described = {"config": asdict(config), "sha256": digest, **facts}
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8", newline="\n")


def load_sparse(variant: str, embedder: Embedder) -> Port:
    """The sparse model with its shipped weights.

    Args:
        variant: `sparse`, followed by comma-separated settings: `layers`, `scope`, `core_experts`, `dtype`,
            `prompt_bucket`, `answer_bucket` (`ports/common/moe_lm/port.py`). All four layers are re-routed by default.
        embedder: of the questions.

    Raises:
        R2T2Error: a setting is unknown, or the shipped weights are missing or damaged.
    """
    _, settings = parse_variant("pocket:sparse", variant)
    weights = read_sparse()
    config = in_dtype(weights.config, dtype_of(settings, weights.config.decoder.dtype))
    scope = routing_scope(config.decoder, settings)
    graph, shapes = abstract(config)
    tokenizer = SparseTokenizer(Tokenizer(vocabulary()), config.image_token)
    limits = ImageLimits(IMAGE**2, IMAGE**2, config.vision.patch * config.vision.merge)
    sizes = buckets({**BUCKETS, **settings})
    layers = "+".join(map(str, scope.layers))
    routed = f"layers={layers}:{scope.scope}:core={scope.core_experts}"
    return Port(
        name=f"pocket:{variant}",
        model=RoutedVL(config.decoder, scope, config.stop_ids, graph),
        params=weights.fill(shapes),
        processor=SparseProcessor(config, tokenizer, limits, *sizes, scope.scope == "image", "pocket:sparse", PATCHES),
        embedder=embedder,
        fingerprint=f"pocket:sparse@{weights.fingerprint}:{config.decoder.dtype}:{routed}",
        max_new_tokens=int(BUCKETS["answer_bucket"]),
        presets=weights.presets,
        gate="decoder/layers/gate",
        atlas=ATLAS if ATLAS.exists() and set(settings) <= set(BUCKETS) else None,
    )


def sparse_shapes(variant: str, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
    """The sparse model without weights; token counts include the image's 16.

    Raises:
        R2T2Error: a setting is unknown.
    """
    _, settings = parse_variant("pocket:sparse", variant)
    weights = read_sparse()
    config = in_dtype(weights.config, dtype_of(settings, weights.config.decoder.dtype))
    graph, params = abstract(config)
    model = RoutedVL(config.decoder, routing_scope(config.decoder, settings), config.stop_ids, graph)
    length = question_tokens or int(BUCKETS["prompt_bucket"])
    inputs = jax.eval_shape(lambda: fake_inputs(config, length))
    whole = model_shapes(f"pocket:{variant}", model, params, inputs, answer_tokens, RULES)
    return replace(whole, shardings=None)  # the port is not sharded
