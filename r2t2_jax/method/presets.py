"""The numbers of the method as plain data: one preset fits every strategy, and a port may state its own in JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Preset:
    """Settings of the strategies.

    The defaults of k, kernel, space, optimizer, schedule, learning rates and steps are the paper's (R2-T2, section 4.1
    and appendix C). It is silent on the others: bandwidths default to the median distance, mode finding looks at as
    many references as the neighbourhood, the line search evaluates the loss as often as descent takes steps. The loss
    atlas is not the paper's.
    """

    # neighbourhood
    k: int = 5
    epsilon: float | None = None  # a ball instead of the k nearest; k caps it
    kernel: Literal["gaussian", "matern", "polynomial", "linear"] = "gaussian"
    bandwidth: float | None = None  # None: the median distance
    nu: float = 1.5  # matern
    degree: int = 2  # polynomial
    offset: float = 1.0  # polynomial
    # descent
    space: Literal["free", "simplex", "logit", "shift"] = "free"
    tied: bool = False
    optimizer: Literal["sgd", "adam"] = "sgd"
    schedule: Literal["cosine", "step", "fixed"] = "cosine"
    learning_rate: float = 1e-2
    final_learning_rate: float = 1e-5  # cosine
    decay_factor: float = 0.1  # step decay
    decay_every: int = 4  # step decay
    steps: int = 10
    # line search
    line_evaluations: int = 10
    # mode finding
    mode_k: int = 5
    mode_bandwidth: float | None = None  # None: the median distance in routing space
    mode_step: float = 0.5  # alpha of r <- alpha r + (1 - alpha) r_bar
    mode_tolerance: float = 1e-4
    mode_iterations: int = 100
    # best of n
    candidates: int = 10
    answer_tokens: int = 8  # of the model's own answer, scored
    # loss atlas
    atlas_k: int = 20  # references, answered correctly or not
    atlas_loss: Literal["bounded", "cross_entropy"] = "bounded"  # 1 - exp(-l) or l, in whose units the next ones are
    atlas_temperature: float = 0.02
    atlas_trust: float = 0.1  # lambda of the pull towards the router's weights
    atlas_bandwidth: float = 0.2  # of the smooth loss between the points
    atlas_min_gain: float | None = None  # keep the router's weights where less is promised
    taylor_trust: float = 0.5  # lambda of the pull in `atlas_taylor`
    # rivals (docs/rivals.md); what they share with descent above is not repeated
    entropy_margin: float = 0.5545  # nats; a sample less sure than this is left alone: 0.4 ln C for C = 4 options
    eata_pull: float = 1.0  # lambda of the divergence from the router's weights
    sar_radius: float = 0.05  # rho
    sar_recovery: float = 0.2  # nats
    views: int = 16  # changed copies of the image, itself among them
    views_kept: int = 2  # those of which the model is surest
    deyo_threshold: float = 0.2  # of the drop in probability when patches are shuffled
    rewiring_learning_rate: float = 0.05
    rewiring_steps: int = 5
    cma_sigma: float = 1.0  # in units of a logit
    cma_generations: int = 10
    t3_low: float = 0.0  # share of the router's weights
    t3_high: float = 1.0
    t3_gamma: float = 0.5
    manifold_k: int = 3
    manifold_pull: float = 1.0  # lambda
    warmup_learning_rate: float = 1e-6

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Preset:
        """The paper's settings, changed by those given.

        Raises:
            R2T2Error: a setting is unknown.
        """
        known = {entry.name for entry in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise R2T2Error(f"unknown settings {unknown} in a preset; known are {', '.join(sorted(known))}")
        return cls(**settings)

    def to_mapping(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return dataclasses.asdict(self)


PAPER = Preset()


def find_preset(name: str, offered: Mapping[str, Any] | None = None) -> Preset:
    """The preset of this name: `paper`, one that a port offers as settings (`Port.presets`), or a file of `r2t2 tune`.

    Raises:
        R2T2Error: there is no preset of this name, or the file (`*.json`) holds none.
    """
    if name.endswith(".json"):
        return read_preset(Path(name))
    presets: dict[str, Any] = {"paper": PAPER, **(offered or {})}
    if name not in presets:
        raise R2T2Error(f"unknown preset {name!r}; choose one of {', '.join(presets)}, or a file that r2t2 tune wrote")
    chosen = presets[name]
    return chosen if isinstance(chosen, Preset) else Preset.from_mapping(chosen)


def read_preset(path: Path) -> Preset:
    """The preset in a file: an object whose `settings` change the paper's.

    Raises:
        R2T2Error: it cannot be read or holds no such object, or a setting is unknown.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise R2T2Error(f"cannot read preset {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise R2T2Error(f"{path} holds no preset: r2t2 tune writes one, an object with 'settings'")
    return Preset.from_mapping(content["settings"])


def own_preset(port_name: str, offered: Mapping[str, Any]) -> str:
    """The name of a port's own preset, which is called like the port without its variant; else `paper`."""
    name = port_name.partition(":")[0]
    return name if name in offered else "paper"
