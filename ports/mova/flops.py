"""FLOPs of MoVA's parts from its sizes: 2 x multiply-add of matrix products and convolutions.

The same is counted from the traced programs in `tests/ports/mova`, to the last one. What is resampled linearly costs
two matrix products, which are counted apart from the towers (`resample`). `forward` and `gradient` count what the port
runs, `whole`, `whole_gradient` and `training` what it saves (`costs.py`).

A backward pass asks twice the products of attention (scores and sums, each with respect to both sides) and once those
of a linear map whose weights stay as they are.
"""

from __future__ import annotations

from ports.common.layers.attention import row_blocks
from ports.common.layers.bert import BertConfig
from ports.common.layers.clip_vit import ClipVitConfig
from ports.common.layers.decoder import DecoderConfig
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


def towers(config: MovaConfig) -> int:
    """What CLIP and all experts see."""
    return clip(config.clip_built) + sum(experts(config))


def first_pass(config: MovaConfig, tokens: int, heard: int) -> int:
    """The coarse pass over a routing prompt of so many tokens, IMAGE among them, and an answer of `heard` tokens."""
    adapter = config.adapter
    mixing = adapter.blocks * (self_attention(adapter) + feed_forward(adapter)) + downsample(adapter) + out_mlp(adapter)
    rows = tokens - 1 + config.routing_tokens
    return mixing + read(config.decoder, rows) + answer_tokens(config.decoder, heard, rows) + head(config, heard)


def encode(config: MovaConfig, words: int, prefix: int = 0) -> int:
    """`MovaModel.encode`: BERT, block 0's reading, the prefix, and the later blocks' keys and values where kept."""
    adapter, number = config.adapter, len(config.expert_widths)
    projected = sum(project(adapter, expert) for expert in range(number))
    kept = adapter.blocks if config.keep == "keys" else 1
    ahead = config.decoder.layers * (layer(config.decoder, prefix) + causal(config.decoder, prefix))
    return bert(config.bert, words) + kept * projected + number * look(adapter) + ahead


def mix(config: MovaConfig) -> int:
    """The mixers and image tokens under given weights: all of the adapter that depends on routing."""
    adapter, number = config.adapter, len(config.expert_widths)
    block = weighted_sum(adapter) + self_attention(adapter) + feed_forward(adapter)
    later = number * look(adapter)
    if config.keep == "outputs":
        later += sum(project(adapter, expert) for expert in range(number))
    return adapter.blocks * block + (adapter.blocks - 1) * later + downsample(adapter) + out_mlp(adapter)


def route(config: MovaConfig) -> int:
    """`MovaModel.route`: all blocks under the gates' own weights."""
    return (
        mix(config)
        - downsample(config.adapter)
        - out_mlp(config.adapter)
        + config.adapter.blocks * gate(config.adapter)
    )


def layer(config: DecoderConfig, tokens: int) -> int:
    """The linear maps of a layer of the language model."""
    inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
    return 2 * tokens * config.width * (2 * inner + 2 * shared + 3 * config.hidden)


def attention(config: DecoderConfig, tokens: int, context: int) -> int:
    """A layer's attention on so many slots, masked ones included."""
    return 4 * tokens * context * config.heads * config.head_width


def causal(config: DecoderConfig, rows: int, past: int = 0) -> int:
    """A layer's attention on a prompt behind `past` known tokens: blocks of rows see no rows behind them."""
    blocks = row_blocks(rows, config.attention_block)
    return attention(config, 1, sum((last - first) * (past + last) for first, last in blocks))


def last_layer(config: DecoderConfig, rows: int) -> int:
    """The linear maps of the last layer: keys and values of every row, and all else of one."""
    shared = config.kv_heads * config.head_width
    return layer(config, 1) + 4 * (rows - 1) * config.width * shared


def read(config: DecoderConfig, rows: int, past: int = 0) -> int:
    """A prompt of which one row is asked for."""
    whole = layer(config, rows) + causal(config, rows, past)
    return (config.layers - 1) * whole + last_layer(config, rows) + attention(config, 1, past + rows)


def answer_tokens(config: DecoderConfig, answer: int, context: int) -> int:
    """All tokens of an answer but the last, behind a prompt."""
    run = answer - 1
    return config.layers * (layer(config, run) + attention(config, run, context + run))


def prompt_rows(config: MovaConfig, tokens: int) -> int:
    """Slots of a prompt of so many tokens, IMAGE among them."""
    return tokens - 1 + config.adapter.image_tokens


def forward(config: MovaConfig, tokens: int, answer: int, prefix: int = 0) -> int:
    """One loss under given weights: an evaluation.

    Args:
        config: of the model.
        tokens: of the prompt, IMAGE among them.
        answer: tokens of the answer.
        prefix: tokens before the image, which are known.
    """
    rows = prompt_rows(config, tokens)
    language = read(config.decoder, rows - prefix, prefix) + answer_tokens(config.decoder, answer, rows)
    return mix(config) + language + head(config, answer)


def gradient(config: MovaConfig, tokens: int, answer: int, prefix: int = 0) -> int:
    """The loss and its gradient with respect to r, under `remat` none or attention."""
    decoder, rows = config.decoder, prompt_rows(config, tokens)
    attended = (decoder.layers - 1) * causal(decoder, rows - prefix, prefix) + attention(decoder, 1, rows)
    language = read(decoder, rows - prefix, prefix) + _back_through(attended, decoder.remat)
    return forward(config, tokens, answer, prefix) + language + _common_back(config, rows, answer)


def whole(config: MovaConfig, tokens: int, answer: int, logits: bool = True) -> int:
    """The loss with every row of the prompt finished in the last layer, and with `logits` for each of them."""
    rows = prompt_rows(config, tokens)
    more = decoder(config.decoder, rows, rows) - read(config.decoder, rows) + logits * head(config, rows)
    return forward(config, tokens, answer) + more


def whole_gradient(config: MovaConfig, tokens: int, answer: int, logits: bool = True) -> int:
    """`whole` and the gradient with respect to r: every row of the last layer goes back."""
    rows, layers = prompt_rows(config, tokens), config.decoder.layers
    attended = layers * attention(config.decoder, rows, rows)
    language = decoder(config.decoder, rows, rows) + _back_through(attended, config.decoder.remat)
    back = language + logits * head(config, rows) + _common_back(config, rows, answer)
    return whole(config, tokens, answer, logits) + back


def training(config: MovaConfig, tokens: int, words: int, answer: int) -> int:
    """Towers, `encode` and `whole` with the gradient of every parameter: three times everything but a few things.

    No gradient goes to pixels, none to BERT, whose gates have no say under given weights, and what resamples a map has
    no parameters.
    """
    everything = 3 * (towers(config) + encode(config, words) + whole(config, tokens, answer))
    return everything - 2 * bert(config.bert, words) - _pixels(config) - _resampled(config)


def _back_through(attended: int, remat: str) -> int:
    """What attention asks of a backward pass beyond its products once: as many again, and scores computed anew."""
    return attended + (attended // 2 if remat == "attention" else 0)


def _common_back(config: MovaConfig, rows: int, answer: int) -> int:
    """From the loss through the answer's tokens, and from the image tokens to r."""
    adapter, number, llm = config.adapter, len(config.expert_widths), config.decoder
    through = _back_through(llm.layers * attention(llm, answer - 1, rows + answer - 1), llm.remat)
    language = answer_tokens(llm, answer, rows) + through + head(config, answer)
    attended = 4 * adapter.tokens**2 * adapter.width
    again = attended if adapter.remat == "attention" else 0  # a norm behind the attention asks for its sums too
    block = self_attention(adapter) + feed_forward(adapter) + attended + again
    later = number * (look(adapter) + again)  # an expert's keys and values are known: attention goes back to queries
    sums = (2 * adapter.blocks - 1) * weighted_sum(adapter)
    mixing = adapter.blocks * block + (adapter.blocks - 1) * later + sums + downsample(adapter) + out_mlp(adapter)
    return language + mixing


def _pixels(config: MovaConfig) -> int:
    """What first touches pixels in every tower."""
    grid = config.clip.image_size // config.clip.patch_size
    found = _patches(grid, config.clip.patch_size, config.clip.width)
    for tower in (config.dinov2, config.vary, config.codetr, config.biomedclip, config.sam):
        found += _patches(tower.grid, tower.patch_size, tower.width)
    for text in (config.pix2struct, config.deplot):
        found += config.max_patches * 3 * text.patch_size**2 * text.width
    return 2 * found


def _resampled(config: MovaConfig) -> int:
    """Twice what resamples images, and once what resamples features."""
    tile, grid = config.clip.image_size, config.adapter.grid
    images = resample(tile, config.dinov2.image_size, 3) + resample(tile, config.biomedclip.image_size, 3)
    patches = round(config.max_patches**0.5)
    sides = (
        config.dinov2.grid, (config.vary.grid - 1) // 2 + 1, config.codetr.out_grid, patches, patches,
        config.biomedclip.grid, config.sam.grid,
    )  # fmt: skip
    aligned = sum(resample(side, grid, channels) for side, channels in zip(sides, config.expert_widths, strict=True))
    return 2 * images + aligned + resample(config.codetr.grid, config.codetr.out_grid, config.codetr.out)
