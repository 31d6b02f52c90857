"""What a model that routes token by token promises: recording, steering, replay and scores of its routes.

Axis letters: T tokens of prompt and answer, N layers with a gate, k chosen experts, E experts, A answer tokens,
C targets, M alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.contract.model import Answer, Inputs, Params, RoutedModel
from r2t2_jax.contract.port import Processor
from r2t2_jax.routing import Routing

TOKEN_KINDS = ("text", "image", "answer", "sample")  # `sample` stands for all tokens of a sample that share one routing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenRoutes:
    """The router's choices at the T tokens that a model ran for one sample: the prompt, then its own answer.

    Args:
        tokens: token ids.
        kinds: indices into `TOKEN_KINDS`; -1 for padding.
        experts: ids of the k chosen experts in each of the N layers that have a gate.
        weights: their combine weights, in float16.
        logits: of the gates, in float16; `None` unless requested.
    """

    tokens: Int[Array, "*B T"]
    kinds: Int[Array, "*B T"]
    experts: Int[Array, "*B T N k"]
    weights: Float[Array, "*B T N k"]
    logits: Float[Array, "*B T N E"] | None


@runtime_checkable
class RecordingModel(RoutedModel, Protocol):
    """A model that routes token by token and returns these routes (`r2t2 routes record`)."""

    @property
    def gated_layers(self) -> tuple[str, ...]:
        """Names of the N layers that have a gate, whether or not they are re-routed."""
        ...

    def record_routes(
        self, params: Params, inputs: Inputs, max_new_tokens: int, logits: bool
    ) -> tuple[Int[Array, "A"], TokenRoutes]:
        """The tokens that `generate` returns under the router's own weights, and the routes of prompt and answer."""
        ...


@runtime_checkable
class SteerableModel(RecordingModel, Protocol):
    """A model that routes token by token and whose gates can be steered at every token (`r2t2_jax.steering`)."""

    @property
    def top_k(self) -> int:
        """The number of experts that a gate chooses for a token."""
        ...

    @property
    def token_classes(self) -> tuple[str, ...]:
        """The classes of tokens that its sequences have, of `routing.TOKEN_CLASSES`."""
        ...

    def steerable(self, layers: Sequence[int]) -> SteerableModel:
        """The same model, which takes a `Routing` of the mode `steer` at every token of these layers.

        The layers are positions in `gated_layers`; those that the model re-routes are added, and `spec` names all.
        """
        ...

    def record_routes(
        self, params: Params, inputs: Inputs, max_new_tokens: int, logits: bool, routing: Routing | None = None
    ) -> tuple[Int[Array, "A"], TokenRoutes]:
        """As `RecordingModel.record_routes`; under an imposed routing if one is given."""
        ...


@runtime_checkable
class ReplayModel(RecordingModel, Protocol):
    """A model that routes token by token and takes expert ids from elsewhere (`r2t2 routes import --model`)."""

    @property
    def top_k(self) -> int:
        """The number of experts that a gate chooses for a token."""
        ...

    def replay_routes(
        self, params: Params, inputs: Inputs, answer: Answer, experts: Int[Array, "T N k"]
    ) -> tuple[Float[Array, "T N k"], Int[Array, "T N k"]]:
        """One pass over a prompt and an answer in which every gate takes given experts.

        Args:
            params: of the model.
            inputs, answer: of one sequence, as `TokenProcessor.prepare_tokens` returns them.
            experts: ids at the rows of prompt and answer; -1 where the gate chooses.

        Returns:
            The combine weights that the gates give to these experts, and the ids that they would choose themselves.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RouteLogprobs:
    """Log-probabilities of target tokens at the A places of an answer, under the router's routes and M alternatives.

    Args:
        own: under the router's own routes.
        own_token: the most probable token under these.
        alternatives: under alternative routes of the place's token in one of the N layers, the other layers free.
        tokens: the most probable token under each alternative.
    """

    own: Float[Array, "*B A C"]
    own_token: Int[Array, "*B A"]
    alternatives: Float[Array, "*B A N M C"]
    tokens: Int[Array, "*B A N M"]


@runtime_checkable
class AlternativesModel(RecordingModel, Protocol):
    """A model that routes token by token and scores alternative routes (the audit of `r2t2 diagnose`)."""

    def alternative_logprobs(
        self, params: Params, inputs: Inputs, answer: Answer, targets: Int[Array, "A C"], key: Array, alternatives: int
    ) -> RouteLogprobs:
        """Scores of the targets at each place of a given answer, under routes of as many experts as the router's."""
        ...


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of a prompt and its answer, and the images of the prompt in order; errors name the sequence by `id`."""

    id: str
    prompt: Sequence[int]
    answer: Sequence[int]
    images: Sequence[np.ndarray] = ()


@runtime_checkable
class TokenProcessor(Processor, Protocol):
    """A processor that also takes token ids in place of texts."""

    def prepare_tokens(
        self, params: Params, sequences: Sequence[TokenSequence]
    ) -> tuple[Inputs, Answer, Int[np.ndarray, "B T"]]:
        """Inputs and answers, every leaf with a leading axis B, and the kinds of the rows of both together.

        Kinds are indices into `TOKEN_KINDS`; -1 for padding.

        Raises:
            R2T2Error: a sequence does not fit the model: its length, a token id, or the number of image tokens.
        """
        ...
