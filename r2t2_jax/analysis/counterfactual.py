"""The counterfactual audit: whether alternative routes of equal compute serve the true answer better than the router's.

Alternatives are drawn by Gumbel top-k from the gate, in one layer at a time, and scored by the probability of the true
token at a place of the answer (arXiv 2605.07260). Any change of a route also raises the probability of tokens that
the router considers unlikely, so the same share is computed for permuted tokens: true tokens of other questions of the
category. Only what the true tokens gain beyond them is evidence for better routes.

A model that routes whole samples has the whole answer in place of a token, and draws Gumbel-perturbed weights of the
experts that the router mixes.

Axis letters: B samples, U places, A answer tokens, N layers, M alternatives, C targets (the true one first), E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.stats import false_discovery_control

from r2t2_jax.contract import (
    AlternativesModel,
    Answer,
    Features,
    Inputs,
    Params,
    Port,
    RouteLogprobs,
    Sample,
    support_of,
)
from r2t2_jax.evaluation.statistics import Comparison, mean_interval
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing, RoutingSpec, by_group
from r2t2_jax.runtime.batching import Rows, run_batch, take
from r2t2_jax.runtime.progress import progress_bar

ALTERNATIVES = 8
PERMUTED = 8  # permuted targets of a place
FRAGILE = 0.5  # a place is fragile if the router gives its true token a smaller probability
MIN_FRAGILE = 10  # questions with a fragile place, below which nothing can be said
PERMUTATIONS = 2000
RATE = 0.05
BATCH = 10  # samples of one program

AuditVerdict = Literal["better", "none", "few"]


@dataclass(frozen=True)
class LayerAudit:
    """The audit of one layer; shares are means over questions, of their fragile places.

    Args:
        layer: its name.
        share: share of the alternatives under which the true token is more probable than under the router's route.
        permuted: the same of permuted tokens.
        excess: share minus permuted, with its interval.
        q: of the one-sided permutation test, after Benjamini-Hochberg over layers.
        corrected: share of the questions' wrong places at which an alternative makes the true token the most probable.
        corrected_permuted: the same of permuted tokens.
        all_share, all_permuted: share and permuted at all places, fragile or not.
    """

    layer: str
    share: float
    permuted: float
    excess: Comparison
    q: float
    corrected: float
    corrected_permuted: float
    all_share: float
    all_permuted: float


@dataclass(frozen=True)
class RouteAudit:
    """The audit of a model.

    Args:
        unit: `token` or `answer`.
        places, fragile: number of places, and of fragile ones.
        questions: number of questions with a fragile place.
        alternatives: number of alternatives per place and layer.
        layers: in order; empty if there were no places to test.
        verdict: `better` if a layer has better routes than chance gives, `none` if not, `few` if there are too few
            fragile places to say.
        missing: why there is no audit; empty if there is one.
    """

    unit: str
    places: int
    fragile: int
    questions: int
    alternatives: int
    layers: tuple[LayerAudit, ...]
    verdict: AuditVerdict
    missing: str = ""

    @property
    def helping(self) -> tuple[LayerAudit, ...]:
        """The layers in which alternatives serve the true token beyond chance, the largest excess first."""
        layers = [each for each in self.layers if each.q <= RATE and each.excess.gain > 0]
        return tuple(sorted(layers, key=lambda each: -each.excess.gain))

    def to_record(self) -> dict[str, Any]:
        """The audit as JSON values."""
        if self.missing:
            return {"missing": self.missing}
        return {
            "unit": self.unit, "places": self.places, "fragile": self.fragile, "questions": self.questions,
            "alternatives": self.alternatives, "verdict": self.verdict, "rate": RATE,
            "layers": [
                {
                    "layer": each.layer, "share": round(each.share, 6), "permuted": round(each.permuted, 6),
                    "excess": round(each.excess.gain, 6),
                    "ci95": [round(each.excess.low, 6), round(each.excess.high, 6)], "q": round(each.q, 6),
                    "corrected": round(each.corrected, 6), "corrected_permuted": round(each.corrected_permuted, 6),
                    "all_share": round(each.all_share, 6), "all_permuted": round(each.all_permuted, 6),
                }
                for each in self.layers
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class Places:
    """The scores of all places: what the statistics need.

    Args:
        question: number of the question of each place.
        wins: share of the alternatives in each layer under which a target is more probable; ties count half.
        hits: whether an alternative makes the target the most probable.
        valid: targets that count: the true one, and permuted ones that are neither the true nor the most probable.
        fragile: whether the router gives the true target less than `FRAGILE`.
        wrong: whether another target is the most probable under the router's own route.
    """

    question: Int[np.ndarray, "U"]
    wins: Float[np.ndarray, "U N C"]
    hits: Bool[np.ndarray, "U N C"]
    valid: Bool[np.ndarray, "U C"]
    fragile: Bool[np.ndarray, "U"]
    wrong: Bool[np.ndarray, "U"]


def audit_port(port: Port, samples: Sequence[Sample], alternatives: int = ALTERNATIVES, seed: int = 0) -> RouteAudit:
    """Audit the routes of a model on labeled questions; no references are needed.

    Args:
        port: the model.
        samples: labeled questions; the first answer of each is the true one.
        alternatives: number of routes per place and layer.
        seed: of draws and permutations.

    Raises:
        R2T2Error: a sample cannot be prepared.
    """
    missing = _missing(port)
    if missing:
        return RouteAudit("", 0, 0, 0, alternatives, (), "few", missing)
    by_token = isinstance(port.model, AlternativesModel)
    answers = jax.tree.map(np.asarray, port.processor.answer_ids([sample.answers[0] for sample in samples]))
    keys = sample_keys(seed, np.arange(len(samples)))
    random = np.random.default_rng(seed)
    places, collect = [], _token_places if by_token else _answer_places
    with progress_bar(len(samples), f"{port.name}: audit of alternative routes") as progress:
        for start in range(0, len(samples), BATCH):
            rows = np.arange(start, min(start + BATCH, len(samples)))
            places.append(collect(port, samples, answers, keys, rows, alternatives, random))
            progress.update(len(rows))
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[vars(each) for each in places])
    layers = port.model.gated_layers if isinstance(port.model, AlternativesModel) else port.model.spec.layer_names
    return summarize_places(Places(**joined), layers, "token" if by_token else "answer", alternatives, random)


def _missing(port: Port) -> str:
    """Why a model has no alternative routes of equal compute; empty if it has."""
    model = port.model
    if isinstance(model, AlternativesModel):
        top_k = getattr(getattr(model, "config", None), "top_k", 0)
        if top_k >= model.spec.num_experts:
            return f"{port.name} uses all {top_k} experts for every token, so no route of equal compute differs"
        return ""
    if max(map(len, model.spec.groups)) == 1:
        return f"{port.name} has no gate that chooses between experts"
    return ""


def permuted_targets(
    samples: Sequence[Sample], labels: Sequence[Any], rows: Rows, random: np.random.Generator
) -> Int[np.ndarray, "rows PERMUTED"]:
    """For each row, numbers of samples whose label stands for a permuted one.

    They have another label than the row's, and its category if any such has.
    """
    chosen = []
    for row in rows:
        others = [i for i, label in enumerate(labels) if label != labels[row]]
        alike = [i for i in others if samples[i].category == samples[row].category]
        pool = alike or others or [int(row)]
        chosen.append(random.choice(pool, PERMUTED))
    return np.stack(chosen)


def _token_places(
    port: Port, samples: Sequence[Sample], answers: Any, keys: Array, rows: Rows, alternatives: int,
    random: np.random.Generator,
) -> Places:  # fmt: skip
    """The places of a batch of samples of a model that routes tokens: all tokens of their true answers."""
    model = port.model
    assert isinstance(model, AlternativesModel)
    lengths = answers.mask.sum(axis=1)
    targets = np.repeat(answers.tokens[rows][..., None], 1 + PERMUTED, axis=2)  # [B, A, C]
    for place in range(int(lengths[rows].max())):
        here = np.flatnonzero(lengths > place)
        labels = answers.tokens[here, place].tolist()
        own = np.flatnonzero(np.isin(here, rows))
        permuted = here[permuted_targets([samples[int(i)] for i in here], labels, own, random)]
        targets[here[own] - rows[0], place, 1:] = answers.tokens[permuted, place]
    inputs = port.processor.prepare(port.params, [samples[int(i)] for i in rows])
    own_answers = jax.tree.map(jnp.asarray, take(answers, rows))

    def compute(numbers: Rows) -> RouteLogprobs:
        batch = take((inputs, own_answers, jnp.asarray(targets), keys[rows]), numbers)
        return _score_tokens(port.params, *batch, model=model, alternatives=alternatives)

    scores = run_batch(compute, 0, len(rows), BATCH)
    flat = answers.mask[rows]  # [B, A]
    own, drawn = scores.own[flat], scores.alternatives[flat]  # [U, C], [U, N, M, C]
    tokens, target = scores.tokens[flat], targets[flat]  # [U, N, M], [U, C]
    hits = (tokens[..., None] == target[:, None, None]).any(axis=2)
    most = scores.own_token[flat]
    valid = (target != target[:, :1]) & (target != most[:, None])
    return _places(rows[np.nonzero(flat)[0]], own, drawn, hits, valid, most != target[:, 0])


@partial(jax.jit, static_argnames=("model", "alternatives"))
def _score_tokens(
    params: Params, inputs: Inputs, answers: Answer, targets: Int[Array, "B A C"], keys: Array, *,
    model: AlternativesModel, alternatives: int,
) -> RouteLogprobs:  # fmt: skip
    def score(sample: Any) -> RouteLogprobs:
        inputs, answer, targets, key = sample
        return model.alternative_logprobs(params, inputs, answer, targets, key, alternatives)

    return jax.lax.map(score, (inputs, answers, targets, keys))


def _answer_places(
    port: Port, samples: Sequence[Sample], answers: Any, keys: Array, rows: Rows, alternatives: int,
    random: np.random.Generator,
) -> Places:  # fmt: skip
    """The answers of a batch of samples of a model that routes whole samples."""
    labels = [sample.answers[0] for sample in samples]
    permuted = permuted_targets(samples, labels, rows, random)
    numbers = np.concatenate([rows[:, None], permuted], axis=1)  # [B, C]
    inputs = port.processor.prepare(port.params, [samples[i] for i in rows])
    candidates = jax.tree.map(jnp.asarray, take(answers, numbers))

    def compute(batch: Rows) -> Any:
        features, routing = encode_batch(port.params, take(inputs, batch), model=port.model)
        support = support_of(port.model, features, routing)
        arguments = (features, routing, support, take(candidates, batch), keys[rows][batch])
        return _score_answers(port.params, *arguments, model=port.model, alternatives=alternatives)

    own, drawn = run_batch(compute, 0, len(rows), BATCH)  # [B, C], [B, N, M, C]
    most = own.argmax(axis=1)
    differs = np.array([[labels[i] != labels[row] for i in each] for row, each in zip(rows, numbers, strict=True)])
    top = np.array([[labels[i] == labels[each[m]] for i in each] for each, m in zip(numbers, most, strict=True)])
    hits = (drawn >= drawn.max(axis=-1, keepdims=True)).any(axis=2)
    return _places(rows, own, drawn, hits, differs & ~top, ~top[:, 0])


@partial(jax.jit, static_argnames=("model", "alternatives"))
def _score_answers(
    params: Params, features: Features, routing: Float[Array, "B N E"], support: Bool[Array, "B N E"],
    candidates: Answer, keys: Array, *, model: Any, alternatives: int,
) -> tuple[Float[Array, "B C"], Float[Array, "B N M C"]]:  # fmt: skip
    def score(sample: Any) -> tuple[Array, Array]:
        features, weights, support, candidates, key = sample
        drawn = alternative_weights(model.spec, weights, support, key, alternatives)  # [N, M, E]
        layers = len(weights)
        here = jnp.eye(layers, dtype=bool)[:, None, :, None]  # [N, 1, N, 1]
        routings = jnp.where(here, drawn[:, :, None], weights[None, None]).reshape(-1, *weights.shape)
        routings = jnp.concatenate([weights[None], routings])  # [1 + N * M, N, E]
        scores = jax.lax.map(
            lambda weights: model.answer_logprobs(params, features, Routing(weights), candidates), routings
        )
        return scores[0], scores[1:].reshape(layers, alternatives, -1)

    return jax.lax.map(score, (features, routing, support, candidates, keys))


def alternative_weights(
    spec: RoutingSpec, weights: Float[Array, "N E"], support: Bool[Array, "N E"], key: Array, count: int
) -> Float[Array, "N M E"]:
    """Weights over the experts that the router mixes, from its log-weights with Gumbel noise; groups keep their sums.

    They are draws of the relaxed Gumbel distribution at temperature 1, so no further expert has to be computed.
    """
    shape = (len(weights), count, weights.shape[-1])
    noise = jax.random.gumbel(key, shape)

    def draw(weights: Array, mask: Array, noise: Array) -> Array:
        used = mask & (weights > 0)
        logits = jnp.where(used, jnp.log(jnp.where(used, weights, 1.0)) + noise, -jnp.inf)
        shares = jnp.where(used, jax.nn.softmax(jnp.where(used.any(-1, keepdims=True), logits, 0.0), axis=-1), 0.0)
        return shares * weights.sum(axis=-1, keepdims=True)

    spread = (jnp.broadcast_to(each[:, None], shape) for each in (weights, support))
    return by_group(spec, draw, *spread, noise)


def _places(
    question: Rows,
    own: Float[np.ndarray, "U C"],
    drawn: Float[np.ndarray, "U N M C"],
    hits: Bool[np.ndarray, "U N C"],
    valid: Bool[np.ndarray, "U C"],
    wrong: Bool[np.ndarray, "U"],
) -> Places:
    before = own[:, None, None]
    wins = ((drawn > before) + 0.5 * (drawn == before)).mean(axis=2)
    valid[:, 0] = True
    return Places(question, wins, hits, valid, own[:, 0] < np.log(FRAGILE), wrong)


def summarize_places(
    places: Places, layers: Sequence[str], unit: str, alternatives: int, random: np.random.Generator
) -> RouteAudit:
    """The shares of each layer, their excess over permuted targets, and the verdict.

    Places without a permuted target are left out of the shares.
    """
    comparable = np.asarray(places.valid[:, 1:].any(axis=1))
    tested = comparable & places.fragile
    questions = len(np.unique(places.question[tested]))
    counts = (len(places.question), int(places.fragile.sum()), questions)
    if questions < MIN_FRAGILE:
        return RouteAudit(unit, *counts, alternatives, (), "few")
    share, permuted = _means(places.wins, places, tested)
    corrected = _means(places.hits.astype(float), places, tested & places.wrong)
    whole = _means(places.wins, places, comparable)
    p = _permutation_p(places, tested, random)
    q = false_discovery_control(p)
    audits = tuple(
        LayerAudit(
            layer,
            float(share[:, i].mean()),
            float(permuted[:, i].mean()),
            mean_interval(share[:, i] - permuted[:, i]),
            float(q[i]),
            *(float(side[:, i].mean()) if len(side) else 0.0 for side in corrected),
            *(float(side[:, i].mean()) for side in whole),
        )
        for i, layer in enumerate(layers)
    )
    audit = RouteAudit(unit, *counts, alternatives, audits, "none")
    return RouteAudit(unit, *counts, alternatives, audits, "better" if audit.helping else "none")


def _means(
    values: Float[np.ndarray, "U N C"], places: Places, rows: Bool[np.ndarray, "U"]
) -> tuple[Float[np.ndarray, "Q N"], Float[np.ndarray, "Q N"]]:
    """The mean over each question's places of the true target's values, and of its permuted targets'."""
    others = places.valid[rows, 1:]
    weights = others / np.maximum(others.sum(axis=1, keepdims=True), 1)
    true, permuted = values[rows, :, 0], np.einsum("unc,uc->un", values[rows, :, 1:], weights)
    return _by_question(true, places.question[rows]), _by_question(permuted, places.question[rows])


def _by_question(values: Float[np.ndarray, "U N"], question: Int[np.ndarray, "U"]) -> Float[np.ndarray, "Q N"]:
    _, index = np.unique(question, return_inverse=True)
    sums = np.zeros((int(index.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums / np.bincount(index)[:, None]


def _permutation_p(places: Places, rows: Bool[np.ndarray, "U"], random: np.random.Generator) -> Float[np.ndarray, "N"]:
    """One-sided p-value of each layer: how often a target drawn in place of the true one has as large an excess."""
    values, valid, question = places.wins[rows], places.valid[rows], places.question[rows]
    count = valid.sum(axis=1)[:, None, None]
    total = np.einsum("unc,uc->un", values, valid.astype(float))[..., None]
    excess = values - (total - values) / (count - 1)  # [U, N, C]
    scale = 1 / np.bincount(np.unique(question, return_inverse=True)[1])[np.unique(question, return_inverse=True)[1]]
    weight = scale / scale.sum()  # of a place: questions count once
    observed = weight @ excess[:, :, 0]
    order = np.argsort(~valid, axis=1, kind="stable")  # valid targets first
    exceeding = np.zeros(values.shape[1])
    for _ in range(PERMUTATIONS):
        drawn = order[np.arange(len(valid)), random.integers(valid.sum(axis=1))]
        exceeding += weight @ excess[np.arange(len(valid)), :, drawn] >= observed - 1e-12
    return (1 + exceeding) / (1 + PERMUTATIONS)
