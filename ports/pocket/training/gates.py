"""Last stage: everything is frozen but the gate.

Two gates are trained over the same weights: `balanced` on all families, `narrow` on a biased mixture, as routers meet
in the wild. Neither sees the test phrasings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from ports.pocket.modeling import PocketNet
from ports.pocket.training.language import opened, token_loss
from ports.pocket.training.lessons import Lessons
from ports.pocket.training.optimize import Plan, optimize

NARROW = ("color", "shape")  # the families the narrow gate is trained on


def learn_gate(
    net: PocketNet, vision: Float[Array, "n E+1 I F"], lessons: Lessons, plan: Plan, checkpoint: Path
) -> Any:
    """Train the gate by the answer's cross-entropy; returns the gate's parameters."""
    graph, *states = nnx.split(net, lambda path, _: path[0] == "gate", ...)
    gate, frozen = states

    def one(net: PocketNet, vision: Array, lesson: Lessons) -> Array:
        features = net.encode(vision, lesson.tokens, lesson.mask)
        image = net.project(net.mix(features, jax.nn.softmax(net.gate_logits(features))))
        keys, values, _ = net.read_image(features, image)
        return token_loss(net.answer_logits(keys, values, lesson.mask, opened(lesson.answer.tokens)), lesson.answer)

    def loss(params: Any, data: Any, key: Array, progress: Array) -> Array:
        lessons, (frozen, vision) = data
        net = nnx.merge(graph, params, frozen)
        return jax.vmap(one, in_axes=(None, 0, 0))(net, vision[lessons.scene], lessons).mean()

    return optimize(loss, gate, (lessons, (frozen, vision)), plan, "gate", checkpoint)
