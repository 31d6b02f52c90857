"""Sizes and settings of MoAI, and reading them from upstream's `config.json`. `modeling.py` builds the model.

Axis letters: L routed layers (mixers), E experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ports.common.configs import ConfigFields, checked_value, config_from_json
from ports.common.layers.attention import BLOCK
from ports.common.layers.clip_vit import ClipVitConfig
from ports.common.layers.stack import Remat
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec

# In the order of the routing vector: experts of the image tokens, then experts of the language tokens.
EXPERTS = ("img_aux", "img_lang", "img_self", "lang_aux", "lang_img", "lang_self")

OURS = "r2t2"  # our field in config.json: any fields of `MoAIConfig`, for sizes that upstream keeps in code
FIELDS = ConfigFields(
    "config.json of MoAI",
    taken={
        "hidden_size": "width",
        "intermediate_size": "hidden",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_positions",
        "rms_norm_eps": "rms_eps",
        "rope_theta": "rope_theta",
        "img_size": "image_size",
        "pad_token_id": "pad_id",
        "bos_token_id": "bos_id",
        "eos_token_id": "eos_id",
    },
    fixed={
        "bias": (False,),
        "hidden_act": ("silu",),
        "tie_word_embeddings": (False,),
        "model_type": ("internlm", "internlm2"),
        "rope_scaling": (None, {"type": "dynamic", "factor": 1.0}),  # acts only beyond max_positions, which is refused
    },
    inert=(OURS,),
)  # torch_dtype is inert: it says float32, which is wrong; the header of the files is read instead


@dataclass(frozen=True)
class MoAIConfig:
    """Every size of the model. The defaults are MoAI-7B; sizes that its config.json lacks come from upstream's code.

    Args:
        end_id: the token that ends the assistant's turn, `[UNUSED_TOKEN_145]`; inferred from the vocabulary's size, as
            `image_id` is.
        stop_ids: tokens that stop decoding; upstream's are `(2,)`, and it truncates the text at `end_id` afterwards.
        gate_dtype: `float16` casts the gates' logits before the softmax, as the released evaluation does.
        image_dtype: precision of the image's normalization constants; the released run has them in float16.
        merged_plora: image rows use weights that include the adapter (`params.merge_plora`): the same algebra in fewer
            products, with twice the decoder's weights in memory.
        attention_block: number of image rows whose attention is computed at a time, without keys that are masked for
            all of them.
        remat: what the backward pass recomputes: nothing, each layer's attention, or each whole layer.
        dtype: of parameters and activations.
    """

    width: int = 4096
    hidden: int = 14336
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    vocab_size: int = 92544
    max_positions: int = 32768
    rms_eps: float = 1e-5
    rope_theta: float = 1e6
    mixer_every: int = 8
    plora_rank: int = 256
    plora_alpha: float = 256.0
    expert_rank: int = 64
    expert_heads: int = 4
    image_size: int = 490
    patch_size: int = 14
    vision_width: int = 1024
    vision_hidden: int = 4096
    vision_layers: int = 24
    vision_heads: int = 16
    compressor_depth: int = 4
    compressor_heads: int = 4
    compressor_head_size: int = 64
    compressor_latents: int = 64
    compressor_ff_mult: int = 1
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = 2
    image_id: int = 92544
    end_id: int = 92542
    stop_ids: tuple[int, ...] = (2, 92542)
    gate_dtype: Literal["float32", "float16"] = "float32"
    image_dtype: Literal["float32", "float16"] = "float32"
    merged_plora: bool = False
    attention_block: int = BLOCK
    remat: Remat = "attention"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, parts in (("heads", self.heads), ("expert_heads", self.expert_heads)):
            if self.width % parts:
                raise R2T2Error(f"MoAI config: width {self.width} is not divisible by {name} {parts}")
        if self.heads % self.kv_heads:
            raise R2T2Error(
                f"MoAI config: {self.heads} query heads are not divisible by {self.kv_heads} key-value heads"
            )
        if self.image_size % self.patch_size:
            raise R2T2Error(
                f"MoAI config: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.layers < self.mixer_every:
            raise R2T2Error(f"MoAI config: mixer_every {self.mixer_every} gives no mixer in {self.layers} layers")

    @classmethod
    def full_7b(cls) -> MoAIConfig:
        """MoAI-7B as released."""
        return cls()

    @classmethod
    def tiny(cls) -> MoAIConfig:
        """A model for tests: two mixers, a layer after the last, nothing larger than 64."""
        return cls(
            width=48,
            hidden=64,
            layers=5,
            heads=6,
            kv_heads=3,
            vocab_size=96,
            max_positions=512,
            mixer_every=2,
            plora_rank=4,
            plora_alpha=8.0,
            expert_rank=6,
            expert_heads=3,
            image_size=20,
            patch_size=5,
            vision_width=24,
            vision_hidden=40,
            vision_layers=2,
            vision_heads=3,
            compressor_depth=2,
            compressor_heads=2,
            compressor_head_size=10,
            compressor_latents=4,
            image_id=96,
            end_id=95,
            stop_ids=(2, 95),
        )

    @classmethod
    def from_hf(cls, described: Mapping[str, Any]) -> MoAIConfig:
        """The config of a Hugging Face `config.json`.

        Raises:
            R2T2Error: a field is missing or has a value that the port does not implement.
        """
        taken = FIELDS.read(described, cls)
        vocabulary = taken["vocab_size"]
        taken |= {"image_id": vocabulary, "end_id": vocabulary - 2, "stop_ids": (taken["eos_id"], vocabulary - 2)}
        ours = checked_value(FIELDS.where, OURS, described.get(OURS, {}), dict)
        return cls.from_json({**taken, **ours})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> MoAIConfig:
        """The config of a model directory's `model.json`.

        Raises:
            R2T2Error: a field is unknown, or a value has another type.
        """
        unknown = sorted(set(fields) - {entry.name for entry in dataclasses.fields(cls)})
        if unknown:
            raise R2T2Error(f"a MoAI config has no fields {', '.join(unknown)}")
        return config_from_json(cls, fields)

    @property
    def spec(self) -> RoutingSpec:
        """Names and structure of the routing weights: two groups of three in every mixer."""
        return RoutingSpec(EXPERTS, tuple(f"layer{i}" for i in self.mixer_layers), ((0, 1, 2), (3, 4, 5)))

    @property
    def mixer_layers(self) -> tuple[int, ...]:
        """Zero-based numbers of the decoder layers with a mixer: 7, 15, 23, 31 in MoAI-7B."""
        return tuple(range(self.mixer_every - 1, self.layers, self.mixer_every))

    @property
    def plain_layers(self) -> int:
        """The number of layers between two mixers, and before the first."""
        return self.mixer_every - 1

    @property
    def mixers(self) -> int:
        """L: the number of layers with a mixer."""
        return len(self.mixer_layers)

    @property
    def tail_layers(self) -> int:
        """The number of layers after the last mixer: none in MoAI-7B."""
        return self.layers - 1 - self.mixer_layers[-1]

    @property
    def vision(self) -> ClipVitConfig:
        """Sizes of the CLIP tower."""
        return ClipVitConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.vision_width,
            layers=self.vision_layers,
            heads=self.vision_heads,
            hidden=self.vision_hidden,
            dtype=self.dtype,
        )

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_size

    @property
    def qkv_width(self) -> int:
        """Width of the packed queries, keys and values."""
        return self.width + 2 * self.kv_width

    @property
    def plora_scale(self) -> float:
        return self.plora_alpha / self.plora_rank

    @property
    def grid(self) -> int:
        """The number of patches along a side."""
        return self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        return self.grid**2
