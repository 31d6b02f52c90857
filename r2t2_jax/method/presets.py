"""Settings of the strategies in blocks, as plain data.

A strategy reads some blocks, and a preset file shows only those:

    {"settings": {"neighborhood": {"k": 5}, "descent": {"learning_rate": 0.3}}}

Values that are not given are the paper's (R2-T2, section 4.1 and appendix C). The paper is silent on some: bandwidths
default to the median distance, mode finding uses as many references as the neighborhood, the line search evaluates the
loss as often as descent takes steps. The loss atlas is not the paper's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import UpdateSpace

Block = TypeVar("Block")


@dataclass(frozen=True)
class NeighborhoodSettings:
    """The choice of neighbors, and their kernel weights.

    Args:
        k: number of neighbors.
        epsilon: radius of a ball that replaces the k nearest (R2-T2, equation 10). `None` for no ball.
        max_in_ball: largest number of references in a ball, the nearest. `None` for all references in it, of which
            features of up to 4 GiB are used; then a k that is not the default is the largest number.
        kernel: kernel of the distances.
        bandwidth: of the Gaussian and the Matern kernel; `None` for the median of the positive distances.
        nu: smoothness of the Matern kernel.
        degree, offset: of the polynomial kernel.
    """

    k: int = 5
    epsilon: float | None = None
    max_in_ball: int | None = None
    kernel: Literal["gaussian", "matern", "polynomial", "linear"] = "gaussian"
    bandwidth: float | None = None
    nu: float = 1.5
    degree: int = 2
    offset: float = 1.0


@dataclass(frozen=True)
class EmbeddingSettings:
    """Settings of the embedding of questions.

    Args:
        instruction: text before every question, for an embedder that takes one (NV-Embed). It is that of the paper's
            released code (evaluate.py). `None` for the embedder's own.
    """

    instruction: str | None = "Retrieve relevant questions: "


@dataclass(frozen=True)
class DescentSettings:
    """Gradient descent on the routing weights.

    Args:
        optimizer: direction of a step.
        schedule: of the learning rate.
        learning_rate: of the first step.
        final_learning_rate: of the cosine schedule.
        decay_factor, decay_every: of the step schedule: the rate is multiplied by the first every `decay_every` steps.
        steps: number of steps.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    schedule: Literal["cosine", "step", "fixed"] = "cosine"
    learning_rate: float = 1e-2
    final_learning_rate: float = 1e-5
    decay_factor: float = 0.1
    decay_every: int = 4
    steps: int = 10


@dataclass(frozen=True)
class LineSearchSettings:
    """Line search between the router's weights and the kernel mean: number of loss evaluations."""

    evaluations: int = 10


@dataclass(frozen=True)
class ModeSettings:
    """Mode finding in routing space.

    Args:
        k: number of references nearest in routing space.
        bandwidth: `None` for the median of the positive distances in routing space.
        step_size: alpha of r <- alpha r + (1 - alpha) r_bar.
        tolerance: converged when no weight moves more than this.
        max_iterations: cap of the iterations.
    """

    k: int = 5
    bandwidth: float | None = None
    step_size: float = 0.5
    tolerance: float = 1e-4
    max_iterations: int = 100


@dataclass(frozen=True)
class BestOfNSettings:
    """Random search: number of candidate routings, the router's own included."""

    candidates: int = 10


@dataclass(frozen=True)
class GenerationSettings:
    """Answers that a strategy generates in order to score them: number of tokens."""

    max_new_tokens: int = 8


@dataclass(frozen=True)
class AtlasSettings:
    """The loss atlas.

    Args:
        k: number of neighbors, answered correctly or not.
        loss: `bounded` reads 1 - exp(-l), `cross_entropy` reads l; the next settings are in these units.
        temperature: of the soft minimum over the points.
        proximal_weight: lambda of the squared distance to the router's weights.
        bandwidth: of the interpolated loss between the points.
        min_gain: keep the router's weights if the predicted gain is smaller; `None` to move always.
    """

    k: int = 20
    loss: Literal["bounded", "cross_entropy"] = "bounded"
    temperature: float = 0.02
    proximal_weight: float = 0.1
    bandwidth: float = 0.2
    min_gain: float | None = None


@dataclass(frozen=True)
class AtlasTaylorSettings:
    """`atlas_taylor`: lambda of the squared distance to the router's weights."""

    proximal_weight: float = 0.5


@dataclass(frozen=True)
class FragileSettings:
    """Restriction of `ngd`, `kernel_regression` and `atlas` to uncertain samples (`method/fragile.py`).

    Args:
        measure: `none` for all samples; the entropy of the `router` (0 to 1), or of the model's own `answer` in nats.
        threshold: samples whose entropy does not exceed it keep the untouched model.
        max_new_tokens: of the answer whose entropy is measured.
    """

    measure: Literal["none", "router", "answer"] = "none"
    threshold: float = 0.0
    max_new_tokens: int = 8


Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Preset:
    """Settings of all strategies, in blocks: some are read by several strategies, the others by one.

    `others` are the blocks of strategies that are defined elsewhere, as (name, ((setting, value), ...)); `block` reads
    them. `r2t2_jax.methods.preset_of` refuses blocks and settings that no strategy has.
    """

    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    neighborhood: NeighborhoodSettings = field(default_factory=NeighborhoodSettings)
    space: UpdateSpace = field(default_factory=UpdateSpace)
    descent: DescentSettings = field(default_factory=DescentSettings)
    line_search: LineSearchSettings = field(default_factory=LineSearchSettings)
    mode: ModeSettings = field(default_factory=ModeSettings)
    best_of_n: BestOfNSettings = field(default_factory=BestOfNSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    atlas: AtlasSettings = field(default_factory=AtlasSettings)
    atlas_taylor: AtlasTaylorSettings = field(default_factory=AtlasTaylorSettings)
    others: tuple[tuple[str, Values], ...] = ()

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Preset:
        """The paper's settings with some changed, as `with_settings`."""
        return cls().with_settings(settings)

    def with_settings(self, settings: Mapping[str, Any]) -> Preset:
        """A copy with some settings changed.

        Args:
            settings: nested, `{"descent": {"steps": 5}}`, or by path, `{"descent.steps": 5}`.

        Raises:
            R2T2Error: a setting is in no block, or its block does not have it.
        """
        changes: dict[str, dict[str, Any]] = {}
        for path, value in paths_of(settings):
            block, dot, name = path.partition(".")
            if not dot:
                raise R2T2Error(f"setting {path!r} is in no block; write it as 'block.{path}', such as 'descent.steps'")
            changes.setdefault(block, {})[name] = value
        others = {name: dict(values) for name, values in self.others}
        replaced: dict[str, Any] = {}
        for block, values in changes.items():
            if block in BLOCKS:
                replaced[block] = changed_block(block, getattr(self, block), values)
            else:
                others[block] = others.get(block, {}) | values
        pairs = tuple((name, tuple(sorted(values.items()))) for name, values in sorted(others.items()) if values)
        return dataclasses.replace(self, **replaced, others=pairs)

    def block(self, name: str, kind: type[Block]) -> Block:
        """The block of this name: one of the fields, or a `kind` with the values in `others`.

        Raises:
            R2T2Error: the block has values that `kind` does not.
        """
        if name in BLOCKS:
            block: Block = getattr(self, name)
            return block
        return changed_block(name, kind(), dict(dict(self.others).get(name, ())))

    def get(self, path: str) -> Any:
        """The value at a path such as `descent.steps`.

        Raises:
            R2T2Error: there is none.
        """
        block, _, name = path.partition(".")
        values = self.to_mapping().get(block, {})
        if name not in values:
            raise R2T2Error(f"a preset has no setting {path!r}")
        return values[name]

    def to_mapping(self) -> dict[str, dict[str, Any]]:
        """All blocks, ready for JSON; of `others` the values that were set."""
        blocks = {name: dataclasses.asdict(getattr(self, name)) for name in BLOCKS}
        return blocks | {name: dict(values) for name, values in self.others}


BLOCKS = tuple(entry.name for entry in dataclasses.fields(Preset) if entry.name != "others")


def paths_of(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value with its path, `("descent.steps", 5)`, of settings that are nested or have paths as keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def changed_block(name: str, block: Block, values: Mapping[str, Any]) -> Block:
    """A block with other values.

    Raises:
        R2T2Error: it does not have one of them, or a value has another type than the setting.
    """
    known = [entry.name for entry in dataclasses.fields(block)]  # type: ignore[arg-type]
    unknown = sorted(f"{name}.{key}" for key in values if key not in known)
    if unknown:
        raise R2T2Error(f"unknown settings {unknown} in a preset; the block {name} has {', '.join(known)}")
    types = get_type_hints(type(block))
    for key, value in values.items():
        _check_type(f"{name}.{key}", value, types[key])
    return dataclasses.replace(block, **values)  # type: ignore[type-var]


def _check_type(path: str, value: Any, expected: Any) -> None:
    """Refuse a value of a wrong type; the strategies check choices and ranges."""
    options = get_args(expected) if get_origin(expected) is UnionType else (expected,)
    if value is None and NoneType in options:
        return
    if bool in options:
        fits, noun = isinstance(value, bool), "true or false"
    elif float in options:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        noun = "a finite number"
    elif int in options:
        fits, noun = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        fits, noun = isinstance(value, str), "a text"
    if not fits:
        raise R2T2Error(f"setting {path} must be {noun}{' or null' if NoneType in options else ''}, not {value!r}")


PAPER = Preset()
# For models without settings of their own: Adam's steps do not depend on the scale of the loss. One has few neighbors,
# for small banks of distinct topics, the other many, for embeddings in which topics overlap (docs/own_model.md).
SIMPLEX = PAPER.with_settings(
    {
        "space.kind": "simplex",
        "descent.optimizer": "adam",
        "descent.learning_rate": 0.3,
        "descent.final_learning_rate": 0.01,
        "atlas.k": 10,
        "atlas.proximal_weight": 0.0,
    }
)
LOGIT = PAPER.with_settings(
    {
        "neighborhood.k": 20,
        "space.kind": "logit",
        "descent.optimizer": "adam",
        "descent.learning_rate": 1.0,
        "descent.final_learning_rate": 0.03,
        "atlas.temperature": 0.05,
        "atlas.proximal_weight": 0.0,
    }
)
# arXiv 2504.07964. Its layers, tokens and core experts are settings of a port.
C3PO = PAPER.with_settings(
    {"neighborhood.k": 3, "descent.steps": 10, "descent.learning_rate": 1e-2, "descent.final_learning_rate": 1e-5}
)
PRESETS: Mapping[str, Preset] = {"paper": PAPER, "c3po": C3PO, "simplex": SIMPLEX, "logit": LOGIT}
