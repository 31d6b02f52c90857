"""Sizes and settings of MoVA: one frozen dataclass, with a nested one for each tower. `modeling.py` builds the model.

Values that the released files do not state (see the port's README) are fields with the documented default.
Images are square, with channels last.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ports.common.configs import config_from_json
from ports.common.layers.bert import BertConfig
from ports.common.layers.clip_vit import ClipVitConfig
from ports.common.layers.decoder import DecoderConfig
from ports.common.layers.stack import Remat
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec

EXPERTS = ("dinov2", "vary", "codetr", "pix2struct", "deplot", "biomedclip", "sam")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Keep = Literal["outputs", "keys"]
Support = Literal["selected", "all"]


@dataclass(frozen=True)
class DinoConfig:
    """DINOv2 with SwiGLU MLPs and layer scales; the defaults are the giant's."""

    image_size: int = 518
    patch_size: int = 14
    width: int = 1536
    layers: int = 40
    heads: int = 24
    hidden: int = 4096
    eps: float = 1e-6
    dtype: str = "float32"

    @property
    def grid(self) -> int:
        """The number of patches along a side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class SamConfig:
    """SAM's encoder: windowed attention except in `global_blocks`, a neck to `out` channels; defaults are ViT-H's.

    Vary is the same with ViT-B's sizes and one more convolution of stride 2, which doubles the channels.
    """

    image_size: int = 1024
    patch_size: int = 16
    width: int = 1280
    layers: int = 32
    heads: int = 16
    out: int = 256
    window: int = 14
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    eps: float = 1e-6
    dtype: str = "float32"

    @property
    def grid(self) -> int:
        """The number of patches along a side."""
        return self.image_size // self.patch_size

    @property
    def hidden(self) -> int:
        """Width inside the MLPs."""
        return 4 * self.width


@dataclass(frozen=True)
class CoDetrConfig:
    """Co-DETR's ViT-L (EVA-02 style): the image is resized to `image_size`, the final map to `out_grid`.

    Positions in a window or in the whole map are scaled to [0, `rope_grid`).
    """

    image_size: int = 1280
    patch_size: int = 16
    width: int = 1024
    layers: int = 24
    heads: int = 16
    out: int = 256
    window: int = 16
    global_blocks: tuple[int, ...] = (5, 11, 17, 23)
    rope_grid: int = 16
    out_grid: int = 37
    eps: float = 1e-6
    out_eps: float = 1e-5
    dtype: str = "float32"

    @property
    def grid(self) -> int:
        """The number of patches along a side."""
        return self.image_size // self.patch_size

    @property
    def hidden(self) -> int:
        """Width inside the MLPs."""
        return int(self.width * 8 / 3)


@dataclass(frozen=True)
class Pix2StructConfig:
    """The encoder of Pix2Struct and Deplot; `positions` is the number of row and of column embeddings."""

    width: int = 1536
    layers: int = 18
    heads: int = 24
    head_width: int = 64
    hidden: int = 3968
    positions: int = 4096
    patch_size: int = 16
    eps: float = 1e-6
    dtype: str = "float32"


@dataclass(frozen=True)
class BiomedConfig:
    """BiomedCLIP's image encoder, a ViT-B/16 of timm."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    eps: float = 1e-6
    dtype: str = "float32"

    @property
    def grid(self) -> int:
        """The number of patches along a side."""
        return self.image_size // self.patch_size

    @property
    def hidden(self) -> int:
        """Width inside the MLPs."""
        return 4 * self.width


@dataclass(frozen=True)
class AdapterConfig:
    """The MoV-Adapter: `blocks` blocks on a map of `grid` x `grid` tokens; its output has half that side.

    Args:
        text_width: of BERT.
        expert_widths: channels of the experts' features.
        out: width of the language model.
        remat: which activations of the blocks the backward pass recomputes.
    """

    width: int = 1024
    heads: int = 16
    head_width: int = 64
    grid: int = 48
    blocks: int = 3
    topk: int = 3
    expert_widths: tuple[int, ...] = (1536, 512, 256, 1536, 768, 768, 256)
    text_width: int = 1024
    out: int = 4096
    eps: float = 1e-5
    remat: Remat = "attention"
    dtype: str = "float32"

    @property
    def tokens(self) -> int:
        """The number of tokens of the map."""
        return self.grid**2

    @property
    def image_tokens(self) -> int:
        """The number of image tokens in the prompt."""
        return (self.grid // 2) ** 2

    @property
    def hidden(self) -> int:
        """Width inside the MLPs."""
        return int(self.width * 8 / 3)

    @property
    def squeeze(self) -> int:
        """Width inside the squeeze-and-excitation of the downsampling."""
        return round(self.width / 4)


LLAMA3_8B = DecoderConfig(4096, 32, 32, 8, 128, 14336, 500_000.0, 1e-5)
VICUNA_7B = DecoderConfig(4096, 32, 32, 32, 128, 11008, 10_000.0, 1e-5)
BERT_LARGE = BertConfig(1024, 24, 16, 4096)


@dataclass(frozen=True)
class MovaConfig:
    """The whole of MoVA; the defaults are MoVA-8B's.

    Args:
        clip, dinov2, vary, codetr, pix2struct, deplot, biomedclip, sam: the towers.
        adapter, bert, decoder, vocab_size: the adapter, its text encoder, the language model.
        select_layer: index of the hidden state of CLIP and DINOv2 that is used; -2 is the one before the last block.
            Blocks after it are neither built nor run. Not stated by the released files.
        routing_tokens: number of image tokens of the coarse pass. Inferred.
        high_size: side of the image for Vary, Co-DETR and SAM.
        high_mean, high_std: normalization of that image; CLIP's, as in Vary, unless the checkpoint states another.
        max_patches: number of patches of Pix2Struct and Deplot, a square number. Not stated by the released files.
        dinov2_mean, dinov2_std: normalization of DINOv2's image. Inferred.
        template: the prompt template, a key of `tokens.TEMPLATES`.
        end: token that ends an answer.
        pad: token that fills generated answers after `end`.
        routing_length, answer_length: maximum number of tokens generated in the coarse pass and for an answer.
        max_length: length to which the merged sequence is truncated, if the checkpoint states one.
        support: experts on which a test sample's r may lie: `selected` by its coarse pass, or `all`.
        keep: what features store for the later blocks: the experts' `outputs` (the towers' features), or the projected
            `keys` and values, which is slightly faster and takes more memory (README, FLOPs and memory).
        dtype: of parameters and activations.
    """

    clip: ClipVitConfig = field(default_factory=lambda: ClipVitConfig(672))
    dinov2: DinoConfig = field(default_factory=DinoConfig)
    vary: SamConfig = field(
        default_factory=lambda: SamConfig(width=768, layers=12, heads=12, global_blocks=(2, 5, 8, 11))
    )
    codetr: CoDetrConfig = field(default_factory=CoDetrConfig)
    pix2struct: Pix2StructConfig = field(default_factory=Pix2StructConfig)
    deplot: Pix2StructConfig = field(
        default_factory=lambda: Pix2StructConfig(width=768, layers=12, heads=12, hidden=2048)
    )
    biomedclip: BiomedConfig = field(default_factory=BiomedConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    bert: BertConfig = BERT_LARGE
    decoder: DecoderConfig = LLAMA3_8B
    vocab_size: int = 128256
    select_layer: int = -2
    routing_tokens: int = 144
    high_size: int = 1024
    high_mean: tuple[float, ...] = CLIP_MEAN
    high_std: tuple[float, ...] = CLIP_STD
    max_patches: int = 2025
    dinov2_mean: tuple[float, ...] = IMAGENET_MEAN
    dinov2_std: tuple[float, ...] = IMAGENET_STD
    template: str = "llama3"
    end: int = 128009
    pad: int = 0
    routing_length: int = 16
    answer_length: int = 128
    max_length: int | None = None
    support: Support = "selected"
    keep: Keep = "outputs"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("clip", "dinov2"):
            if not 0 <= self._blocks(name) <= getattr(self, name).layers:
                raise R2T2Error(f"MoVA: select_layer {self.select_layer} is outside {name}, which has "
                                f"{getattr(self, name).layers} blocks")  # fmt: skip
        if self.adapter.expert_widths != self.expert_widths:
            raise R2T2Error(f"MoVA: the adapter expects experts of {self.adapter.expert_widths} channels, the towers "
                            f"give {self.expert_widths}")  # fmt: skip
        for name, tokens in (("max_patches", self.max_patches), ("routing_tokens", self.routing_tokens)):
            if round(tokens**0.5) ** 2 != tokens:
                raise R2T2Error(f"MoVA: {name} is {tokens}; it must be a square number")
        if self.routing_tokens > self.adapter.image_tokens:
            raise R2T2Error(f"MoVA: routing_tokens {self.routing_tokens} exceeds the {self.adapter.image_tokens} image "
                            "tokens of the adapter")  # fmt: skip
        if self.adapter.out != self.decoder.width:
            raise R2T2Error(f"MoVA: the adapter gives {self.adapter.out} channels, the language model has "
                            f"{self.decoder.width}")  # fmt: skip

    def _blocks(self, tower: str) -> int:
        """The number of blocks before the hidden state that is used; hidden state 0 is the input of the first block."""
        layers: int = getattr(self, tower).layers
        return self.select_layer if self.select_layer >= 0 else layers + 1 + self.select_layer

    @property
    def clip_blocks(self) -> int:
        """The number of blocks of CLIP that are run."""
        return self._blocks("clip")

    @property
    def clip_built(self) -> ClipVitConfig:
        """CLIP without the blocks after the hidden state that is used."""
        return dataclasses.replace(self.clip, layers=self.clip_blocks)

    @property
    def dinov2_blocks(self) -> int:
        """The number of blocks of DINOv2 that are run."""
        return self._blocks("dinov2")

    @property
    def expert_widths(self) -> tuple[int, ...]:
        """Channels of the experts' features, in routing order."""
        return (
            self.dinov2.width, 2 * self.vary.out, self.codetr.out, self.pix2struct.width, self.deplot.width,
            self.biomedclip.width, self.sam.out,
        )  # fmt: skip

    @property
    def spec(self) -> RoutingSpec:
        """Names and structure of the routing weights."""
        return RoutingSpec(EXPERTS, tuple(f"block{i}" for i in range(self.adapter.blocks)))

    def in_dtype(self, dtype: str) -> MovaConfig:
        """The same model with parameters and activations in another dtype."""
        parts: dict[str, Any] = {
            entry.name: dataclasses.replace(part, dtype=dtype)
            for entry in dataclasses.fields(self)
            if dataclasses.is_dataclass(part := getattr(self, entry.name)) and not isinstance(part, type)
        }
        return dataclasses.replace(self, dtype=dtype, **parts)

    def with_remat(self, remat: Remat) -> MovaConfig:
        """The same model with another choice of the activations that the backward pass recomputes."""
        adapter = dataclasses.replace(self.adapter, remat=remat)
        return dataclasses.replace(self, adapter=adapter, decoder=dataclasses.replace(self.decoder, remat=remat))

    @classmethod
    def full_8b(cls) -> MovaConfig:
        """The released llama3-mova-8b, in its own dtype."""
        return cls(decoder=dataclasses.replace(LLAMA3_8B, remat="attention")).in_dtype("bfloat16")

    @classmethod
    def vicuna_7b(cls) -> MovaConfig:
        """The paper's variant on Vicuna-7B: 32,000 tokens, no grouped queries, end of answer `</s>`."""
        decoder = dataclasses.replace(VICUNA_7B, remat="attention")
        return cls(decoder=decoder, vocab_size=32000, template="vicuna", end=2).in_dtype("bfloat16")

    @classmethod
    def tiny(cls) -> MovaConfig:
        """Every part at toy size, for tests and examples."""
        return cls(
            clip=ClipVitConfig(56, width=32, layers=3, heads=2, hidden=48),
            dinov2=DinoConfig(image_size=42, width=24, layers=3, heads=2, hidden=40),
            vary=SamConfig(64, 16, 24, 3, 2, 8, window=3, global_blocks=(1,)),
            codetr=CoDetrConfig(96, 16, 32, 3, 2, 12, window=3, global_blocks=(1,), out_grid=5),
            pix2struct=Pix2StructConfig(20, 2, 2, 10, 36, positions=16, patch_size=4),
            deplot=Pix2StructConfig(28, 2, 2, 14, 36, positions=16, patch_size=4),
            biomedclip=BiomedConfig(32, 16, 24, 2, 2),
            sam=SamConfig(64, 16, 24, 2, 2, 16, window=3, global_blocks=(1,)),
            adapter=AdapterConfig(32, 2, 16, 4, 3, 3, (24, 16, 12, 20, 28, 24, 16), 24, 64),
            bert=BertConfig(24, 2, 2, 40, vocab_size=60, positions=64),
            decoder=DecoderConfig(64, 3, 4, 2, 16, 112, 500_000.0, 1e-5),
            vocab_size=150,
            routing_tokens=1,
            high_size=64,
            max_patches=9,
            end=2,
            routing_length=4,
            answer_length=6,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> MovaConfig:
        """A config from plain data; absent fields keep MoVA-8B's value.

        Raises:
            R2T2Error: there is an unknown field.
        """
        return cls().updated(described)

    def updated(self, changes: dict[str, Any]) -> MovaConfig:
        """The same config with some fields changed, given as plain data, nested dataclasses as nested dicts.

        Raises:
            R2T2Error: there is an unknown field, or a value has another type.
        """
        filled: MovaConfig = _fill(self, changes, "MoVA config")
        return config_from_json(MovaConfig, dataclasses.asdict(filled))  # checks the types


def _fill(base: Any, described: dict[str, Any], where: str) -> Any:
    """`base` with the described fields, nested dicts as nested dataclasses, lists as tuples."""
    known = {entry.name for entry in dataclasses.fields(base)}
    unknown = sorted(set(described) - known)
    if unknown:
        raise R2T2Error(f"{where} has unknown fields {unknown}; known are {sorted(known)}")
    changes = {}
    for name, value in described.items():
        if isinstance(value, dict) != dataclasses.is_dataclass(getattr(base, name)):
            raise R2T2Error(f"{where}.{name} cannot be {value!r}")
        if isinstance(value, dict):
            value = _fill(getattr(base, name), value, f"{where}.{name}")
        changes[name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(base, **changes)
