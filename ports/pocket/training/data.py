"""Questions on scenes as arrays, for training the language model and the gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ports.pocket.config import PocketConfig
from ports.pocket.modeling import PocketAnswer
from ports.pocket.questions import FAMILIES, write_question
from ports.pocket.scenes import Scene
from ports.pocket.tokenizer import Tokenizer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """n questions: their scenes, tokens and answers, the experts they need, the cells they refer to."""

    scene: Int[Array, "n"]
    tokens: Int[Array, "n T"]
    mask: Bool[Array, "n T"]
    answer: PocketAnswer
    needs: Float[Array, "n E"]  # equal weight on the needed experts
    roles: Int[Array, "n I"]
    family: Int[Array, "n"]


def write_examples(
    config: PocketConfig,
    tokenizer: Tokenizer,
    scenes: Sequence[Scene],
    split: str,
    per_scene: int,
    seed: int,
    families: Sequence[str] = FAMILIES,
) -> Examples:
    """`per_scene` questions on every scene, in the phrasings of `split`."""
    rng = np.random.default_rng(seed)
    written = [
        (number, question)
        for number, scene in enumerate(scenes)
        for _ in range(per_scene)
        if (question := write_question(rng, scene, split, families)) is not None
    ]
    questions = [question for _, question in written]
    tokens, mask = tokenizer.pad([question.text for question in questions], config.question_length)
    answers, answer_mask = tokenizer.pad_answers([question.answer for question in questions], config.answer_length)
    needs = np.array([[name in question.experts for name in config.experts] for question in questions], np.float32)
    roles = np.zeros((len(questions), config.cells), np.int32)
    for row, question in zip(roles, questions, strict=True):
        for cell, role in question.roles:
            row[cell] = role
    return Examples(
        scene=jnp.asarray([number for number, _ in written]),
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        answer=PocketAnswer(jnp.asarray(answers), jnp.asarray(answer_mask)),
        needs=jnp.asarray(needs / needs.sum(axis=1, keepdims=True)),
        roles=jnp.asarray(roles),
        family=jnp.asarray([FAMILIES.index(question.family) for question in questions]),
    )
