"""Host side of the MoVA port: samples to inputs through the model's first pass and the towers; tokens to text.

The first pass names the experts to run. Then every expert is run on the samples that need it, and on no other. Both run
sample by sample, so results do not depend on the batch.

Axis letters: B samples, N tokens of the map, C channels of an expert, E experts, D width of the adapter, M text width,
T tokens, A tokens of the first pass's answer, P patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8
from PIL import Image

from ports.mova.batch import IMAGE, ImageViews, MovaAnswer, MovaInputs
from ports.mova.config import CLIP_MEAN, CLIP_STD, EXPERTS, MovaConfig
from ports.mova.model import MovaModel
from ports.mova.tokens import (
    PROMPTS,
    TEMPLATES,
    TextTokenizer,
    answer_message,
    chosen_experts,
    in_style,
    padded,
    routing_message,
    routing_question,
    text_for_bert,
)
from r2t2_jax.contract import Sample

Pixels = UInt8[np.ndarray, "height width 3"]
Towers = Literal["all", "selected"]

CHUNK = 16  # samples whose views are held in memory at a time: 30 MB each
PROMPT_BUCKET, WORDS_BUCKET, ANSWER_BUCKET = 32, 16, 8


def pad_square(image: Pixels, mean: tuple[float, ...]) -> UInt8[np.ndarray, "side side 3"]:
    """The image centered in a square of color int(255 * mean)."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(part * 255) for part in mean]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def normalize_image(
    image: Pixels, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[np.ndarray, "size size 3"]:
    """The image padded to a square, resized bicubically as uint8, each channel normalized by `mean` and `std`."""
    square = Image.fromarray(pad_square(image, mean))
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return (resized * np.float32(1 / 255) - np.array(mean, np.float32)) / np.array(std, np.float32)


def flattened_patches(
    image: Pixels, max_patches: int, size: int, mean: tuple[float, ...] = CLIP_MEAN
) -> Float[np.ndarray, "P 2+size*size*3"]:
    """Pix2Struct's patches: row and column, counted from 1, then the pixels; padded with zero rows to `max_patches`.

    The whole image is padded to a square and standardized, then resized so that at most `max_patches` fit. The number
    of rows is upstream's float64 expression, which is one too small for some sizes.
    """
    square = pad_square(image, mean).astype(np.float32)
    std = max(square.std(), 1 / math.sqrt(square.size))
    standard = (square - square.mean()) / std
    rows, columns = patch_grid(square.shape[0], square.shape[1], max_patches, size)
    target = (columns * size, rows * size)  # PIL gives the width first
    resized = np.stack(
        [np.asarray(Image.fromarray(standard[..., c]).resize(target, Image.Resampling.BILINEAR)) for c in range(3)],
        axis=-1,
    )
    cut = resized.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(rows * columns, -1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    numbered = np.concatenate([row[:, None] + 1, column[:, None] + 1, cut], axis=1).astype(np.float32)
    return np.pad(numbered, ((0, max_patches - len(numbered)), (0, 0)))


def patch_grid(height: int, width: int, max_patches: int, size: int) -> tuple[int, int]:
    """The numbers of rows and columns of patches."""
    scale = math.sqrt(max_patches * (size / height) * (size / width))
    rows, columns = (math.floor(scale * side / size) for side in (height, width))
    return max(min(rows, max_patches), 1), max(min(columns, max_patches), 1)


def views_of(image: Pixels, config: MovaConfig) -> ImageViews:
    """The four views of one image, on the device."""
    tile = config.clip.image_size
    views = (
        normalize_image(image, tile, CLIP_MEAN, CLIP_STD),
        normalize_image(image, tile, config.dinov2_mean, config.dinov2_std),
        normalize_image(image, config.high_size, config.high_mean, config.high_std),
        flattened_patches(image, config.max_patches, config.pix2struct.patch_size),
    )
    return ImageViews(*jax.device_put(views))  # once, for up to eight programs


@partial(jax.jit, static_argnames="model")
def first_pass(
    params: Any, views: ImageViews, tokens: Int[Array, "T"], mask: Bool[Array, "T"], *, model: MovaModel
) -> tuple[Float[Array, "N D"], Int[Array, "A"]]:
    """CLIP's tokens of one sample, and the model's answer to the routing prompt, which uses no expert."""
    net = nnx.merge(model.graph, params)
    base = net.encode_base(views)
    prompt = net.prefill(net.embed(tokens), mask, jnp.argmax(tokens == IMAGE), net.coarse_image_tokens(base))
    return base, net.generate(prompt, model.config.routing_length)


@partial(jax.jit, static_argnames=("model", "expert"))
def run_tower(params: Any, views: ImageViews, *, model: MovaModel, expert: str) -> Float[Array, "N C"]:
    """One expert's tokens of one sample."""
    return nnx.merge(model.graph, params).encode_expert(expert, views)


@dataclass(frozen=True, eq=False)
class MovaProcessor:
    """Converts samples to inputs, answers to tokens, and tokens to answers.

    Args:
        model: the contract's functions.
        tokenizer: of the language model.
        words: BERT's tokenizer.
        towers: `all` runs the seven towers on every sample, which references need because r may lie on any expert;
            `selected` runs only those chosen by the first pass, enough for answers with the model's own routing.
    """

    model: MovaModel
    tokenizer: TextTokenizer
    words: Callable[[str], list[int]]
    towers: Towers = "all"

    @property
    def fingerprint(self) -> str:
        """The name and the version of the prompts."""
        return f"{__name__}.{type(self).__qualname__}:prompts={PROMPTS}"

    def prepare(self, params: Any, samples: Sequence[Sample]) -> MovaInputs:
        """First pass, towers, prompt and question; every leaf has a leading axis B and is a host array."""
        template = TEMPLATES[self.model.config.template]
        questions = [
            in_style(sample.question, sample.options, sample.style, sample.dataset, sample.context)
            for sample in samples
        ]
        prompts = [self.tokenizer.prompt(template.prompt(answer_message(question))) for question in questions]
        routing = [
            self.tokenizer.prompt(template.prompt(routing_message(routing_question(sample)))) for sample in samples
        ]
        tokens, mask = padded(prompts, PROMPT_BUCKET)
        words, words_mask = padded([self.words(text_for_bert(question)) for question in questions], WORDS_BUCKET)
        images = self._encode_images(params, samples, *padded(routing, PROMPT_BUCKET))
        on_host: tuple[Any, ...] = (*images, tokens, mask, words, words_mask)  # a whole set would not fit on a device
        return replace(MovaInputs(*on_host), prefix=int((tokens == IMAGE).argmax(axis=1).min()))

    def _encode_images(
        self, params: Any, samples: Sequence[Sample], tokens: Int[np.ndarray, "B T"], mask: Bool[np.ndarray, "B T"]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], Bool[np.ndarray, "B E"], Bool[np.ndarray, "B E"]]:
        """Features of base and experts, which experts the first pass chose, and which were run."""
        config = self.model.config
        size, dtype = config.adapter.tokens, jnp.dtype(config.dtype)
        base = np.zeros((len(samples), size, config.adapter.width), dtype)
        experts = tuple(np.zeros((len(samples), size, channels), dtype) for channels in config.expert_widths)
        coarse = np.zeros((len(samples), len(EXPERTS)), bool)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
            return base, experts, coarse, np.ones_like(coarse)  # without weights only shapes matter
        for start in range(0, len(samples), CHUNK):
            rows = range(start, min(start + CHUNK, len(samples)))
            views = {row: views_of(samples[row].pixels(), config) for row in rows}
            for row in rows:
                tokens_of_base, answer = first_pass(params, views[row], tokens[row], mask[row], model=self.model)
                base[row] = tokens_of_base
                coarse[row] = chosen_experts(self._text(np.asarray(answer)), len(EXPERTS))
            for number, expert in enumerate(EXPERTS):
                for row in rows:
                    if self.towers == "all" or coarse[row, number]:
                        experts[number][row] = run_tower(params, views[row], model=self.model, expert=expert)
        return base, experts, coarse, coarse if self.towers == "selected" else np.ones_like(coarse)

    def answer_ids(self, answers: Sequence[str]) -> MovaAnswer:
        """Answer tokens, end token included; every leaf has a leading axis B."""
        rows = [[*self.tokenizer.plain(answer), self.model.config.end] for answer in answers]
        on_host: tuple[Any, ...] = padded(rows, ANSWER_BUCKET, self.model.config.pad)
        return MovaAnswer(*on_host)

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to text, cut at the end token."""
        return [self._text(row) for row in np.asarray(tokens)]

    def _text(self, tokens: Int[np.ndarray, "A"]) -> str:
        ended = np.flatnonzero(tokens == self.model.config.end)
        answer = tokens[: ended[0]] if len(ended) else tokens
        return self.tokenizer.text([int(token) for token in answer]).strip()


@dataclass(frozen=True, eq=False)
class MovaEmbedder:
    """Questions to unit vectors: BERT's hidden state of the first token, which is also the gates' input."""

    model: MovaModel
    params: Any
    words: Callable[[str], list[int]]
    fingerprint: str

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B M"]:
        """Unit vectors, one per text."""
        tokens, mask = padded([self.words(text_for_bert(text)) for text in texts], WORDS_BUCKET)
        vectors = np.asarray(encode_questions(self.params, tokens, mask, model=self.model), np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames="model")
def encode_questions(
    params: Any, words: Int[Array, "B T"], mask: Bool[Array, "B T"], *, model: MovaModel
) -> Float[Array, "B M"]:
    """BERT's hidden state of the first token, computed question by question."""
    net = nnx.merge(model.graph, params)
    return jax.lax.map(lambda row: net.encode_question(*row), (words, mask))
