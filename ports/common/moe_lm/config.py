"""Configs of routed language models: sizes from upstream's `config.json`, and which layers and tokens are re-routed.

Axis letters: L routed layers, E experts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ports.common.configs import ConfigFields, check_heads, checked_value, renamed
from ports.common.layers.moe_decoder import MoEDecoderConfig
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec

SCOPES = ("last_prompt", "prompt", "image", "text", "all")
NUMBER = r"[0-9]{1,9}"
LAYERS = re.compile(rf"all|last{NUMBER}|{NUMBER}(-{NUMBER})?(,{NUMBER}(-{NUMBER})?)*")

TAKEN = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_width",
    "num_experts": "experts",
    "num_experts_per_tok": "top_k",
    "moe_intermediate_size": "hidden",
    "rope_theta": "theta",
    "rms_norm_eps": "eps",
    "norm_topk_prob": "normalize",
    "max_position_embeddings": "max_positions",
    "tie_word_embeddings": "tied",
}
UNTIED = {"tie_word_embeddings": False}  # the library's default
FIXED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "clip_qkv": (None,),
    "decoder_sparse_step": (1,),
    "hidden_act": ("silu",),
    "mlp_only_layers": ([], None),
    "use_sliding_window": (False,),
}
INERT = (  # of the training loss, of dense layers that no release has, of a window that is off; and read by code
    "attention_dropout", "intermediate_size", "max_window_layers", "output_router_logits", "router_aux_loss_coef",
    "sliding_window", "rope_parameters", "num_local_experts",
)  # fmt: skip


def text_fields(where: str, defaults: Mapping[str, Any], inert: tuple[str, ...] = ()) -> ConfigFields:
    """The knowledge of a port of this decoder about the fields of its config."""
    return ConfigFields(where, taken=TAKEN, defaults={**UNTIED, **defaults}, fixed=FIXED, inert=(*INERT, *inert))


@dataclass(frozen=True)
class RoutingScope:
    """The layers, tokens and experts that are re-routed: settings of a port, and part of its fingerprint.

    Args:
        layers: indices of the routed layers, ascending.
        scope: the tokens whose routing is imposed: the last token of the prompt, all of the prompt, its image tokens,
            the other tokens of prompt and answer, or all of both.
        core_experts: number of experts per layer that a sample supports, the most probable by its router.
        steered: all tokens of these layers take a steering; `scope` then says only which tokens `route` averages over.
    """

    layers: tuple[int, ...]
    scope: str
    core_experts: int
    steered: bool = False

    @property
    def answers(self) -> bool:
        """Whether tokens of the answer are re-routed too."""
        return self.steered or self.scope in ("text", "all")

    @property
    def single(self) -> bool:
        """Whether only the prompt's last token is re-routed, so that no other token of it depends on r."""
        return not self.steered and self.scope == "last_prompt"

    def spec(self, experts: int) -> RoutingSpec:
        """Names and structure of the routing weights [L, E]."""
        return RoutingSpec(tuple(f"expert {e}" for e in range(experts)), tuple(f"layer {i}" for i in self.layers))


def routing_scope(decoder: MoEDecoderConfig, settings: Mapping[str, str]) -> RoutingScope:
    """The scope of a variant's settings `layers`, `scope` and `core_experts`; the defaults are C3PO's.

    Raises:
        R2T2Error: a setting is not known, or names layers or experts that the model does not have.
    """
    layers = routed_layers(settings.get("layers", f"last{min(5, decoder.layers)}"), decoder.layers)
    scope, core = settings.get("scope", "last_prompt"), settings.get("core_experts", "all")
    if scope not in SCOPES:
        raise R2T2Error(f"there is no scope {scope!r}; choose one of {', '.join(SCOPES)}")
    if core != "all" and not (re.fullmatch(NUMBER, core) and decoder.top_k <= int(core) <= decoder.experts):
        raise R2T2Error(
            f"core_experts={core} of a model with {decoder.experts} experts, {decoder.top_k} a token: "
            f"give a number from {decoder.top_k} to {decoder.experts}, or all"
        )
    return RoutingScope(layers, scope, decoder.experts if core == "all" else int(core))


def routed_layers(text: str, number: int) -> tuple[int, ...]:
    """The indices that `all`, `last5`, `8-20` or `43,45` names, counted from 0.

    Raises:
        R2T2Error: it is none of these, or a layer does not exist.
    """
    if not LAYERS.fullmatch(text):
        raise R2T2Error(f"layers={text} is not all, last5, 8-20 or 43,45")
    if text == "all":
        return tuple(range(number))
    if text.startswith("last"):
        count = int(text.removeprefix("last"))
        if not 1 <= count <= number:
            raise R2T2Error(f"layers={text} of a model with {number} layers")
        return tuple(range(number - count, number))
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        span = range(int(first), int(last or first) + 1)
        if not span or span[-1] >= number:
            raise R2T2Error(f"layers={text} of a model with layers 0 to {number - 1}")
        chosen |= set(span)
    return tuple(sorted(chosen))


def decoder_config(
    described: Mapping[str, Any], where: str, defaults: Mapping[str, Any], **rules: Any
) -> MoEDecoderConfig:
    """The decoder's config from upstream's fields, in the spelling of the releases or of transformers 5.

    Args:
        described: the fields, without those of a multimodal model around the decoder.
        where: name of the file, for errors.
        defaults: values of fields that may be absent, by upstream's name.
        rules: fields of `MoEDecoderConfig` that the family fixes.

    Raises:
        R2T2Error: a field is missing, or has a value that is not implemented.
    """
    fields = dict(described)
    rope = checked_value(where, "rope_parameters", fields.pop("rope_parameters", None), dict[str, Any] | None)
    if rope is not None:
        renamed(fields, "rope_theta", rope.get("rope_theta", fields.get("rope_theta")), where)
        if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1:
            raise R2T2Error(f"{where}: rope_parameters = {rope!r}, only whole heads of type 'default' are implemented")
    if "num_local_experts" in fields:
        renamed(fields, "num_experts", fields.pop("num_local_experts"), where)
    if fields.get("num_key_value_heads") is None and "num_attention_heads" in fields:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    if fields.get("head_dim") is None:
        sizes = {name: fields.get(name) for name in ("hidden_size", "num_attention_heads")}
        width, heads = (checked_value(where, name, value, int) for name, value in sizes.items())
        check_heads(where, width, heads)
        fields["head_dim"] = width // heads
    taken = text_fields(where, defaults).read(fields, MoEDecoderConfig)
    config = MoEDecoderConfig(**{**taken, **rules})
    check_sizes(where, config)
    return config


def check_sizes(where: str, config: MoEDecoderConfig) -> None:
    """Refuse a decoder whose sizes do not fit each other.

    Raises:
        R2T2Error: the key-value heads do not divide the heads, an odd number of entries of a head is rotated, or a
            token has more experts than there are.
    """
    check_heads(where, config.heads, config.heads, config.kv_heads)
    if config.rotary_width % 2 or not config.rotary_width:
        raise R2T2Error(
            f"{where}: {config.rotary_width} of {config.head_width} entries of a head are rotated; they must be pairs"
        )
    if config.top_k > config.experts:
        raise R2T2Error(f"{where}: num_experts_per_tok {config.top_k} is larger than num_experts {config.experts}")
