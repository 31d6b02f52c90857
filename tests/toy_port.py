"""A port small enough to work out by hand.

An image is a row of four pixels. Expert e sees the red value of pixel e, a number below `WORDS`, and votes for that
word; the answer is the word with most weight. A question names the expert that is right about it. The gate names that
expert too if the last pixel says so, and `left` otherwise. So `base` is right where the last pixel is 1 or experts
agree by chance, and the references it answers correctly show which expert a question needs.

Axis letters: B samples, L = 2 routed layers, E = 3 experts, V words, A answer tokens, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.contract import CaptionModel, Port, Sample
from r2t2_jax.routing import Routing, RoutingSpec

EXPERTS = ("left", "middle", "right")
WORDS = ("red", "green", "blue", "black", "white")
SPEC = RoutingSpec(EXPERTS, layers=2)
END = len(WORDS)


@dataclass(frozen=True)
class ToyModel:
    spec: RoutingSpec = SPEC

    def encode(self, params: Any, inputs: Any) -> Any:
        pixels, question = inputs["pixels"][:-1], inputs["question"]
        named = jnp.where(inputs["pixels"][-1] == 1, question, 0)
        return {
            "votes": jax.nn.one_hot(pixels, len(WORDS)),
            "gate": params["gate"] * jax.nn.one_hot(named, len(EXPERTS)),
        }

    def route(self, params: Any, features: Any, routing: Routing | None = None) -> jax.Array:
        if routing is not None and routing.mode == "replace":
            return routing.values
        shift = 0.0 if routing is None else routing.values
        return jax.nn.softmax(jnp.broadcast_to(features["gate"], SPEC.shape) + shift)  # [L, E]

    def gate_input(self, params: Any, features: Any) -> jax.Array:
        return features["gate"]

    def _logprobs(self, params: Any, features: Any, routing: Routing | None) -> jax.Array:
        weights = self.route(params, features, routing).mean(axis=0)  # [E]
        return jax.nn.log_softmax(params["scale"] * weights @ features["votes"])  # [V]

    def answer_loss(self, params: Any, features: Any, routing: Routing | None, answer: jax.Array) -> jax.Array:
        return -self._logprobs(params, features, routing)[answer]

    def token_logprobs(self, params: Any, features: Any, routing: Routing | None, answer: jax.Array) -> Any:
        return self._logprobs(params, features, routing)[None], jnp.ones(1, bool)

    def answer_logprobs(self, params: Any, features: Any, routing: Routing | None, candidates: jax.Array) -> jax.Array:
        return self._logprobs(params, features, routing)[candidates]

    def generate(self, params: Any, features: Any, routing: Routing | None, max_new_tokens: int) -> jax.Array:
        word = self._logprobs(params, features, routing).argmax()
        return jnp.full(max_new_tokens, END).at[0].set(word)

    def as_answer(self, tokens: jax.Array) -> jax.Array:
        return tokens[0]


class ToyProcessor:
    def prepare(self, params: Any, samples: Sequence[Sample]) -> Any:
        return {
            "pixels": np.stack([sample.image[0, :, 0].astype(np.int32) for sample in samples]),  # [B, E + 1]
            "question": np.array([_expert_of(sample.question) for sample in samples]),
        }

    def answer_ids(self, answers: Sequence[str]) -> np.ndarray:
        return np.array([WORDS.index(answer) for answer in answers])

    def decode(self, tokens: np.ndarray) -> list[str]:
        return [WORDS[row[0]] for row in tokens]


class ToyEmbedder:
    fingerprint = "toy-questions"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(len(EXPERTS), dtype=np.float32)[[_expert_of(text) for text in texts]]


def _expert_of(question: str) -> int:
    return EXPERTS.index(question.removesuffix("?").split()[-1])


def make_samples(n: int, seed: int, hinted: float) -> list[Sample]:
    """Samples in which the gate sees the correct expert for a share `hinted` of them."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        topic = int(rng.integers(len(EXPERTS)))
        image = np.zeros((1, len(EXPERTS) + 1, 3), np.uint8)
        image[0, :-1, 0] = rng.integers(len(WORDS), size=len(EXPERTS))
        image[0, -1, 0] = rng.random() < hinted
        image[0, :3, 1] = seed % 256, i % 256, i // 256  # no expert sees it; no two samples have the same image
        samples.append(
            Sample(
                id=f"{seed}-{i}",
                image=image,
                question=f"What is {EXPERTS[topic]}?",
                answers=(WORDS[image[0, topic, 0]],),
                category=EXPERTS[topic],
                experts=(EXPERTS[topic],),
            )
        )
    return samples


def toy() -> Port:
    return Port(
        name="toy",
        model=ToyModel(),
        params={"gate": jnp.asarray(4.0), "scale": jnp.asarray(8.0)},
        processor=ToyProcessor(),
        embedder=ToyEmbedder(),
        fingerprint="toy-1",
        max_new_tokens=2,
        gate="gate",
        captioning=CaptionModel(tuple(f"What is {name}?" for name in EXPERTS), ("scale",)),
        presets={
            "toy": {
                "space.kind": "simplex",
                "descent.optimizer": "adam",
                "descent.learning_rate": 0.3,
                "neighborhood.bandwidth": 0.5,
            }
        },
    )
