"""FLOPs of MoAI (2 x multiply-add of matrix products and convolutions), in closed form.

`prefill_parts` counts what upstream runs: attention over the full square, the head on every row. `encode_flops` and
`forward_flops` count what this port runs, split where routing comes in; they equal a count over its program exactly.

Letters: n text tokens, L = image tokens + n slots, A answer tokens.
"""

from __future__ import annotations

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


def encode_flops(config: MoAIConfig, text: int = 64, verbalisation: int = 275) -> int:
    """Everything before routing, as `MoAIModel.encode` runs it."""
    rows = config.image_tokens + text
    layer = layer_linears(config, rows) + layer_plora(config) + layer_attention(config, rows, rows)
    seeing = 2 * (tower(config) + projector(config)) + compressor(config, verbalisation)
    return seeing + config.plain_layers * layer + sum(experts(config, text).values())


def forward_flops(config: MoAIConfig, text: int = 64, answer: int = 8) -> int:
    """One loss under replaced weights, as `MoAIModel.answer_loss` runs it: one evaluation.

    In the last layer all rows leave keys and values, and the last row alone goes on; of the answer all tokens but the
    last are run.
    """
    rows, layers = config.image_tokens + text, config.layers - config.plain_layers
    whole = layer_linears(config, rows) + layer_plora(config) + layer_attention(config, rows, rows)
    mixing = (config.mixers - 1) * sum(experts(config, text).values())
    after = config.layers * (layer_linears(config, answer - 1) + layer_attention(config, answer - 1, rows + answer - 1))
    return (layers - 1) * whole + _last_layer(config, rows) + mixing + after + head(config, answer)


def _last_layer(config: MoAIConfig, rows: int) -> int:
    kept = 2 * config.kv_width  # keys and values
    keys_values = 2 * rows * config.width * kept
    if not config.merged_plora:
        keys_values += 2 * config.image_tokens * config.plora_rank * (config.width + kept)
    one = layer_linears(config, 1) - 2 * config.width * kept
    return keys_values + one + layer_attention(config, 1, rows)
