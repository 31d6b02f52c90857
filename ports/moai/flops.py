"""FLOPs of MoAI (2 x multiply-add of matrix products and convolutions), in closed form.

`prefill_parts` counts what upstream runs: attention over the full square, the head on every row. `encode_flops`,
`forward_flops` and `gradient_flops` count what this port runs, split where routing comes in, `whole_flops`,
`whole_gradient_flops` and `training_flops` what it saves (`costs.py`); they equal counts over the programs exactly.

A backward pass asks twice the products of attention (scores and sums, each with respect to both sides) and once those
of a linear map whose weights stay as they are.

Letters: n text tokens, L = image tokens + n slots, A answer tokens.
"""

from __future__ import annotations

from ports.common.layers.attention import row_blocks
from ports.moai.config import EXPERTS, MoAIConfig


def tower(config: MoAIConfig) -> int:
    """One pass of the CLIP tower."""
    rows, width = config.image_tokens + 1, config.vision_width
    patches = config.image_tokens * 3 * config.patch_size**2 * width
    block = rows * width * (4 * width + 2 * config.vision_hidden) + 2 * rows**2 * width
    return 2 * (patches + config.vision_layers * block)


def projector(config: MoAIConfig) -> int:
    """One pass of the two linear maps behind the tower."""
    return 2 * config.image_tokens * config.width * (config.vision_width + config.width)


def compressor(config: MoAIConfig, verbalisation: int) -> int:
    """All rounds over the verbalisation's tokens, the map's, and the latents themselves."""
    latents, width = config.compressor_latents, config.width
    inner = config.compressor_heads * config.compressor_head_size
    seen = verbalisation + config.image_tokens + latents
    attention = width * inner * (2 * latents + 2 * seen) + 2 * latents * seen * inner
    thinking = 2 * latents * config.compressor_ff_mult * width**2
    return 2 * config.compressor_depth * (attention + thinking)


def _weights(config: MoAIConfig) -> int:
    """Entries of a decoder layer's linear maps."""
    return config.width * (config.qkv_width + config.width + 3 * config.hidden)


def _adapter(config: MoAIConfig) -> int:
    """Entries of a decoder layer's adapters."""
    ends = (config.width + config.qkv_width) + 2 * config.width + 3 * (config.width + config.hidden)
    return config.plora_rank * ends


def layer_linears(config: MoAIConfig, rows: int) -> int:
    """The linear maps of a layer on so many rows."""
    return 2 * rows * _weights(config)


def layer_plora(config: MoAIConfig) -> int:
    """The adapters of a layer; none where they are merged into weights of their own."""
    return 0 if config.merged_plora else 2 * config.image_tokens * _adapter(config)


def layer_attention(config: MoAIConfig, queries: int, keys: int) -> int:
    """Scores and sums of a layer's attention."""
    return 4 * queries * keys * config.width


def prompt_attention(config: MoAIConfig, text: int) -> int:
    """Attention of a layer on a whole prompt: blocks of image rows see no image rows behind them, words see all."""
    blocks = row_blocks(config.image_tokens, config.attention_block)
    seen = sum((last - first) * (last + text) for first, last in blocks)
    return layer_attention(config, 1, seen + text * (config.image_tokens + text))


def experts(config: MoAIConfig, text: int) -> dict[str, int]:
    """Each expert of one mixer."""
    images, latents = config.image_tokens, config.compressor_latents
    sizes = [(images, latents), (images, text), (images, images), (text, latents), (text, images), (text, text)]

    def one(queries: int, keys: int) -> int:
        factors = 4 * config.width * config.expert_rank * (2 * queries + 2 * keys)
        return factors + 4 * queries * keys * config.width

    return {name: one(*size) for name, size in zip(EXPERTS, sizes, strict=True)}


def gates(config: MoAIConfig, text: int) -> int:
    """Both gates of one mixer."""
    return 2 * 3 * config.width * (config.image_tokens + text)


def head(config: MoAIConfig, rows: int) -> int:
    """Logits of so many rows."""
    return 2 * rows * config.width * config.vocab_size


def prefill_parts(config: MoAIConfig, text: int = 64, verbalisation: int = 275) -> dict[str, int]:
    """Upstream's whole forward pass over a prompt, part by part."""
    rows, layers, mixers = config.image_tokens + text, config.layers, config.mixers
    return {
        "tower, one pass": tower(config),
        "projector, one pass": projector(config),
        "compressor": compressor(config, verbalisation),
        "linears": layers * layer_linears(config, rows),
        "adapters": layers * layer_plora(config),
        "attention": layers * layer_attention(config, rows, rows),
        "experts": mixers * sum(experts(config, text).values()),
        "gates": mixers * gates(config, text),
        "head, all rows": head(config, rows),
        "head, last row": head(config, 1),
    }


def prefill_flops(config: MoAIConfig, text: int = 64, verbalisation: int = 275) -> int:
    """Their sum: the tower and the projector run twice, the head on all rows."""
    parts = prefill_parts(config, text, verbalisation)
    twice = parts["tower, one pass"] + parts["projector, one pass"]
    return sum(parts.values()) + twice - parts["head, last row"]


def routed_flops(config: MoAIConfig, text: int = 64) -> int:
    """The part of upstream's pass that depends on r: from the first mixer's layer on, that mixer's experts excepted."""
    rows, mixers = config.image_tokens + text, config.mixers - 1
    layer = layer_linears(config, rows) + layer_plora(config) + layer_attention(config, rows, rows)
    mixing = mixers * (sum(experts(config, text).values()) + gates(config, text))
    return (config.layers - config.plain_layers) * layer + mixing + head(config, rows)


def decode_flops(config: MoAIConfig, context: int) -> int:
    """One token behind `context` others."""
    return config.layers * (layer_linears(config, 1) + layer_attention(config, 1, context)) + head(config, 1)


def _layer(config: MoAIConfig, text: int) -> int:
    """A layer on every row of the prompt."""
    rows = config.image_tokens + text
    return layer_linears(config, rows) + layer_plora(config) + prompt_attention(config, text)


def encode_flops(config: MoAIConfig, text: int = 64, verbalisation: int = 275) -> int:
    """Everything before routing, as `MoAIModel.encode` runs it."""
    seeing = 2 * (tower(config) + projector(config)) + compressor(config, verbalisation)
    return seeing + config.plain_layers * _layer(config, text) + sum(experts(config, text).values())


def route_flops(config: MoAIConfig, text: int = 64) -> int:
    """The prompt's pass under the gates' own weights, as `MoAIModel.route` runs it."""
    mixing = (config.mixers - 1) * sum(experts(config, text).values()) + config.mixers * gates(config, text)
    whole = (config.layers - config.plain_layers - 1) * _layer(config, text)
    return whole + _last_layer(config, config.image_tokens + text) + mixing


def forward_flops(config: MoAIConfig, text: int = 64, answer: int = 8) -> int:
    """One loss under replaced weights, as `MoAIModel.answer_loss` runs it: one evaluation.

    In the last layer all rows leave keys and values, and the last row alone goes on; of the answer all tokens but the
    last are run.
    """
    rows = config.image_tokens + text
    reading = route_flops(config, text) - config.mixers * gates(config, text)
    after = config.layers * (layer_linears(config, answer - 1) + layer_attention(config, answer - 1, rows + answer - 1))
    return reading + after + head(config, answer)


def gradient_flops(config: MoAIConfig, text: int = 64, answer: int = 8) -> int:
    """The loss and its gradient with respect to r, as the port runs them under `remat` none or attention."""
    rows = config.image_tokens + text
    last = _last_layer(config, rows) + layer_attention(config, 1, rows)
    recomputed = layer_attention(config, 1, rows) // 2 if config.remat == "attention" else 0
    return forward_flops(config, text, answer) + _back(config, text, answer) + last + recomputed


def whole_flops(config: MoAIConfig, text: int = 64, answer: int = 8, logits: bool = True) -> int:
    """The loss with every row finished in the last layer, and with `logits` for each of them."""
    rows = config.image_tokens + text
    more = _layer(config, text) - _last_layer(config, rows) + logits * head(config, rows - 1)
    return forward_flops(config, text, answer) + more


def whole_gradient_flops(config: MoAIConfig, text: int = 64, answer: int = 8, logits: bool = True) -> int:
    """`whole_flops` and the gradient with respect to r: the last layer goes back as every other does."""
    last = _layer_and_back(config, text) - _layer(config, text)
    back = _back(config, text, answer) + last + logits * head(config, config.image_tokens + text - 1)
    return whole_flops(config, text, answer, logits) + back


def training_flops(config: MoAIConfig, text: int = 64, verbalisation: int = 275, answer: int = 8) -> int:
    """`encode_flops` and `whole_flops` with the gradient of every parameter: three times all but the patches.

    No gradient goes to the pixels of either pass through the tower.
    """
    patches = 2 * config.image_tokens * 3 * config.patch_size**2 * config.vision_width
    return 3 * (encode_flops(config, text, verbalisation) + whole_flops(config, text, answer)) - 2 * patches


def _layer_and_back(config: MoAIConfig, text: int) -> int:
    """A layer on every row, forwards and backwards; with `remat` attention its scores once more."""
    attention = prompt_attention(config, text)
    return 2 * _layer(config, text) + attention + (attention // 2 if config.remat == "attention" else 0)


def _back(config: MoAIConfig, text: int, answer: int) -> int:
    """What goes back from the loss to r, but for the last layer's prompt."""
    layers = config.layers - config.plain_layers - 1  # of the prompt, from the first mixer's to the last but one
    prompt = layers * (_layer_and_back(config, text) - _layer(config, text))
    return prompt + (config.mixers - 1) * _experts_back(config, text) + _answer_back(config, text, answer)


def _experts_back(config: MoAIConfig, text: int) -> int:
    """All experts of a later mixer; of the latents, which do not depend on r, keys and values ask nothing."""
    images, latents, back = config.image_tokens, config.compressor_latents, sum(experts(config, text).values())
    for queries in (images, text):
        for keys in (latents, images, text):
            attention = layer_attention(config, queries, keys)
            back += attention + (attention // 2 if config.remat == "attention" else 0)
        back -= layer_attention(config, queries, latents) + 8 * config.width * config.expert_rank * latents
    return back


def _answer_back(config: MoAIConfig, text: int, answer: int) -> int:
    """The answer's tokens, through all layers: those before the first mixer's run in one loop with the others."""
    rows, tokens = config.image_tokens + text, answer - 1
    attention = layer_attention(config, tokens, rows + tokens)
    recomputed = attention // 2 if config.remat == "attention" else 0
    return config.layers * (layer_linears(config, tokens) + 2 * attention + recomputed) + head(config, answer)


def _last_layer(config: MoAIConfig, rows: int) -> int:
    kept = 2 * config.kv_width  # keys and values
    keys_values = 2 * rows * config.width * kept
    if not config.merged_plora:
        keys_values += 2 * config.image_tokens * config.plora_rank * (config.width + kept)
    one = layer_linears(config, 1) - 2 * config.width * kept
    return keys_values + one + layer_attention(config, 1, rows)
