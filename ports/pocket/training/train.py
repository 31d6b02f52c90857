"""Train the pocket model from scratch: `python -m ports.pocket.training.train --out ports/pocket/weights`.

Stages: seven encoders, alignment, language model, two gates, choice of the question embedding, measurements. Finished
stages are stored in `--work` and not run again, so training can be interrupted at any time. Seeds are fixed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jaxtyping import Float

from ports.common.checkpoint.mapping import path_name
from ports.pocket.config import PocketConfig
from ports.pocket.dataset import question_on
from ports.pocket.layers import SCORE_LIMIT, VisionEncoder
from ports.pocket.model import PocketModel
from ports.pocket.modeling import PocketNet, create
from ports.pocket.params import FOLDER, GATES, write_weights
from ports.pocket.processing import question_states, unit_halves
from ports.pocket.questions import FAMILIES, Question, vocabulary
from ports.pocket.scenes import Scene, make_scene, render
from ports.pocket.tokenizer import Tokenizer
from ports.pocket.training import measure
from ports.pocket.training.data import Examples, write_examples
from ports.pocket.training.optimize import StageFolder, TrainingStage
from ports.pocket.training.stages import (
    CLASSES,
    NARROW,
    STEPS,
    leakage,
    proxy_labels,
    train_alignment,
    train_encoder,
    train_gate,
    train_language,
)
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.progress import ProgressBar

FORMAT = 2  # 2: parameters have upstream's names, so the leaves of a stage have another order


@dataclass(frozen=True)
class Recipe:
    """Sizes of the recipe. `shorten` divides every number of steps: with 50 a trial run takes two minutes."""

    work: Path = Path("build/pocket")
    out: Path = Path("build/pocket/weights")
    seed: int = 0
    shorten: float = 1.0
    vision_scenes: int = 8_000
    language_scenes: int = 12_000
    gate_scenes: int = 4_000
    questions_per_scene: int = 12
    align_steps: int = 400
    language_steps: int = 5_000
    gate_steps: int = 500

    def steps(self, full: int) -> int:
        return max(10, int(full / self.shorten))

    def label(self, config: PocketConfig) -> str:
        """All settings that the results depend on, and the format of the stages' files."""
        settings = {name: value for name, value in asdict(self).items() if name not in ("work", "out")}
        return json.dumps({"recipe": settings, "config": asdict(config), "format": FORMAT}, sort_keys=True)


def scenes_of(split: str, seed: int, count: int) -> list[Scene]:
    """Scenes of one split in order."""
    return [make_scene(split, seed, number) for number in range(count)]


def encode_scenes(net: PocketNet, scenes: Sequence[Scene], batch: int = 100) -> Float[jax.Array, "n E+1 I F"]:
    """Frozen vision features of scenes."""
    graph, params = nnx.split(net)
    encode = jax.jit(lambda params, images: nnx.merge(graph, params).encode_image(images))
    starts = ProgressBar(range(0, len(scenes), batch), desc="features", unit="batch")
    parts = [encode(params, np.stack([render(scene) for scene in scenes[i : i + batch]])) for i in starts]
    return jnp.concatenate(parts)


def train_experts(recipe: Recipe, config: PocketConfig, stages: StageFolder) -> tuple[PocketNet, dict[str, Any]]:
    """Train seven encoders; also returns the accuracy of each on its own attribute and on the other attributes."""
    scenes, held = scenes_of("train", recipe.seed, recipe.vision_scenes), scenes_of("validation", recipe.seed, 1_500)
    labels, held_labels = proxy_labels(scenes), proxy_labels(held)
    images = jnp.asarray(np.stack([render(scene) for scene in scenes]))
    net = create(config, nnx.Rngs(recipe.seed))
    heads = {}
    for number, name in enumerate((*config.experts, "base")):
        encoder = net.base if name == "base" else net.experts[number]
        params = nnx.state(VisionEncoder(config, nnx.Rngs(0)))
        like = (params, jnp.zeros((config.expert_width, CLASSES[name] + 1)))
        plan = TrainingStage(recipe.steps(STEPS[name]), 64, 4e-3, recipe.seed + number)
        truth = jnp.asarray(labels[name])
        make = partial(train_encoder, config, name, images, truth, plan)
        trained, heads[name] = stages.stage(f"expert-{name}", make, like)
        nnx.update(encoder, trained)
    features = np.asarray(encode_scenes(net, held))
    occupied = held_labels["base"] == 0
    report = {}
    for number, name in enumerate((*config.experts, "base")):
        guess = (features[:, number] @ np.asarray(heads[name])).argmax(-1) == held_labels[name]
        own = guess.mean() if name == "base" else guess[occupied].mean()
        probed = {key: round(value, 4) for key, value in leakage(features[:, number], held_labels).items()}
        report[name] = {"own": round(float(own), 4), "linear_probe": probed}
    return net, report


def choose_embedding(
    net: PocketNet, tokenizer: Tokenizer, references: Sequence[Question], validation: Sequence[Question], k: int = 10
) -> tuple[int, np.ndarray, np.ndarray, dict[str, float]]:
    """The layer whose nearest neighbors most often need the same experts, the references' mean and spread, scores."""
    graph, params = nnx.split(net)
    config = net.config
    model = PocketModel(config, graph)

    def states(questions: Sequence[Question], layer: int) -> np.ndarray:
        tokens, mask = tokenizer.pad([question.text for question in questions], config.question_length)
        return np.asarray(question_states(model, params, tokens, mask, len(questions), layer))

    scores, statistics = {}, {}
    for layer in range(1, config.depth + 1):
        bank_states, new_states = states(references, layer), states(validation, layer)  # [n, 2, D]
        mean, spread = bank_states.mean(axis=0), bank_states.std(axis=0) + 1e-3
        bank, query = unit_halves(bank_states, mean, spread), unit_halves(new_states, mean, spread)
        nearest = np.argsort(-query @ bank.T, axis=1, kind="stable")[:, :k]
        same = [
            np.mean([set(references[j].experts) == set(question.experts) for j in row])
            for question, row in zip(validation, nearest, strict=True)
        ]
        scores[f"layer{layer}"], statistics[layer] = round(float(np.mean(same)), 4), (mean, spread)
    best = max(statistics, key=lambda layer: scores[f"layer{layer}"])
    return best, *statistics[best], scores


def questions_of(split: str, seed: int, count: int) -> list[Question]:
    """The dataset's questions on the first `count` scenes of a split."""
    questions = (question_on(make_scene(split, seed, number), split, seed, number) for number in range(count))
    return [question for question in questions if question is not None]


def train(recipe: Recipe) -> dict[str, Any]:
    """Run every stage and write the weights; returns the measurements."""
    tokenizer = Tokenizer(vocabulary())
    config = PocketConfig(vocab_size=tokenizer.size)
    stages = StageFolder(recipe.work, recipe.label(config)).open()
    net, experts = train_experts(recipe, config, stages)

    scenes = scenes_of("train", recipe.seed + 1, recipe.language_scenes)
    vision = encode_scenes(net, scenes)
    plan = TrainingStage(recipe.steps(recipe.align_steps), 64, 1e-2, recipe.seed)
    labels = proxy_labels(scenes)
    state = stages.stage("align", partial(train_alignment, config, net, vision, labels, plan), nnx.state(net))
    nnx.update(net, state)
    families = (*FAMILIES, "spatial", "size")  # relations between two objects are the hardest to learn
    examples = write_examples(config, tokenizer, scenes, "train", recipe.questions_per_scene, recipe.seed, families)
    plan = TrainingStage(recipe.steps(recipe.language_steps), 192, 3e-3, recipe.seed)
    state = stages.stage("language", partial(train_language, config, net, vision, examples, plan), nnx.state(net))
    nnx.update(net, state)
    check_scores(net)

    gates, accuracy = train_gates(recipe, config, tokenizer, net, stages)
    references, validation = (
        questions_of("reference", recipe.seed, 4_000),
        questions_of("validation", recipe.seed, 1_000),
    )
    layer, mean, spread, scores = choose_embedding(net, tokenizer, references, validation)
    measured = {
        "experts": experts,
        "accuracy": accuracy,
        "blind": measure.blind_scores(questions_of("train", recipe.seed, 60_000), validation),
        "neighbors_needing_the_same_experts": scores,
    }
    arrays = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(net))}
    arrays = {name: leaf for name, leaf in arrays.items() if not name.startswith("gate/")}
    for name, gate in gates.items():
        leaves = jax.tree_util.tree_leaves_with_path(gate)
        arrays |= {f"gates/{name}/{path_name(path).removeprefix('gate/')}": leaf for path, leaf in leaves}
    arrays |= {"embedding/mean": mean, "embedding/spread": spread}
    described = json.loads(recipe.label(config))
    write_weights(
        recipe.out,
        config,
        tokenizer.words,
        arrays,
        embedding={"layer": layer},
        recipe=described["recipe"],
        measured=measured,
    )
    return measured


def check_scores(net: PocketNet) -> None:
    """Raises R2T2Error if scores of a mixer may be so large that their exponentials are not exact."""
    for number, mixer in enumerate(net.mixers):
        largest = float(mixer.largest_scores().max())
        if largest > SCORE_LIMIT:
            raise R2T2Error(
                f"scores of mixer {number} may reach {largest:.0f}, and exponentials are exact to {SCORE_LIMIT:.0f}: "
                "train it with another seed, or subtract the largest score of a row in Mixer.__call__"
            )


def train_gates(
    recipe: Recipe, config: PocketConfig, tokenizer: Tokenizer, net: PocketNet, stages: StageFolder
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train both gates; also returns validation accuracy under each gate and under fixed routings."""
    scenes, held = scenes_of("gate", recipe.seed, recipe.gate_scenes), scenes_of("validation", recipe.seed, 2_000)
    vision, held_vision = encode_scenes(net, scenes), encode_scenes(net, held)
    held_examples: Examples = write_examples(config, tokenizer, held, "validation", 1, recipe.seed)

    def score(router: measure.Router) -> dict[str, float]:
        return measure.accuracy_by_family(
            measure.correct_answers(net, held_vision, held_examples, router), held_examples
        )

    accuracy = {"task_routing": score(measure.task_routing), "uniform": score(measure.uniform_routing)}
    gates = {}
    blank = nnx.state(net.gate)
    for name in GATES:
        nnx.update(net.gate, blank)
        examples = write_examples(
            config, tokenizer, scenes, "gate", 4, recipe.seed, NARROW if name == "narrow" else FAMILIES
        )
        plan = TrainingStage(recipe.steps(recipe.gate_steps), 128, 3e-3, recipe.seed, decay=1e-2)
        like = nnx.split(net, lambda path, _: path[0] == "gate", ...)[1]
        gates[name] = stages.stage(f"gate-{name}", partial(train_gate, net, vision, examples, plan), like)
        nnx.update(net, gates[name])
        accuracy[name] = score(measure.gate_routing)
    return gates, accuracy


def main() -> None:
    """Train with the recipe of the command line and print the measurements."""
    recipe = tyro.cli(Recipe, description=__doc__)
    measured = train(recipe)
    print(json.dumps(measured, indent=1))
    print(f"weights written to {recipe.out}; the package reads {FOLDER}")


if __name__ == "__main__":
    main()
