"""Parameters of `MoEDecoder` from checkpoints: fused or per-expert names, both layouts of fused experts, FP8 in blocks.

Axis letters: E experts, D width, F width of an expert.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeVar

import ml_dtypes
import numpy as np

from ports.common.checkpoint.mapping import Leaf, layer_names, linear_leaves, norm_leaves
from ports.common.configs import checked_value
from ports.common.layers.moe_decoder import MoEDecoderConfig
from r2t2_jax.errors import R2T2Error

NESTED = "model.language_model."  # prefix of the decoder's tensors in a multimodal model


def moe_decoder_leaves(
    ours: str, theirs: str, head: str, config: MoEDecoderConfig, separate_experts: bool = True
) -> dict[str, Leaf]:
    """Parameters of `MoEDecoder` at path `ours` ("" or "decoder/").

    Args:
        ours: prefix of the paths.
        theirs: prefix of the tensors' names, before `layers.{i}`.
        head: prefix of the output head's name.
        config: sizes.
        separate_experts: one tensor per expert and matrix, [out, in]; else all experts of a layer in `gate_up_proj`
            and `down_proj`.
    """
    layer = f"{theirs}layers.{{}}"
    leaves = {f"{ours}embed_tokens": Leaf((f"{theirs}embed_tokens.weight",))}
    leaves |= norm_leaves(f"{ours}norm", f"{theirs}norm", bias=False)
    if not config.tied:
        leaves |= linear_leaves(f"{ours}lm_head", f"{head}lm_head", bias=False)
    for name in ("input_layernorm", "post_attention_layernorm"):
        leaves |= norm_leaves(f"{ours}layers/{name}", f"{layer}.{name}", config.layers, bias=False)
    for name in ("q_norm", "k_norm"):
        leaves |= norm_leaves(f"{ours}layers/{name}", f"{layer}.self_attn.{name}", config.layers, bias=False)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        leaves |= linear_leaves(
            f"{ours}layers/{name}", f"{layer}.self_attn.{name}", bias=False, layers=config.layers
        )  # fmt: skip
    leaves |= linear_leaves(f"{ours}layers/gate", f"{layer}.mlp.gate", bias=False, layers=config.layers)
    return leaves | expert_leaves(f"{ours}layers/experts", layer, config, separate_experts, inputs_first)


def tied_head(decoder: MoEDecoderConfig, prefix: str) -> tuple[tuple[str, str], ...]:
    """The names of the embeddings and of the output head that is tied to them; a checkpoint may hold both."""
    return ((f"{prefix}embed_tokens.weight", "lm_head.weight"),) if decoder.tied else ()


def expert_leaves(
    ours: str, layer: str, config: MoEDecoderConfig, separate: bool, change: Callable[..., np.ndarray]
) -> dict[str, Leaf]:
    """Parameters of `Experts` at path `ours`.

    Args:
        ours: the path.
        layer: a layer's prefix, with `{}` for its number.
        config: sizes.
        separate: one tensor per expert and matrix, [out, in]; else all experts of a layer in two tensors.
        change: of such a tensor to [E, in, out], called with `inside` and `outside`, the two widths.
    """
    return _separate(ours, layer, config) if separate else _fused(ours, layer, config, change)


def _separate(ours: str, layer: str, config: MoEDecoderConfig) -> dict[str, Leaf]:
    def names(*parts: str) -> tuple[str, ...]:
        return tuple(
            f"{layer.format(i)}.mlp.experts.{expert}.{part}.weight"
            for i in range(config.layers)
            for expert in range(config.experts)
            for part in parts
        )

    experts = config.experts
    join, stack = partial(join_gate_up, experts=experts), partial(stack_experts, experts=experts)
    return {
        f"{ours}/gate_up": Leaf(names("gate_proj", "up_proj"), join, True, 2 * experts, lazy=True),
        f"{ours}/down": Leaf(names("down_proj"), stack, True, experts, lazy=True),
    }


def _fused(ours: str, layer: str, config: MoEDecoderConfig, change: Callable[..., np.ndarray]) -> dict[str, Leaf]:
    def leaf(name: str, inside: int, outside: int) -> Leaf:
        sized = partial(change, inside=inside, outside=outside)
        return Leaf(layer_names(f"{layer}.mlp.experts.{name}", config.layers), sized, True)

    return {
        f"{ours}/gate_up": leaf("gate_up_proj", config.width, 2 * config.hidden),
        f"{ours}/down": leaf("down_proj", config.hidden, config.width),
    }


def join_gate_up(tensors: Iterator[np.ndarray], experts: int) -> np.ndarray:
    """Alternating [F, D] weights of gate and up, expert by expert, as [E, D, 2F]."""
    pairs = (np.concatenate(pair) for pair in zip(tensors, tensors, strict=True))
    return stack_experts(pairs, experts)


def stack_experts(tensors: Iterator[np.ndarray], experts: int) -> np.ndarray:
    """[out, in] weights of all experts as [E, in, out]."""
    first = next(tensors)
    stacked = np.empty((experts, *first.T.shape), first.dtype)
    for expert, tensor in enumerate(chain([first], tensors)):
        stacked[expert] = tensor.T
    return stacked


def inputs_first(tensor: np.ndarray, inside: int, outside: int) -> np.ndarray:
    """Fused experts as [E, in, out], from that layout (the hub's) or from [E, out, in] (transformers' memory).

    Raises:
        ValueError: the shape is neither, or both layouts have the same shape.
    """
    if inside == outside:
        raise ValueError(f"experts of {inside} x {outside} have the same shape in both layouts of the file")
    if tensor.shape[1:] == (inside, outside):
        return tensor
    if tensor.shape[1:] == (outside, inside):
        return tensor.transpose(0, 2, 1)
    raise ValueError(f"experts need {inside} x {outside}")


LARGEST_SCALE = 1e30  # of FP8 blocks: products stay below the largest bfloat16
SCALE = "_scale_inv"  # what the name of a tensor's block scales adds to the tensor's


def from_fp8(leaf: Leaf, block: int) -> Leaf:
    """The parameter from FP8 tensors and their block scales, in bfloat16."""
    names = tuple(part for name in leaf.names for part in (name, f"{name}{SCALE}"))
    return Leaf(names, partial(_dequantized, leaf, block), leaf.stacked, 2 * leaf.group, "bfloat16", lazy=True)


def _dequantized(leaf: Leaf, block: int, tensors: Iterator[np.ndarray]) -> np.ndarray:
    return leaf.entry(dequantize(*pair, block) for pair in zip(tensors, tensors, strict=True))


def dequantize(tensor: np.ndarray, scales: np.ndarray, block: int) -> np.ndarray:
    """Values times the scale of their block of `block` x `block` in the last two axes, rounded to bfloat16.

    Raises:
        ValueError: there is not one scale per block.
    """
    blocks = tuple(-(-size // block) for size in tensor.shape[-2:])
    if scales.shape != (*tensor.shape[:-2], *blocks):
        raise ValueError(f"scales of shape {scales.shape} for blocks of {block} in {tensor.shape}")
    if np.abs(scales.astype(np.float32)).max(initial=0) > LARGEST_SCALE:
        raise ValueError(f"scales of blocks above {LARGEST_SCALE:g}")
    out = np.empty(tensor.shape, ml_dtypes.bfloat16)
    for row in range(blocks[0]):  # one row of blocks at a time, in float32
        rows = slice(row * block, (row + 1) * block)
        scale = np.repeat(scales[..., row, :].astype(np.float32), block, axis=-1)[..., : tensor.shape[-1]]
        out[..., rows, :] = tensor[..., rows, :].astype(np.float32) * scale[..., None, :]
    return out


def fp8_block(described: Any, where: str) -> int:
    """The side of the blocks of an FP8 checkpoint; 0 for a checkpoint that is not quantized.

    Raises:
        R2T2Error: it is quantized in another way.
    """
    if not described:
        return 0
    fields = checked_value(where, "quantization_config", described, dict[str, Any])
    size = fields.get("weight_block_size")
    square = isinstance(size, list) and len(size) == 2 and size[0] == size[1]
    if fields.get("quant_method") != "fp8" or not square:
        raise R2T2Error(f"{where}: quantization_config: only FP8 in square blocks is read; convert the BF16 model")
    return checked_value(where, "weight_block_size", size[0], int)


class Spelling(Protocol):
    """The fields of a config that say how its checkpoint spells tensors; `LMConfig` and `QwenVLConfig` have them."""

    @property
    def separate_experts(self) -> bool: ...

    @property
    def fp8_block(self) -> int: ...

    @property
    def fp8_leaves(self) -> tuple[str, ...]: ...


Spelled = TypeVar("Spelled", bound=Spelling)


def has_separate_experts(names: Collection[str]) -> bool:
    """Whether a checkpoint has one tensor per expert and matrix."""
    return any(".mlp.experts.0." in name for name in names)


def dequantized(mapping: dict[str, Leaf], config: Spelling) -> dict[str, Leaf]:
    """The leaves, those of `fp8_leaves` from FP8 tensors and their scales."""
    return mapping | {path: from_fp8(mapping[path], config.fp8_block) for path in config.fp8_leaves}


def adapted(config: Spelled, names: Collection[str], leaves: Callable[[Spelled], Mapping[str, Leaf]]) -> Spelled:
    """The config for a checkpoint with tensors of these names.

    Raises:
        R2T2Error: there are scales of FP8 blocks, and the config does not state the blocks.
    """
    kept: Any = config
    kept = dataclasses.replace(kept, separate_experts=has_separate_experts(names))
    scaled = tuple(path for path, leaf in leaves(kept).items() if f"{leaf.names[0]}{SCALE}" in names)
    if scaled and not config.fp8_block:
        raise R2T2Error("the checkpoint has scales of FP8 blocks, and its config.json no quantization_config")
    adapted: Spelled = dataclasses.replace(kept, fp8_leaves=scaled)
    return adapted
