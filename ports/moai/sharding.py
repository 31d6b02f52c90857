"""How MoAI's parameters are cut over a (data, model) mesh: attention heads, feed-forward width, vocabulary."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from ports.common.sharding import shardings_by

# Whole paths, and which axis of the leaf is cut, counted from the end.
RULES = (
    (r"(plain|mixed)/(qkv|gate|up)/(main|image|up)/kernel", -1),
    (r"(plain|mixed)/(out|down)/(main|image|down)/kernel", -2),
    (r"mixed/mixer/\w+/(query|key|value)/up/kernel", -1),
    (r"mixed/mixer/\w+/out/down/kernel", -2),
    (r"vision/tower/layers/attention/(query|key|value)/(kernel|bias)", -1),
    (r"vision/tower/layers/attention/out/kernel", -2),
    (r"vision/tower/layers/up/(kernel|bias)", -1),
    (r"vision/tower/layers/down/kernel", -2),
    (r"vision/up/(kernel|bias)", -1),
    (r"vision/out/kernel", -2),
    (r"compressor/layers/(query|key_value|up)/kernel", -1),
    (r"compressor/layers/(out|down)/kernel", -2),
    (r"head/kernel", -1),
    (r"words", -1),  # the width: the rows are one more than the vocabulary, and odd
)


def shardings(params: Any, mesh: Mesh) -> Any:
    """A sharding for every parameter, as `ports/common/sharding.py` describes it."""
    return shardings_by(RULES, params, mesh)
