"""The numbers of the method as plain data: one preset fits every strategy, and a port may state its own in JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Preset:
    """Settings of the strategies.

    The defaults of k, kernel, space, optimizer, schedule, learning rates and steps are the paper's (R2-T2, section 4.1
    and appendix C). It is silent on the others: bandwidths default to the median distance, mode finding looks at as
    many references as the neighbourhood, the line search evaluates the loss as often as descent takes steps.
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
    """The preset of this name: `paper`, or one that a port offers as settings (`Port.presets`).

    Raises:
        R2T2Error: there is no preset of this name.
    """
    presets: dict[str, Any] = {"paper": PAPER, **(offered or {})}
    if name not in presets:
        raise R2T2Error(f"unknown preset {name!r}; choose one of {', '.join(presets)}")
    chosen = presets[name]
    return chosen if isinstance(chosen, Preset) else Preset.from_mapping(chosen)
