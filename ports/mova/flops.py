"""FLOPs of MoVA's parts from its sizes: 2 x multiply-add of matrix products and convolutions.

The same is counted from the traced program in `tests/ports/mova/test_flops.py`, to the last one. What is resampled
linearly costs two matrix products, which are counted apart from the towers (`resample`).
"""

from __future__ import annotations

from ports.common.bert import BertConfig
from ports.common.clip_vit import ClipVitConfig
from ports.common.decoder import DecoderConfig
from ports.mova.config import (
    AdapterConfig,
    BiomedConfig,
    CoDetrConfig,
    DinoConfig,
    MovaConfig,
    Pix2StructConfig,
    SamConfig,
)


def _block(tokens: int, width: int, hidden: int, gated: bool = False) -> int:
    """Multiply-adds of a transformer block that attends to all of its tokens."""
    return tokens * (4 * width**2 + 2 * tokens * width + (3 if gated else 2) * width * hidden)


def _patches(grid: int, size: int, width: int) -> int:
    return grid**2 * 3 * size**2 * width


def resample(inside: int, outside: int, channels: int) -> int:
    """A square map to another size, one axis after the other."""
    if inside == outside:
        return 0
    return 2 * channels * inside * outside * (inside + outside)


def clip(config: ClipVitConfig) -> int:
    """CLIP with the blocks that `config` has."""
    grid = config.image_size // config.patch_size
    block = _block(config.patches + 1, config.width, config.hidden)
    return 2 * (_patches(grid, config.patch_size, config.width) + config.layers * block)


def dinov2(config: DinoConfig, blocks: int) -> int:
    """DINOv2 up to and with so many blocks."""
    block = _block(config.grid**2 + 1, config.width, config.hidden, gated=True)
    return 2 * (_patches(config.grid, config.patch_size, config.width) + blocks * block)


def _windows(grid: int, window: int) -> tuple[int, int]:
    """Tokens of a map that was padded to whole windows, and tokens of a window."""
    return (-(-grid // window) * window) ** 2, window**2


def _neck(tokens: int, width: int, out: int) -> int:
    return tokens * (width * out + 9 * out**2)


def sam(config: SamConfig) -> int:
    """SAM's encoder and neck. Padding to whole windows is computed, and relative positions are products too."""
    width, tokens, everything = config.width, config.grid**2, 0
    for block in range(config.layers):
        windowed = block not in config.global_blocks
        seen, context = _windows(config.grid, config.window) if windowed else (tokens, tokens)
        side = config.window if windowed else config.grid
        everything += seen * width * (4 * width + 2 * context + 2 * side)
        everything += tokens * 2 * width * config.hidden
    return 2 * (_patches(config.grid, config.patch_size, width) + everything + _neck(tokens, width, config.out))


def vary(config: SamConfig) -> int:
    """SAM's encoder and one more convolution."""
    half = (config.grid - 1) // 2 + 1
    return sam(config) + 2 * half**2 * 9 * config.out * 2 * config.out


def codetr(config: CoDetrConfig) -> int:
    """Co-DETR's ViT, neck, and the smaller map at the end."""
    width, tokens, everything = config.width, config.grid**2, 0
    for block in range(config.layers):
        windowed = block not in config.global_blocks
        seen, context = _windows(config.grid, config.window) if windowed else (tokens, tokens)
        everything += seen * (4 * width**2 + 2 * context * width) + tokens * 3 * width * config.hidden
    everything += _patches(config.grid, config.patch_size, width) + _neck(tokens, width, config.out)
    return 2 * everything + resample(config.grid, config.out_grid, config.out)


def pix2struct(config: Pix2StructConfig, patches: int) -> int:
    """The encoder of Pix2Struct or Deplot on so many patches, padded ones included."""
    width, inner = config.width, config.heads * config.head_width
    block = patches * (4 * width * inner + 2 * patches * inner + 3 * width * config.hidden)
    return 2 * (patches * 3 * config.patch_size**2 * width + config.layers * block)


def biomedclip(config: BiomedConfig) -> int:
    """BiomedCLIP's image encoder."""
    block = _block(config.grid**2 + 1, config.width, config.hidden)
    return 2 * (_patches(config.grid, config.patch_size, config.width) + config.layers * block)


def project(config: AdapterConfig, expert: int) -> int:
    """Keys and values of an expert in one block."""
    return 4 * config.tokens * config.expert_widths[expert] * config.width


def look(config: AdapterConfig) -> int:
    """What one block reads from one expert whose keys and values are there."""
    return 4 * config.tokens * config.width * (config.width + config.tokens)


def self_attention(config: AdapterConfig) -> int:
    """Self-attention of one block."""
    return 4 * config.tokens * config.width * (2 * config.width + config.tokens)


def feed_forward(config: AdapterConfig) -> int:
    """Feed-forward of one block."""
    return 6 * config.tokens * config.width * config.hidden


def gate(config: AdapterConfig) -> int:
    """Gate of one block."""
    return 2 * config.width * (config.text_width + config.width + len(config.expert_widths))


def weighted_sum(config: AdapterConfig) -> int:
    """Sum over experts of one block."""
    return 2 * len(config.expert_widths) * config.tokens * config.width


def downsample(config: AdapterConfig) -> int:
    """Both convolutional stages."""
    width, squeezed = config.width, 2 * config.width * config.squeeze
    return sum(2 * (tokens * width * (2 * width + 9) + squeezed) for tokens in (config.tokens, config.image_tokens))


def out_mlp(config: AdapterConfig) -> int:
    """Projector to the language model's width."""
    return 2 * config.image_tokens * config.out * (config.width + config.out)


def bert(config: BertConfig, words: int) -> int:
    """The text encoder."""
    return 2 * config.layers * _block(words, config.width, config.hidden)


def decoder(config: DecoderConfig, tokens: int, context: int) -> int:
    """The language model's layers on `tokens` tokens, each attending to `context` slots, masked ones included."""
    inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
    layer = config.width * (2 * inner + 2 * shared) + 2 * context * inner + 3 * config.width * config.hidden
    return 2 * tokens * config.layers * layer


def head(config: MovaConfig, tokens: int) -> int:
    """Scores of the next token behind so many tokens."""
    return 2 * tokens * config.decoder.width * config.vocab_size


def experts(config: MovaConfig) -> tuple[int, ...]:
    """Every expert's tower with the resampling before and behind it, in routing order."""
    grid, tile = config.adapter.grid, config.clip.image_size
    patches = round(config.max_patches**0.5)
    towers = (
        (dinov2(config.dinov2, config.dinov2_blocks) + resample(tile, config.dinov2.image_size, 3), config.dinov2.grid),
        (vary(config.vary), (config.vary.grid - 1) // 2 + 1),
        (codetr(config.codetr), config.codetr.out_grid),
        (pix2struct(config.pix2struct, config.max_patches), patches),
        (pix2struct(config.deplot, config.max_patches), patches),
        (biomedclip(config.biomedclip) + resample(tile, config.biomedclip.image_size, 3), config.biomedclip.grid),
        (sam(config.sam), config.sam.grid),
    )
    return tuple(
        tower + resample(side, grid, channels)
        for (tower, side), channels in zip(towers, config.expert_widths, strict=True)
    )


def encode(config: MovaConfig, words: int) -> int:
    """`MovaModel.encode`: BERT and block 0's reading, and the later blocks' keys and values where they are kept."""
    adapter, number = config.adapter, len(config.expert_widths)
    projected = sum(project(adapter, expert) for expert in range(number))
    kept = adapter.blocks if config.keep == "keys" else 1
    return bert(config.bert, words) + kept * projected + number * look(adapter)


def mix(config: MovaConfig) -> int:
    """The mixers and image tokens under given weights: all of the adapter that depends on routing."""
    adapter, number = config.adapter, len(config.expert_widths)
    block = weighted_sum(adapter) + self_attention(adapter) + feed_forward(adapter)
    later = number * look(adapter)
    if config.keep == "outputs":
        later += sum(project(adapter, expert) for expert in range(number))
    return adapter.blocks * block + (adapter.blocks - 1) * later + downsample(adapter) + out_mlp(adapter)


def forward(config: MovaConfig, tokens: int, answer: int) -> int:
    """One loss under given weights: an evaluation. `tokens` of the prompt, IMAGE among them; `answer` of the answer."""
    prompt = tokens - 1 + config.adapter.image_tokens
    language = decoder(config.decoder, prompt, prompt) + decoder(config.decoder, answer, prompt + answer)
    return mix(config) + language + head(config, answer)
