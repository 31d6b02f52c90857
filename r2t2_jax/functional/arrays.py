"""Test samples given as arrays, with a model given as a loss function: checks, references, re-routing, losses.

Axis letters: B test samples, P routings, K neighbors, N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import (
    Answer,
    Features,
    LossModel,
    Params,
    Port,
    Query,
    References,
    Rerouted,
    RoutedLoss,
    default_vmap_size,
    support_of,
)
from r2t2_jax.costs.jaxpr import depends_on_first_input
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.search.atlas_points import DEQUANTIZE
from r2t2_jax.method.strategies import Strategy, for_points
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import sample_keys, select
from r2t2_jax.rivals.trained import fit_predictor, predict_losses
from r2t2_jax.routing import Routing, RoutingSpec
from r2t2_jax.runtime.batching import threads_at_a_time
from r2t2_jax.runtime.checks import (
    ARRAYS,
    NUMBERS,
    check_embeddings,
    check_finite,
    check_params,
    check_routing,
    check_rows,
    check_seed,
    check_shares,
    first_line,
    tracing_hint,
)
from r2t2_jax.runtime.pytrees import shapes_text, tree_bytes

Loss = Callable[[Params, Features, Float[Array, "L E"], Answer], Float[Array, ""]]
PROBED_SAMPLES = 4  # on which `loss_depends_on_routing` compares losses
SAME_LOSS = 1e-6  # relative difference of two losses that counts as none: the rounding of float32


def as_model(model: RoutedLoss | Loss, bank: ReferenceBank, spec: RoutingSpec | None) -> RoutedLoss:
    """The model itself, or a `LossModel` of a loss with `spec`; the default is one group of experts as in the bank.

    Raises:
        R2T2Error: the model is a `Port`, neither a model nor a function, or not hashable; the bank is no bank; or the
            spec is none, or another than that of a model.
    """
    if not isinstance(bank, ReferenceBank):
        raise R2T2Error(f"bank is of type {type(bank).__name__}; give a ReferenceBank (the order is params, then bank)")
    if isinstance(model, Port):
        raise R2T2Error(
            f"{model.name} is a port: give port.model and port.params, or call r2t2_jax.answer(port, image, question)"
        )
    try:
        hash(model)
    except TypeError as error:
        raise R2T2Error(
            f"the model is not hashable ({error}), and compiled programs are kept by model: give a function or a "
            "frozen dataclass, and pass arrays in params"
        ) from error
    if spec is not None and not isinstance(spec, RoutingSpec):
        raise R2T2Error(f"spec is of type {type(spec).__name__}; give RoutingSpec(experts, layers)")
    if hasattr(model, "answer_loss"):
        routed = cast(RoutedLoss, model)
        if spec not in (None, routed.spec):
            raise R2T2Error("spec is that of a function; this model has its own, which differs")
        return routed
    if not callable(model):
        raise R2T2Error(f"the model is of type {type(model).__name__}; give a function answer_loss or a RoutedModel")
    _, layers, experts = bank.routing.shape
    numbered = RoutingSpec(tuple(f"expert {e}" for e in range(experts)), layers)
    return LossModel(model, spec or numbered)


@dataclass(frozen=True)
class ArraySamples:
    """Test samples of a model with a bank; `create` checks that everything fits.

    Args:
        model, params: the model.
        bank: its references, answered correctly or not.
        queries: of the B samples.
        embeddings: unit vectors.
        seed: of random draws.
        reads_routing: whether the loss reads the routing weights, by its traced program.
    """

    model: RoutedLoss
    params: Params
    bank: ReferenceBank
    queries: Query
    embeddings: Float[Array, "B M"] | Float[np.ndarray, "B M"]
    seed: int = 0
    reads_routing: bool = True

    @classmethod
    def create(
        cls,
        model: RoutedLoss | Loss,
        params: Params,
        bank: ReferenceBank,
        features: Features,
        routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"],
        embeddings: Float[Array, "B M"] | Float[np.ndarray, "B M"],
        answers: Answer | None = None,
        spec: RoutingSpec | None = None,
        support: Bool[Array, "B L E"] | Bool[np.ndarray, "B L E"] | None = None,
        seed: int = 0,
        allow_leakage: bool = False,
    ) -> ArraySamples:
        """The samples, checked before compilation; arguments as `r2t2_jax.reroute` takes them.

        Raises:
            R2T2Error: an array has the wrong shape, holds NaN or weight outside its support, routing weights are no
                shares, the loss fails or is no scalar, or a sample is a reference.
        """
        check_seed(seed)
        model = as_model(model, bank, spec)
        check_routing("routing", model.spec, routing, support)
        check_shares("routing", routing, model.spec)
        for name, tree in {"features": features, "answers": answers}.items():
            check_rows(name, tree, len(routing), " of routing")
            check_finite(name, tree)
        mask: Any = np.broadcast_to(True if support is None else np.asarray(support, bool), np.shape(routing))
        if support is None:
            mask = support_of(model, features, jnp.asarray(routing))
        queries = Query(*jax.tree.map(jnp.asarray, (features, routing, mask, answers)))
        check_embeddings("query embeddings", embeddings)
        check_rows("query embeddings", embeddings, len(routing), " of routing")
        reads_routing = check_references(model, params, bank)
        _check_test_sample(model, params, bank, queries)
        if not allow_leakage:
            _check_leakage(bank, features, embeddings)
        return cls(model, params, bank, queries, embeddings, seed, reads_routing)

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def keys(self) -> Key[Array, "B"]:
        """The key of each sample."""
        return sample_keys(self.seed, np.arange(len(self)))

    def take(self, rows: Int[np.ndarray, "n"]) -> ArraySamples:
        """Some of the samples."""
        queries = jax.tree.map(lambda leaf: leaf[rows], self.queries)
        return dataclasses.replace(self, queries=queries, embeddings=np.asarray(self.embeddings)[rows])

    def reroute(self, strategy: Strategy, mesh: Mesh | None = None) -> Rerouted:
        """The routing weights that a strategy gives to each sample.

        Raises:
            R2T2Error: k exceeds the bank, the strategy needs what the model, the bank or the samples do not offer, or
                searches by a loss that never reads the routing weights.
        """
        if strategy.objective is not None and not self.reads_routing:
            raise R2T2Error(
                f"answer_loss does not depend on the routing weights: it never reads its argument `weights`, and "
                f"{strategy.name} searches by it"
            )
        atlas = self.bank.atlas
        if atlas is not None:
            strategy = for_points(strategy, atlas.mode)
        references = self._references(strategy)
        together, threads = default_vmap_size(self.model), threads_at_a_time()
        with explained_failures(self.model, self.params, self.bank):
            return reroute_batch(
                strategy, self.model, self.params, self.queries, references, self.keys, mesh, together, threads
            )

    def _references(self, strategy: Strategy) -> References:
        """The references that a strategy reads; strategies that read the atlas also read those answered wrongly."""
        config = strategy.atlas
        bank = self.bank if config is not None else self.bank.only_correct()
        if config is not None and bank.atlas is None:
            raise R2T2Error(
                f"{strategy.name} reads the bank's loss atlas and it has none; build one with "
                "bank = r2t2_jax.build_atlas(model, params, bank), or for a bank in a folder with r2t2 bank atlas"
            )
        if config is not None and config.source == "mean":
            mean = bank.require_atlas().mean(config.loss)
            return bank.atlas_references_from(np.repeat(mean[None], len(self), axis=0))
        if config is not None and config.source == "mlp":
            losses = bank.require_atlas().rows(np.arange(len(bank)), config.loss)
            vectors, top = np.asarray(bank.embeddings, np.float32), float(DEQUANTIZE[config.loss][-1])
            network = fit_predictor(vectors, losses, top, self.seed)
            return bank.atlas_references_from(predict_losses(network, np.asarray(self.embeddings, np.float32)))
        if strategy.selector is None or strategy.kernel is None:
            return bank.references()
        size = tree_bytes(self.queries.features) // len(self) if strategy.reads_neighbor_features else 0
        neighbors = select(strategy.selector, ExactIndex.build(bank.embeddings), self.embeddings, self.keys, size)
        if config is not None:
            return bank.atlas_references(neighbors, strategy.kernel, config.loss)
        return bank.references(neighbors, strategy.kernel, strategy.reads_neighbor_features)

    def losses(self, weights: Float[Array, "B L E"] | Float[np.ndarray, "B L E"]) -> Float[np.ndarray, "B"]:
        """The loss of each sample's own answer at these weights."""
        features, answers = self.queries.features, self.queries.answer
        at = jnp.asarray(weights)[:, None]
        return np.asarray(losses_at_weights(self.params, features, answers, at, model=self.model))[:, 0]


@partial(jax.jit, static_argnames="model")
def losses_at_weights(
    params: Params, features: Features, answers: Answer, weights: Float[Array, "B P L E"], *, model: RoutedLoss
) -> Float[Array, "B P"]:
    """The loss of each sample's answer at P routing weights of its own."""

    def sample(arrays: tuple[Features, Answer, Float[Array, "P L E"]]) -> Float[Array, "P"]:
        features, answer, points = arrays
        return jax.lax.map(lambda point: model.answer_loss(params, features, Routing(point), answer), points)

    return jax.lax.map(sample, (features, answers, weights))


def loss_depends_on_routing(
    model: RoutedLoss,
    params: Params,
    features: Features,
    answers: Answer,
    routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"],
    support: Bool[Array, "B L E"] | Bool[np.ndarray, "B L E"],
) -> bool:
    """Whether the loss of any of the first samples changes with the routing weights.

    Compared are the given weights, half of them, equal weights, and single experts of each layer, also weights that no
    gate gives, because the loss of experts with equal outputs does not change with shares that sum to one.

    Raises:
        R2T2Error: no loss is finite.
    """
    few = slice(0, PROBED_SAMPLES)
    features, answers = jax.tree.map(lambda leaf: jnp.asarray(leaf[few]), (features, answers))
    own, mask = np.asarray(routing, np.float32)[few], np.asarray(support, bool)[few]
    even = mask / np.maximum(mask.sum(axis=-1, keepdims=True), 1)
    first, last = mask.argmax(axis=-1), mask.shape[-1] - 1 - mask[..., ::-1].argmax(axis=-1)
    single = [np.eye(mask.shape[-1], dtype=np.float32)[expert] * mask for expert in (first, last)]
    points = np.stack([own, own / 2, even.astype(np.float32), *single], axis=1)  # [B, P, L, E]
    losses = np.asarray(losses_at_weights(params, features, answers, jnp.asarray(points), model=model), np.float64)
    if not np.isfinite(losses).any():
        raise R2T2Error(
            f"answer_loss is NaN or infinite at all routing weights of the first {len(losses)} samples: check params "
            "and the loss"
        )
    spread = np.nanmax(losses, axis=1) - np.nanmin(losses, axis=1)
    return bool((spread > SAME_LOSS * np.maximum(np.abs(np.nanmean(losses, axis=1)), 1e-30)).any())


def check_labels(answers: Answer) -> None:
    """Refuse test samples without labels, where losses are compared.

    Raises:
        R2T2Error: there are none.
    """
    if answers is None or not jax.tree.leaves(answers):
        raise R2T2Error("answers is None: losses are compared, so every sample needs its label")


def check_dependence(model: RoutedLoss, params: Params, queries: Query) -> None:
    """Refuse a loss that is the same at all routing weights: no strategy can change it, and no test finds a gap.

    Raises:
        R2T2Error: the loss does not depend on the routing weights.
    """
    arrays = queries.features, queries.answer, queries.routing, queries.support
    if not loss_depends_on_routing(model, params, *arrays):
        raise R2T2Error(
            "answer_loss does not depend on the routing weights: the loss is the same at the router's weights, at half "
            "of them, at equal weights and at single experts. Does the model read the routing that it is given?"
        )


def check_references(model: RoutedLoss, params: Params, bank: ReferenceBank) -> bool:
    """Check the routing of a bank, trace the loss of its first reference, and return whether that reads the weights.

    Raises:
        R2T2Error: routing weights have the wrong shape or are no shares; the loss fails, or is not one number; or a
            leaf of `params` is neither an array nor a number.
    """
    check_routing("reference routing", model.spec, bank.routing)
    check_shares("reference routing", bank.routing, model.spec)
    check_params(params)
    return _trace_loss(model, params, *_first_reference(bank))


def _first_reference(bank: ReferenceBank) -> tuple[Features, Answer, Float[Array, "L E"]]:
    """Features, answer and routing weights of the first reference."""
    features, answer = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), bank.samples(np.zeros(1, int)))
    return features, answer, jnp.asarray(bank.routing[0])


def _trace_loss(
    model: RoutedLoss,
    params: Params,
    features: Features,
    answer: Answer,
    weights: Float[Array, "L E"],
    sample: str = "sample",
    remedy: str = "it gets one sample without a batch axis, must use jax.numpy, and must not be vmapped",
) -> bool:
    """Whether the loss of a sample reads the routing weights; `sample` and `remedy` are words of an error.

    Raises:
        R2T2Error: the loss fails, or is not one real number.
    """

    def loss(weights: Any, params: Any, features: Any, answer: Any) -> Any:
        return check_loss_value(model.answer_loss(params, features, Routing(weights), answer))

    try:
        traced = jax.make_jaxpr(loss)(weights, params, features, answer)
    except R2T2Error:
        raise
    except Exception as error:
        raise R2T2Error(
            f"answer_loss(params, features, weights, answer) fails for one {sample}, with features "
            f"{shapes_text(features)}, weights {list(weights.shape)} and answer {shapes_text(answer)} "
            f"({type(error).__name__}: {first_line(error)}); {tracing_hint(error) or remedy}"
        ) from error
    return depends_on_first_input(traced.jaxpr)


def check_loss_value(loss: Any) -> Any:
    """The value of a loss, which must be one real number.

    Raises:
        R2T2Error: it is not.
    """
    if isinstance(loss, ARRAYS + NUMBERS) and np.shape(loss) == () and not jnp.iscomplexobj(loss):
        return loss
    raise R2T2Error(
        f"answer_loss returns {shapes_text(loss)}; it must return one number, the loss of one sample: the mean of "
        "several, and nothing besides"
    )


def _check_test_sample(model: RoutedLoss, params: Params, bank: ReferenceBank, queries: Query) -> None:
    """Trace the loss of the first test sample, if its features or its answer have other shapes than references have.

    Features may be left out where no strategy reads them.
    """
    features, answer, weights = _first_reference(bank)
    own = jax.tree.map(lambda leaf: leaf[0], (queries.features, queries.answer))
    if not jax.tree.leaves(own[0]) and own[1] is None:
        return
    own = own[0], answer if own[1] is None else own[1]
    if jax.tree.map(jnp.shape, own) != jax.tree.map(jnp.shape, (features, answer)):
        shapes = f"references have features {shapes_text(features)} and answers {shapes_text(answer)}"
        _trace_loss(model, params, *own, weights, "test sample", shapes)


@contextmanager
def explained_failures(model: RoutedLoss, params: Params, bank: ReferenceBank) -> Iterator[None]:
    """Name a loss that has a value for a sample, but no gradient or none for a batch, as the cause of a failure.

    Raises:
        R2T2Error: the loss of the first reference has no gradient, or cannot be batched.
    """
    try:
        yield
    except R2T2Error:
        raise
    except Exception as failure:
        features, answer, weights = _first_reference(bank)

        def loss(weights: Any, features: Any, answer: Any) -> Any:
            return model.answer_loss(params, features, Routing(weights), answer)

        batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (weights, features, answer))
        for what, function, arguments in (
            ("differentiated", jax.grad(loss), (weights, features, answer)),
            ("batched by jax.vmap", jax.vmap(loss), batch),
        ):
            try:
                jax.eval_shape(function, *arguments)
            except Exception as error:
                remedy = (
                    "compute it with functions of jax.numpy and lax.scan, or use the atlas, which needs no gradient"
                )
                raise R2T2Error(
                    f"answer_loss cannot be {what} ({type(error).__name__}: {first_line(error)}); "
                    f"{tracing_hint(error) or remedy}"
                ) from error
        if hint := tracing_hint(failure):
            raise R2T2Error(
                f"answer_loss fails when it is compiled ({type(failure).__name__}: {first_line(failure)}); {hint}"
            ) from failure
        raise


def _check_leakage(bank: ReferenceBank, features: Features, embeddings: Array | np.ndarray) -> None:
    """Refuse test samples whose features and embedding are, bit for bit, those of a reference."""
    references = set(row_digests((bank.features, bank.embeddings), len(bank)))
    rows = row_digests((features, embeddings), len(embeddings))
    leaked = [i for i, row in enumerate(rows) if row in references]
    if leaked:
        raise R2T2Error(
            f"{len(leaked)} of {len(rows)} test samples are also references in the bank, first row {leaked[0]}: the "
            "bank holds their answers; leave them out, or pass allow_leakage=True"
        )


def row_digests(tree: Any, rows: int) -> list[bytes]:
    """A digest of each row of all leaves; numbers are compared as float32."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    flat = [np.asarray(leaf, np.float32).reshape(rows, -1) for leaf in leaves]
    return [hashlib.sha256(b"".join(leaf[i].tobytes() for leaf in flat)).digest() for i in range(rows)]
