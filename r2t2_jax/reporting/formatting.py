"""Numbers, names and strategy descriptions as reports and tables write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METHOD, CONTROL, BOUND = "method", "control", "bound"
ROLES = {
    METHOD: "re-routing methods",
    CONTROL: "controls, which need no good neighbors",
    BOUND: "upper bounds, which use information that a test does not provide",
}
STRATEGY_NOTES: dict[str, tuple[str, str]] = {
    "base": (CONTROL, "the unmodified model with its router's own weights"),
    "router_mean": (CONTROL, "the router's weights averaged over tokens, set as a fixed routing"),
    "uniform": (CONTROL, "equal weights for all experts"),
    "random_neighbors": (CONTROL, "as ngd, with randomly drawn references as neighbors"),
    "shuffled_references": (CONTROL, "as ngd, with each neighbor replaced by an unrelated reference"),
    "mode_finding": (METHOD, "mean shift toward a mode of the references' routing weights"),
    "kernel_regression": (METHOD, "kernel-weighted mean of the neighbors' routing weights"),
    "kernel_regression_alpha": (METHOD, "line search between the router's weights and the neighbors' mean"),
    "ngd_paper": (METHOD, "neighborhood gradient descent with the paper's settings"),
    "ngd": (METHOD, "neighborhood gradient descent: gradient descent on the loss of the neighbors' answers"),
    "best_of_n": (METHOD, "of several randomly drawn routings, the one with the highest confidence in its own answer"),
    "atlas": (METHOD, "softmin-weighted mean of the loss atlas's points under the neighbors' losses"),
    "atlas_argmin": (METHOD, "the point of the loss atlas with the lowest loss of the neighbors"),
    "atlas_taylor": (CONTROL, "one step along the neighbors' stored gradients"),
    "atlas_mlp": (CONTROL, "as atlas, with losses predicted by a small network"),
    "best_fixed": (CONTROL, "the one point of the loss atlas with the lowest mean loss over all references"),
    "gate_finetuned": (CONTROL, "a gate fine-tuned on the references"),
    "atlas_top8": (METHOD, "ensemble of answers at the eight best points of the loss atlas"),
    "tent": (METHOD, "entropy minimization of the model's own answer"),
    "eata": (METHOD, "as tent, on reliable samples only, with a penalty on the distance from the router's weights"),
    "sar": (METHOD, "as tent, with sharpness-aware steps on reliable samples"),
    "memo": (METHOD, "entropy minimization of the mean answer over image augmentations"),
    "tpt": (METHOD, "as memo, over the augmentations with the most confident answers"),
    "deyo": (METHOD, "as tent, on samples whose answer changes when image patches are shuffled"),
    "rewiring": (METHOD, "shift of the router's logits that makes the model's own answer more likely"),
    "cma_es": (METHOD, "evolution strategy that maximizes the confidence in the model's own answer"),
    "active_experts": (METHOD, "the number of active experts with the most confident answer"),
    "t3": (METHOD, "interpolation of router and neighbors' mean by the divergence of their answers"),
    "manifold_pull": (METHOD, "as ngd, with a penalty on the distance from the neighbors' routing weights"),
    "knn_moe": (METHOD, "interpolation with the best weights of references with similar hidden states"),
    "neighbor_vote": (CONTROL, "majority vote of the neighbors' answers, without running the model"),
    "in_context": (METHOD, "the neighbors' questions and answers as in-context examples in the prompt"),
    "warmup": (METHOD, "adapts projector and language model to the image before answering"),
    "task_routing": (BOUND, "the experts that a person would choose for the question"),
    "oracle": (BOUND, "gradient descent on the loss of the test sample's own answer"),
}


def role(strategy: str) -> str:
    """`method`, `control` or `bound`; unknown strategies are methods, `X_paper` has the role of `X`."""
    note = STRATEGY_NOTES.get(strategy) or STRATEGY_NOTES.get(strategy.removesuffix("_paper"))
    return METHOD if note is None else note[0]


def percent(share: float | None) -> str:
    """`0.4567` as `45.7`; a dash for `None`."""
    return "-" if share is None else f"{100 * share:.1f}"


def true_minus(text: str) -> str:
    """A number with the minus sign of typography instead of a hyphen."""
    return text.replace("-", "−")


def decimal(value: float) -> str:
    """`−0.12`: two digits and a true minus sign."""
    return true_minus(f"{value:.2f}")


def signed(points: float) -> str:
    """`+12.3`, with a true minus sign below zero."""
    return true_minus(f"{points:+.1f}")


def percent_interval(low: float, high: float) -> str:
    """Shares as `51.2–57.4`, in percent."""
    return f"{percent(low)}–{percent(high)}"


def signed_interval(low: float, high: float) -> str:
    """Points as `+9.8 to +14.8`."""
    return f"{signed(low)} to {signed(high)}"


def duration(seconds: float) -> str:
    """`11.6 ms` or `2.35 s`."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def plural(number: int, noun: str) -> str:
    """`1 answer`, `1,200 answers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def join_names(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis if the text is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def settings_line(settings: Mapping[str, Any]) -> str:
    """`seed 0, samples 1000`: the scalar settings of a run in one line."""
    shown = {key: value for key, value in settings.items() if isinstance(value, str | int | float) and key != "out"}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())
