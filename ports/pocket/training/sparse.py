"""Train `pocket:sparse` from scratch: `python -m ports.pocket.training.sparse --out ports/pocket/weights/sparse`.

Two stages. The tower learns the attributes of the object in each cell, read by fixed heads with orthonormal columns, as
a tower is trained before a language model sees it. Then the decoder learns to answer, the tower frozen: next-token loss
on the answers plus upstream's load-balancing loss. Its embeddings of words for attributes start as the columns of the
tower's heads, in the scale of the features. Nothing assigns questions to experts. Finished stages and checkpoints are
kept in `--work`, so training continues after an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jaxtyping import Array, Float, UInt8

from ports.common.qwen_vl.config import VisionConfig
from ports.common.qwen_vl.model import QwenVL
from ports.pocket.params import FOLDER, SPARSE
from ports.pocket.questions import FAMILIES, NAMERS, vocabulary
from ports.pocket.scenes import VALUES, Scene, make_scene, render
from ports.pocket.sparse import write_sparse
from ports.pocket.sparse_config import sparse_config
from ports.pocket.tokenizer import Tokenizer
from ports.pocket.training.optimize import StageFolder, TrainingStage, optimize
from ports.pocket.training.sparse_data import (
    ATTRIBUTES,
    attribute_labels,
    crowded_scenes,
    pack_questions,
    patches_of,
    to_values,
)
from ports.pocket.training.sparse_measure import attribute_accuracy, measure
from ports.pocket.training.sparse_model import Features, answer_loss, balance_loss, initialize, run
from r2t2_jax.runtime.progress import ProgressBar

BALANCE = 0.01  # weight of the load-balancing loss
EMPTY = 0.2  # weight of a cell without an object in the tower's loss
PLURALS = ("circles", "rectangles", "triangles", "diamonds", "crosses")

Heads = Mapping[str, Float[Array, "D classes"]]


@dataclass(frozen=True)
class SparseRecipe:
    """Sizes of the recipe. `shorten` divides every number of steps."""

    work: Path = Path("build/sparse")
    out: Path = Path("build/sparse/weights")
    seed: int = 0
    shorten: float = 1.0
    tower_scenes: int = 12_000
    tower_steps: int = 2_500
    tower_rate: float = 2e-3
    scenes: int = 20_000
    questions_per_scene: int = 12
    steps: int = 5_000
    rate: float = 2e-3
    batch: int = 32

    def plan(self, steps: int, rate: float) -> TrainingStage:
        """A stage of the recipe's batch size, with at least ten steps."""
        return TrainingStage(max(10, int(steps / self.shorten)), self.batch, rate, self.seed, decay=1e-2)

    def settings(self) -> dict[str, Any]:
        """All settings that the results depend on."""
        return {name: value for name, value in asdict(self).items() if name not in ("work", "out")}


def images_of(scenes: Sequence[Scene]) -> UInt8[Array, "n 96 96 3"]:
    """The drawn scenes."""
    return jnp.asarray(np.stack([render(scene) for scene in scenes]))


def encode(net: QwenVL, images: UInt8[Array, "B 96 96 3"]) -> Features:
    """The tower's features of a batch of images."""
    return Features(*jax.vmap(lambda values: net.visual(patches_of(values)))(to_values(images)))


def attribute_logits(heads: Heads, features: Features) -> dict[str, Float[Array, "B J+1 I classes"]]:
    """Predictions of each attribute, by the same head from the merged features and from each level of DeepStack."""
    states = jnp.concatenate([features.merged[:, None], features.levels], axis=1)
    return {name: states @ head for name, head in heads.items()}


def attribute_heads(config: VisionConfig, seed: int) -> dict[str, Array]:
    """Fixed heads with orthonormal columns; the last class of each stands for an empty cell."""
    sizes = [classes + 1 for classes in ATTRIBUTES.values()]
    columns = jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (config.out, sum(sizes))))[0]
    return dict(zip(ATTRIBUTES, jnp.split(columns, np.cumsum(sizes)[:-1], axis=1), strict=True))


def scale_features(net: QwenVL, features: Features) -> None:
    """Divide the tower's outputs by their root mean square over these features, the scale of the words' embeddings."""
    outputs = [features.merged, *features.levels.swapaxes(0, 1)]
    for merger, states in zip((net.visual.merger, *net.visual.deepstack_mergers), outputs, strict=True):
        scale = jnp.sqrt((states**2).mean())
        scaled = jax.tree.map(lambda leaf, scale=scale: leaf / scale, nnx.state(merger.linear_fc2))
        nnx.update(merger.linear_fc2, scaled)


def train_tower(recipe: SparseRecipe, net: QwenVL, heads: Heads, checkpoint: Path) -> Any:
    """Train the tower on crowded scenes, read by fixed heads; returns its parameters, with features of unit scale."""
    scenes = crowded_scenes(recipe.seed, recipe.tower_scenes)
    rows = (images_of(scenes), {name: jnp.asarray(label) for name, label in attribute_labels(scenes).items()})
    graph, tower, *others = nnx.split(net, nnx.PathContains("visual"), ...)
    (rest,) = others

    def loss(params: Any, data: Any, key: Array, progress: Array) -> Array:
        (images, labels), rest = data
        features, total = encode(nnx.merge(graph, params, rest), images), jnp.zeros(())
        for name, logits in attribute_logits(heads, features).items():
            truth = jnp.broadcast_to(labels[name][:, None], logits.shape[:-1])
            terms = optax.softmax_cross_entropy_with_integer_labels(logits, truth)
            total += (terms * jnp.where(truth == ATTRIBUTES[name], EMPTY, 1.0)).mean()
        return total

    plan = recipe.plan(recipe.tower_steps, recipe.tower_rate)
    nnx.update(net, optimize(loss, tower, (rows, rest), plan, "tower", checkpoint))
    scale_features(net, encode_scenes(net, [make_scene("train", recipe.seed, number) for number in range(500)]))
    return nnx.split(net, nnx.PathContains("visual"), ...)[1]


def word_vectors(heads: Heads) -> dict[int, Array]:
    """The head's direction of each value of color, shape, texture and glyph, by token; plurals have the singular's."""
    tokens, vectors = Tokenizer(vocabulary()), dict[int, Array]()
    for name in NAMERS:
        for value, word in enumerate(VALUES[name]):
            words = (word, PLURALS[value]) if name == "shape" else (word,)
            vectors |= {tokens.encode(text)[0]: heads[name][:, value] for text in words}
    return vectors


def encode_scenes(net: QwenVL, scenes: Sequence[Scene], batch: int = 100) -> Features:
    """The frozen tower's features of scenes."""
    graph, params = nnx.split(net)
    run_batch = jax.jit(lambda params, images: encode(nnx.merge(graph, params), images))
    starts = ProgressBar(range(0, len(scenes), batch), desc="features", unit="batch")
    parts = [run_batch(params, images_of(scenes[i : i + batch])) for i in starts]
    return Features(*map(jnp.concatenate, zip(*parts, strict=True)))


def train_decoder(recipe: SparseRecipe, net: QwenVL, checkpoint: Path) -> Any:
    """Train the decoder on the answers; returns its parameters."""
    scenes = [make_scene("train", recipe.seed, number) for number in range(recipe.scenes)]
    features, tokens = encode_scenes(net, scenes), Tokenizer(vocabulary())
    families = (*FAMILIES, "spatial", "size")  # relations between two objects are the hardest to learn
    rows = pack_questions(tokens, scenes, "train", recipe.questions_per_scene, recipe.seed, families)
    graph, params = nnx.split(net.decoder)

    def loss(params: Any, data: Any, key: Array, progress: Array) -> Array:
        rows, features = data
        picked = jax.tree.map(lambda leaf: leaf[rows.scene], features)
        logits, choices, valid = run(nnx.merge(graph, params), picked, rows)
        return answer_loss(logits, rows.target) + BALANCE * balance_loss(choices, valid)

    plan = recipe.plan(recipe.steps, recipe.rate)
    return optimize(loss, params, (rows, features), plan, "decoder", checkpoint)


def train(recipe: SparseRecipe, validation: int = 500) -> dict[str, Any]:
    """Run both stages and write the weights; returns the measurements on this many validation scenes."""
    label = json.dumps({"recipe": recipe.settings(), "config": asdict(sparse_config())}, sort_keys=True)
    stages = StageFolder(recipe.work, label).open()
    net = QwenVL(sparse_config(), nnx.Rngs(recipe.seed))
    tower = nnx.split(net, nnx.PathContains("visual"), ...)[1]
    heads = attribute_heads(net.visual.config, recipe.seed)
    nnx.update(net, stages.stage("tower", partial(train_tower, recipe, net, heads), tower))
    initialize(net.decoder, word_vectors(heads))
    nnx.update(net.decoder, stages.stage("decoder", partial(train_decoder, recipe, net), nnx.state(net.decoder)))
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), nnx.state(net))
    nnx.update(net, rounded)  # as they are written
    scenes = [make_scene("validation", recipe.seed, number) for number in range(validation)]
    features = encode_scenes(net, scenes)
    rows = pack_questions(Tokenizer(vocabulary()), scenes, "validation", 4, recipe.seed)
    shares = attribute_accuracy(attribute_logits(heads, features), attribute_labels(scenes))
    measured = {"tower": shares, **measure(net.decoder, features, rows)}
    write_sparse(recipe.out, sparse_config(), nnx.state(net), recipe=recipe.settings(), measured=measured)
    return measured


def main() -> None:
    """Train with the recipe of the command line and print the measurements."""
    recipe = tyro.cli(SparseRecipe, description=__doc__)
    print(json.dumps(train(recipe), indent=1))
    print(f"weights written to {recipe.out}; the package reads {FOLDER / SPARSE}")


if __name__ == "__main__":
    main()
