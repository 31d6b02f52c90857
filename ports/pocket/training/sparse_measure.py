"""Accuracy of `pocket:sparse` by family, and how its experts are used.

Axis letters: n tokens, N layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ports.common.layers.moe_decoder import MoEDecoder
from ports.pocket.questions import FAMILIES
from ports.pocket.tokenizer import BEGIN
from ports.pocket.training.sparse_data import ATTRIBUTES, IMAGE_TOKENS, PackedQuestions
from ports.pocket.training.sparse_model import Features, run

BATCH = 50  # rows; the rest that fills no batch is left out


def measure(decoder: MoEDecoder, features: Features, rows: PackedQuestions) -> dict[str, Any]:
    """Accuracy, entropy of the gates, and load by expert, modality and family, on packed questions.

    An answer is right if every token of it is the most probable one after the tokens before it, which is the case if
    and only if the greedy answer is right. A load is an expert's share of the tokens' choices.
    """
    graph, params = nnx.split(decoder)

    @jax.jit
    def batch(params: Any, features: Features, rows: PackedQuestions) -> tuple[Array, ...]:
        logits, choices, valid = run(nnx.merge(graph, params), features, rows)
        entropy = -(choices.probabilities * jnp.log(choices.probabilities + 1e-20)).sum(axis=-1)
        hits = (logits.argmax(axis=-1) == rows.target) | (rows.target < 0)
        return hits, entropy, choices.chosen, valid

    parts: list[list[np.ndarray]] = []
    size = min(BATCH, len(rows.tokens))
    count = len(rows.tokens) // size * size
    for start in range(0, count, size):
        cut = jax.tree.map(lambda leaf, start=start: leaf[start : start + size], rows)
        picked = jax.tree.map(lambda leaf, cut=cut: leaf[cut.scene], features)
        hits, entropy, chosen, valid = batch(params, picked, cut)
        shape = (len(chosen), *valid.shape)
        entropy, chosen = entropy.reshape(shape).swapaxes(0, 1), chosen.reshape(*shape, -1).swapaxes(0, 1)
        parts.append([np.asarray(leaf) for leaf in (hits, entropy, chosen, valid)])
    hits, entropy, chosen, valid = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
    cut = jax.tree.map(lambda leaf: np.asarray(leaf[:count]), rows)
    return {"accuracy": accuracy(hits, cut), "routing": routing(entropy, chosen, valid, cut)}


def attribute_accuracy(logits: Mapping[str, Array], labels: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share of occupied cells whose attribute the merged features give, by attribute."""
    occupied = labels["color"] < ATTRIBUTES["color"]
    guesses = {name: np.asarray(scores[:, 0]).argmax(axis=-1) for name, scores in logits.items()}
    return {name: round(float((guess == labels[name])[occupied].mean()), 4) for name, guess in guesses.items()}


def accuracy(hits: np.ndarray, rows: PackedQuestions) -> dict[str, float]:
    """Share of right answers by family, and their number."""
    number = rows.question + 100 * np.arange(len(hits))[:, None]  # one for each question
    kept = rows.question >= 0
    questions, first = np.unique(number[kept], return_index=True)
    wrong = np.unique(number[kept & ~hits])
    right, family = ~np.isin(questions, wrong), rows.family[kept][first]
    scores = {name: right[family == i] for i, name in enumerate(FAMILIES)}
    shares = {name: round(float(part.mean()), 4) for name, part in {"all": right, **scores}.items() if len(part)}
    return {"n": len(right), **shares}


def routing(entropy: np.ndarray, chosen: np.ndarray, valid: np.ndarray, rows: PackedQuestions) -> dict[str, Any]:
    """Entropy of the gates in nats, loads [N][E], and the information of experts on modality and family."""
    image = np.zeros_like(valid)
    image[:, :IMAGE_TOKENS] = True
    last = np.zeros_like(valid)
    last[:, IMAGE_TOKENS:] = (rows.tokens == BEGIN) & (rows.question >= 0)
    family = np.pad(rows.family, ((0, 0), (IMAGE_TOKENS, 0)), constant_values=-1)
    groups = {"all": valid, "image": image, "text": valid & ~image, "last_prompt": last}
    by_family = {name: load(chosen, last & (family == i)) for i, name in enumerate(FAMILIES)}
    counts = [(last & (family == i)).sum() for i in range(len(FAMILIES))]
    modalities = [load(chosen, groups[name]) for name in ("image", "text")]
    states = entropy.swapaxes(1, 2)  # [B, S, N]
    return {
        "gate_entropy_nats": {
            name: np.round(states[kept].mean(axis=0, dtype=float), 3).tolist() for name, kept in groups.items()
        },
        "load": {name: load(chosen, kept).round(3).tolist() for name, kept in groups.items()},
        "load_last_prompt_by_family": {name: shares.round(3).tolist() for name, shares in by_family.items()},
        "information_bits": {
            "modality": information(modalities, [groups[name].sum() for name in ("image", "text")]),
            "family_last_prompt": information(list(by_family.values()), counts),
        },
    }


def load(chosen: Float[np.ndarray, "B N S E"], kept: np.ndarray) -> Float[np.ndarray, "N E"]:
    """Each expert's share of the choices of the kept tokens."""
    total = chosen.swapaxes(1, 2)[kept].sum(axis=0, dtype=float)
    return total / np.maximum(total.sum(axis=-1, keepdims=True), 1)


def information(loads: list[Float[np.ndarray, "N E"]], counts: list[Int[np.ndarray, ""]]) -> list[float]:
    """Mutual information of a token's group and its expert, in bits, by layer."""
    shares = np.asarray(counts, float) / np.sum(counts)
    joint = shares[:, None, None] * np.stack(loads)  # [groups, N, E]
    mean = joint.sum(axis=0)
    ratio = np.where(joint > 0, np.stack(loads) / np.maximum(mean, 1e-20), 1)
    return np.round((joint * np.log2(ratio)).sum(axis=(0, 2)), 3).tolist()
