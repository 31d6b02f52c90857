"""Protocols of models, processors, and embedders, and the data passed between a model and the method
(docs/design.md, section 2).

Axis letters: B test samples, K neighbors, S steps, L routed layers, E experts, A answer tokens, C candidates,
N bank size, M embedding size, G atlas points; in routes of tokens: T tokens, N layers with a gate, k chosen experts.

`RoutedModel` is traced: one sample, static shapes, padding by masks; batching is `vmap` or `lax.map` outside it.
`Processor` and `Embedder` work on the host, on batches. Nothing here imports a port or a strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import Routing, RoutingSpec

Params = Any
Inputs = Any
Features = Any
Answer = Any


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn of a conversation: its role (`system`, `user` or `assistant`), and its texts and images in order."""

    role: str
    parts: tuple[str | np.ndarray, ...]


@dataclass(frozen=True)
class Sample:
    """One question about one image, or about none, as every dataset yields it.

    `image` is uint8 [height, width, 3], or `None` for a question of text only. `answers` lists every accepted ground
    truth, the most common first. The port turns `style` (`letter`, `word`, `plain`) into a prompt; an empty text in
    `options` is a letter that is not offered. `experts` are the names of the experts that a person would choose for the
    question, if known; only `task_routing` reads them. `dataset` is the name of the dataset, by which a port chooses
    the published prompt of a benchmark. `context` are lines that this prompt has below the question, such as OCR
    tokens; embedders do not read them. `original` is the image of which `image` is an augmented copy; a port reads
    what is stored for an image, such as MoAI's auxiliary records, for the original. `conversation` is the whole of a
    conversation that has earlier turns, instructions or several images, for processors with `reads_conversations`;
    `question` is then the text of its last turn, and `image` its first image.
    """

    id: str
    image: np.ndarray | None
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    style: str = "plain"
    category: str = ""
    split: str = ""
    experts: tuple[str, ...] = ()
    dataset: str = ""
    context: str = ""
    original: np.ndarray | None = None
    conversation: tuple[Turn, ...] = ()

    def pixels(self) -> np.ndarray:
        """The image of a sample that must have one.

        Raises:
            R2T2Error: there is none, or it has no pixels.
        """
        image = self.image
        if image is None:
            raise R2T2Error(f"sample {self.id!r} has no image, and this model needs one: give its image")
        if image.size == 0:
            raise R2T2Error(f"sample {self.id!r}: its image has no pixels (shape {image.shape})")
        return image


def options_by_letter(options: Sequence[str]) -> dict[str, str]:
    """The option texts by their letter, `A` for the first. Empty texts are left out; later options keep their letters.

    Raises:
        R2T2Error: there are more options than letters.
    """
    if len(options) > len(ascii_uppercase):
        raise R2T2Error(f"a question of {len(options)} options; letters name {len(ascii_uppercase)} at most")
    return {letter: text for letter, text in zip(ascii_uppercase, options, strict=False) if text.strip()}


@runtime_checkable
class RoutedModel(Protocol):
    """A frozen mixture of experts whose routing weights can be replaced. Hashable: it is a static argument of jit.

    A model whose samples differ in their supported experts also has `support(features) -> Bool[Array, "*B L E"]`, which
    takes one sample's features or a batch's. With `reads_support = True` it computes only these experts where weights
    are replaced, and strategies pass the support in `Routing.support`. One whose gate reads a vector may have
    `gate_input(params, features) -> Float[Array, "H"]`, which `knn_moe` uses to find neighbors. One in which part of
    the work on a (sample, answer) pair does not depend on r may have `condition(params, features, answer) -> Features`:
    what `answer_loss` takes in place of the features for this answer, with the same loss. It returns its own result
    unchanged, so conditioned features may be stored. `LogprobModel` is the protocol of models for entropy objectives.
    """

    @property
    def spec(self) -> RoutingSpec:
        """Names and structure of the routing weights."""
        ...

    def encode(self, params: Params, inputs: Inputs) -> Features:
        """All work that depends neither on routing nor on an answer."""
        ...

    def route(self, params: Params, features: Features, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The routing weights in effect: the gate's own for `None`."""
        ...

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, end-of-turn token included, padding masked."""
        ...

    def generate(
        self, params: Params, features: Features, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded after the end-of-turn token."""
        ...

    def answer_logprobs(
        self, params: Params, features: Features, routing: Routing | None, candidates: Answer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate answer; every leaf of `candidates` has a leading axis C."""
        ...

    def as_answer(self, tokens: Int[Array, "A"]) -> Answer:
        """Generated tokens as an answer, so that `answer_loss` can score it (`best_of_n`)."""
        ...


@runtime_checkable
class LogprobModel(RoutedModel, Protocol):
    """A routed model that also returns per-token log-probabilities, used by entropy objectives."""

    def token_logprobs(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every token at each place of an answer, given those before it; and the padding mask."""
        ...


@runtime_checkable
class BeamModel(RoutedModel, Protocol):
    """A routed model that also decodes with beam search."""

    def generate_beams(
        self, params: Params, features: Features, routing: Routing | None, max_new_tokens: int, num_beams: int
    ) -> Int[Array, "A"]:
        """The best answer of a beam search, padded after the end-of-turn token."""
        ...


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
class LossModel:
    """A model given only by its loss `answer_loss(params, features, weights, answer)`.

    `weights` is a plain array [L, E]. This suffices for every strategy that replaces routing weights; strategies that
    need the gate (`shift`) or generated text (`best_of_n`) are refused.
    """

    loss: Callable[[Params, Features, Float[Array, "L E"], Answer], Float[Array, ""]]
    spec: RoutingSpec

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]:
        if routing is None or routing.mode != "replace":
            raise TypeError("a LossModel takes replaced routing weights only; use another update space than shift")
        return self.loss(params, features, routing.values, answer)


def condition(model: RoutedLoss, params: Params, features: Features, answer: Answer) -> Features:
    """The features of a sample whose answer is known, with the work that does not depend on r done, as far as the model
    can tell it apart.
    """
    function = getattr(model, "condition", None)
    return features if function is None else function(params, features, answer)


def support_of(
    model: RoutedLoss, features: Features, routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"]
) -> Bool[Array, "B L E"]:
    """The model's own support of each sample, if it has one, else the support that its spec gives to all samples.

    Args:
        model: any model.
        features: of B samples.
        routing: their weights, for the shape.
    """
    own = getattr(model, "support", None)
    if own is None:
        return jnp.asarray(np.broadcast_to(model.spec.support_mask(), np.shape(routing)))
    return jnp.broadcast_to(own(features), np.shape(routing))


class RoutedLoss(Protocol):
    """The part of a model that every strategy needs; `RoutedModel` and `LossModel` both have it."""

    @property
    def spec(self) -> RoutingSpec: ...

    def answer_loss(
        self, params: Params, features: Features, routing: Routing | None, answer: Answer
    ) -> Float[Array, ""]: ...


class Processor(Protocol):
    """Host side of a port, on batches. Results do not depend on the length bucket.

    A processor that cuts long questions also has `fits(question) -> bool`.
    """

    def prepare(self, params: Params, samples: Sequence[Sample]) -> Inputs:
        """Pixels, token ids and masks, every leaf with a leading axis B."""
        ...

    def answer_ids(self, answers: Sequence[str]) -> Answer:
        """Answer tokens and masks, every leaf with a leading axis B."""
        ...

    def decode(self, tokens: Int[np.ndarray, "B A"]) -> list[str]:
        """Generated tokens to text, cut at the end-of-turn token."""
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


class Embedder(Protocol):
    """Maps questions to unit vectors; `fingerprint` changes whenever the vectors do."""

    @property
    def fingerprint(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B M"]: ...


GRAY = 127  # of 255: every pixel of the image without content with which Test-Time Warmup compares
CAPTION_PROMPTS = (  # for models that describe photographs; Test-Time Warmup asks for ten captions of an image
    "Describe this image.",
    "What does this image show?",
    "Describe the objects in this image and where they are.",
    "Describe the people, animals or things in the foreground.",
    "Describe the background of this image.",
    "Which colors, shapes and materials does this image show?",
    "What is happening in this image?",
    "Describe any text, numbers or symbols in this image.",
    "How are the objects in this image related to each other?",
    "Summarize this image in one sentence.",
)


@dataclass(frozen=True)
class CaptionModel:
    """Prompts and trained parameters of the rival `warmup`.

    `prompts` are questions about any image, `adapted` the paths in `params` of connector and language model.
    """

    prompts: tuple[str, ...]
    adapted: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Port:
    """A model ready to use, as `r2t2_jax.load("pocket:narrow")` returns it.

    `gate` is the path in `params` of the router's parameters, which `gate_finetuned` trains. `atlas` is the folder of
    the loss atlas that is shipped with the port's references, if any. Answers are decoded greedily, or with beam search
    if `beams` is above 1, up to `max_new_tokens`. `token_limits` are the numbers of published evaluations that differ
    from it, by dataset name.
    """

    name: str
    model: RoutedModel
    params: Params
    processor: Processor
    embedder: Embedder
    fingerprint: str
    max_new_tokens: int
    presets: Mapping[str, Any] = field(default_factory=dict)
    gate: str = ""
    atlas: Path | None = None
    captioning: CaptionModel | None = None
    beams: int = 1
    token_limits: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line without the weights."""
        layers, experts = self.model.spec.shape
        return f"Port({self.name!r}, {layers} x {experts} routing weights, fingerprint={self.fingerprint!r})"


METHODS = {  # of the parts of a port; `as_answer` and others are optional for some strategies, these are not
    "model": ("encode", "route", "answer_loss", "generate", "answer_logprobs", "as_answer"),
    "processor": ("prepare", "answer_ids", "decode"),
    "embedder": ("embed",),
}


def check_methods(port: Port) -> None:
    """Check that the parts of a port have the methods of the contract.

    Raises:
        R2T2Error: a method is missing (all missing ones are named), or the spec, a name or a fingerprint.
    """
    for part, names in METHODS.items():
        owner = getattr(port, part)
        missing = [name for name in names if not callable(getattr(owner, name, None))]
        if missing:
            raise R2T2Error(
                f"the {part} of port {port.name!r} ({type(owner).__name__}) has no method "
                f"{', '.join(missing)}; r2t2_jax.contract describes each"
            )
    if not isinstance(getattr(port.model, "spec", None), RoutingSpec):
        raise R2T2Error(f"the model of port {port.name!r} has no spec, a r2t2_jax.RoutingSpec")
    named = {"name": port.name, "fingerprint": port.fingerprint}
    for what, text in (named | {"embedder.fingerprint": getattr(port.embedder, "fingerprint", None)}).items():
        if not isinstance(text, str) or not text:
            raise R2T2Error(f"{what} of port {port.name!r} is {text!r}; it is a text that changes when results do")
    if not isinstance(port.max_new_tokens, int) or port.max_new_tokens < 1:
        raise R2T2Error(f"max_new_tokens of port {port.name!r} is {port.max_new_tokens!r}; it is at least 1")
    try:
        hash(port.model)
    except TypeError as error:
        raise R2T2Error(
            f"the model of port {port.name!r} ({type(port.model).__name__}) is not hashable ({error}): make it a "
            "frozen dataclass without arrays; arrays belong in params"
        ) from error


@dataclass(frozen=True)
class ModelShapes:
    """A model without weights, as shapes: what `r2t2 fit` and `r2t2 cost` read.

    A port registers a function `shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) ->
    ModelShapes` in the entry-point group `r2t2.shapes`. Token counts of `None` stand for the model's usual ones; the
    function raises `R2T2Error` for counts it cannot have. Every leaf is a `jax.ShapeDtypeStruct`.

    Args:
        name: of the model.
        model: static, without arrays.
        params: in the dtypes they have while re-routing, since their bytes are counted.
        features: of one sample, for instance `jax.eval_shape(model.encode, params, inputs)`.
        answer: of one sample.
        costs: the functions that `r2t2 cost` counts; optional.
        shardings: the sharding of every parameter over a mesh with the axis `model`, for `r2t2 fit --mesh`; optional.
    """

    name: str
    model: RoutedModel
    params: Params
    features: Features
    answer: Answer
    costs: Costs | None = None
    shardings: Callable[[Params, Any], Any] | None = None


FIRST_PASS = "first_pass"  # `jax.named_scope` of what `Costs.prepare` does for test samples and not for references


@dataclass(frozen=True)
class Costs:
    """The functions whose FLOPs and memory `r2t2 cost` counts on their traced programs. Optional for a port.

    Args:
        raw: shapes of one sample before `prepare`.
        prepare: raw sample to the inputs of `encode`, for a port whose processor runs parts of the model; `None` if raw
            samples are those inputs. A pass that only test samples need, such as one that chooses experts, is traced
            under `jax.named_scope(FIRST_PASS)`.
        variants: ways to compute a neighbor's loss and gradient, from the literal one, whose loss is the naive
            forward pass, to the cheapest, which the port uses.
    """

    raw: Any
    prepare: Callable[[Params, Any], Inputs] | None
    variants: tuple[CostVariant, ...]


@dataclass(frozen=True)
class CostVariant:
    """One way to compute a neighbor's loss and its gradient with respect to r. All variants give the same numbers.

    Args:
        name: what this variant saves over the one before it, in a few words.
        about: the same in a sentence.
        params: shapes of the parameters that `once` and `loss` take.
        once: raw sample to what is computed once and used in every step.
        loss: the loss at r [L, E]: `loss(r, params, kept, answer)` with `kept` from `once`.
        every_gradient: also compute the gradient with respect to every parameter, as training does.
        stored: `once` runs when the bank is built, not for every test sample.
    """

    name: str
    about: str
    params: Params
    once: Callable[[Params, Any], Any]
    loss: Callable[[Float[Array, "L E"], Params, Any, Answer], Float[Array, ""]]
    every_gradient: bool = False
    stored: bool = False

    def for_all(self) -> CostVariant:
        """The next variant: all test samples share what is computed once."""
        about = "features are computed when the bank is built and shared by all test samples"
        return replace(self, name="encode for all", about=about, stored=True)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Query:
    """One test sample. Only the oracle reads `answer`, the label, and only `task_routing` reads `task_routing`.

    `permuted_answer` is the label of another question, which only `oracle_permuted` reads.
    `finetuned_routing` are the weights of a gate fine-tuned on the references, which only `gate_finetuned` reads.
    `views` are features of the same question on augmented images [V ...], `shuffled` those on an image with shuffled
    patches; `Strategy.augmentations` names those that a strategy reads.
    """

    features: Features
    routing: Float[Array, "L E"]
    support: Bool[Array, "L E"]
    answer: Answer | None = None
    task_routing: Float[Array, "L E"] | None = None
    finetuned_routing: Float[Array, "L E"] | None = None
    views: Features | None = None
    shuffled: Features | None = None
    permuted_answer: Answer | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class References:
    """The neighborhood of one test sample, padded to K, and the routing vectors of the whole bank.

    `weights` are the kernel's values, clipped at zero and zero where padded; they need not sum to one. Over a batch
    every leaf has a leading axis B, except `bank_routing` and `points`, which all samples share. Fields that a strategy
    does not read are `None`.

    `points` are the atlas's routing points, `point_losses` the references' losses there, bounded or cross-entropies,
    `slopes` the gradients of their bounded losses at their own routing (`method/search/atlas_points.py`).
    """

    bank_routing: Float[Array, "N L E"] | None
    features: Features | None = None
    answers: Answer | None = None
    routing: Float[Array, "K L E"] | None = None
    weights: Float[Array, "K"] | None = None
    points: Float[Array, "G L E"] | None = None
    point_losses: Float[Array, "K G"] | None = None
    slopes: Float[Array, "K L E"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rerouted:
    """The result of a strategy. `routing=None` is the untouched model.

    `path[s]` are the weights in effect after s steps, `losses[s]` the objective there. After descent `losses` is one
    shorter than `path`, since the last loss is not computed. `used_fallback` is true if no neighbor had any kernel
    weight, and the router's own weights were kept. `preset` is the name of the preset that `r2t2_jax.reroute` chose;
    empty if it did not choose one.
    """

    routing: Routing | None
    weights: Float[Array, "L E"]
    path: Float[Array, "P L E"]
    losses: Float[Array, "Q"]
    used_fallback: Bool[Array, ""]
    info: dict[str, Array]
    evaluations: int = field(metadata={"static": True})
    preset: str = field(default="", metadata={"static": True})
