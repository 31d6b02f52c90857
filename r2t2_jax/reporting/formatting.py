"""Numbers and names as a report writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r2t2_jax.reporting.tables import percent

METHOD, CONTROL, BOUND = "method", "control", "bound"
ROLES = {  # what a strategy is there for
    METHOD: "re-routes the test sample",
    CONTROL: "a control: what needs no good neighbours",
    BOUND: "an upper bound: reads what a test does not give",
}
STRATEGY_NOTES: dict[str, tuple[str, str]] = {
    "base": (CONTROL, "the model as it is, with its router's own weights"),
    "router_mean": (CONTROL, "the router's weights, averaged over tokens and set from outside"),
    "uniform": (CONTROL, "every expert weighs the same"),
    "random_neighbors": (CONTROL, "as ngd, but the references are drawn at random"),
    "shuffled_references": (CONTROL, "as ngd, but each neighbour is replaced by an unrelated reference"),
    "mode_finding": (METHOD, "moves towards where reference routing vectors are dense"),
    "kernel_regression": (METHOD, "the kernel-weighted mean of the neighbours' routing weights"),
    "kernel_regression_alpha": (METHOD, "mixes router and neighbours' mean by a line search"),
    "ngd_paper": (METHOD, "neighbourhood gradient descent with the paper's settings"),
    "ngd": (METHOD, "neighbourhood gradient descent: lowers the loss of the neighbours' answers"),
    "best_of_n": (METHOD, "the routing, of several drawn, under which the model trusts its own answer most"),
    "atlas": (METHOD, "the softmin mean of the loss atlas's points under the neighbours' losses there"),
    "atlas_argmin": (METHOD, "the one point of the loss atlas at which the neighbours lose least"),
    "atlas_taylor": (CONTROL, "one step along the neighbours' stored slopes"),
    "atlas_mlp": (CONTROL, "as atlas, with losses that a small network predicts"),
    "best_fixed": (CONTROL, "the one point of the loss atlas that is best for all references"),
    "gate_finetuned": (CONTROL, "a gate trained further on the references"),
    "atlas_top8": (METHOD, "the best eight points of the loss atlas answer together"),
    "tent": (METHOD, "lowers the entropy of the model's own answer"),
    "eata": (METHOD, "as tent, where the model is sure enough, with a pull towards the router"),
    "sar": (METHOD, "as tent, with the slope taken uphill"),
    "memo": (METHOD, "lowers the entropy of the mean answer over changed copies of the image"),
    "tpt": (METHOD, "as memo, over the copies of which the model is surest"),
    "deyo": (METHOD, "as tent, where shuffled patches take the answer away"),
    "rewiring": (METHOD, "shifts the router's logits until its own answer is likelier"),
    "cma_es": (METHOD, "the surest answer of those that an evolution strategy tries"),
    "active_experts": (METHOD, "the surest answer over the number of active experts"),
    "t3": (METHOD, "mixes router and neighbours' mean by how far their answers differ"),
    "manifold_pull": (METHOD, "as ngd, with a pull towards the neighbours' routing weights"),
    "knn_moe": (METHOD, "mixes in the weights that were best for references alike in hidden state"),
    "neighbor_vote": (CONTROL, "the answer of most neighbours; the model is not asked"),
    "in_context": (METHOD, "the neighbours' questions and answers stand in the prompt"),
    "warmup": (METHOD, "adapts projector and language model to the image"),
    "task_routing": (BOUND, "the experts a person would pick for the question"),
    "oracle": (BOUND, "gradient descent on the test sample's own answer"),
}


def role(strategy: str) -> str:
    """`method`, `control` or `bound`; a strategy nobody described is a method, `oracle_paper` is what `oracle` is."""
    found = STRATEGY_NOTES.get(strategy) or STRATEGY_NOTES.get(strategy.removesuffix("_paper"))
    return METHOD if found is None else found[0]


def signed(points: float) -> str:
    """`+12.3`, with a true minus sign below zero."""
    return f"{points:+.1f}".replace("-", "−")


def span(low: float, high: float) -> str:
    """Shares as `51.2–57.4`, in percent."""
    return f"{percent(low)}–{percent(high)}"


def signed_span(low: float, high: float) -> str:
    """Points as `+9.8 to +14.8`."""
    return f"{signed(low)} to {signed(high)}"


def duration(seconds: float) -> str:
    """`11.6 ms` or `2.35 s`."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def count(number: int, thing: str) -> str:
    """`1 answer`, `1,200 answers`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def shortened(text: str, length: int) -> str:
    """At most `length` characters, an ellipsis for what is left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def settings_line(settings: Mapping[str, Any]) -> str:
    """`seed 0, samples 1000`: the plain settings of a run in one line."""
    shown = {key: value for key, value in settings.items() if isinstance(value, str | int | float) and key != "out"}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())
