"""Checks of arrays on the host, before tracing. Each error names the cause and the remedy.

Axis letters: B test samples, N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.errors import R2T2Error, R2T2Warning
from r2t2_jax.routing import RoutingSpec

ARRAYS = (np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct)
NUMBERS = (bool, int, float, complex)
SHARES = "route must return shares of the experts, such as the softmax of the gate's logits"
UNIT_TOLERANCE = 1e-2  # of the squared length: the rounding of bfloat16 embeddings
LONGEST = float(np.sqrt(np.finfo(np.float32).max)) / 2  # the squared distance of two such vectors is a float32


def check_array(name: str, value: Any) -> None:
    """Refuse anything but a NumPy or JAX array of numbers: a list, a text, a tensor of another library."""
    if not isinstance(value, ARRAYS):
        kind = type(value)
        library = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        raise R2T2Error(f"{name} is of type {library}{kind.__name__}; give a NumPy or JAX array ({_conversion(value)})")
    if not jnp.issubdtype(value.dtype, np.generic) or value.dtype.kind in "OSUmM":
        raise R2T2Error(f"{name} holds {value.dtype}; give an array of numbers, with equally long rows")


def _conversion(value: Any) -> str:
    """How to make a NumPy array of a value."""
    if _is_torch(type(value).__module__):
        return "tensor.detach().cpu().numpy() makes one of a tensor, after tensor.float() if it is bfloat16"
    return "numpy.asarray makes one"


def _is_torch(module: str) -> bool:
    return module.partition(".")[0] == "torch"


def check_params(params: Any) -> None:
    """Refuse a leaf that no compiled program can take: anything but an array or a number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, ARRAYS + NUMBERS):
            where, kind = f"params{jax.tree_util.keystr(path)}", type(leaf)
            if _is_torch(kind.__module__):
                raise R2T2Error(
                    f"{where} is of type {kind.__module__}.{kind.__name__}; params holds arrays ({_conversion(leaf)})"
                )
            raise R2T2Error(
                f"{where} is of type {kind.__name__}; params holds arrays: keep other values in the module of "
                "answer_loss"
            )


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), "no message")


def tracing_hint(error: Exception) -> str:
    """The remedy for an error about values that are unknown while a function is traced; else empty."""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "NumPy cannot compute with traced arrays: use jax.numpy"
    if isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        return "the number of selected entries is not known while a function is traced: use jnp.where(mask, x, 0)"
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerIntegerConversionError):
        return "no value is known while a function is traced: use jnp.where in place of `if`, and no float() or .item()"
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return "it keeps a traced array in a list, an attribute or a global variable: return values, and store nothing"
    if "__dlpack" in str(error) or any(_is_torch(module) for module in _modules_of(error)):
        return "PyTorch cannot compute with traced arrays: use jax.numpy"
    return ""


def _modules_of(error: Exception) -> Iterator[str]:
    """The modules of the functions that an error passed through."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame.f_globals.get("__name__", "")


def check_finite(name: str, tree: Any) -> None:
    """Refuse NaN or infinity in any floating-point leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, np.floating):
            continue
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused
            bad = ~np.isfinite(np.asarray(leaf, np.float32))
        if bad.any():
            where = f"{name}{jax.tree_util.keystr(path)}"
            row = np.argwhere(bad.reshape(bad.shape[0], -1).any(axis=1))[0, 0] if bad.ndim else 0
            raise R2T2Error(f"{where} holds NaN or infinity, first in row {row}; recompute or drop that sample")


def check_whole_number(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Refuse anything but a whole number in a range; integers of NumPy are whole numbers, booleans are not."""
    limits = f"from {low} to {high:,}" if high is not None else f"of at least {low}"
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        raise R2T2Error(f"{name} is {value!r:.60}; it must be a whole number {limits}")


def check_seed(seed: Any) -> None:
    """Refuse anything but a whole number from 0 to 2^32 - 1."""
    check_whole_number("seed", seed, 0, 2**32 - 1)


def check_rows(name: str, tree: Any, rows: int, counted: str = "") -> None:
    """Refuse a leaf that is no array, or whose leading axis is not `rows` long; `counted` says what has these rows."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = f"{name}{jax.tree_util.keystr(path)}"
        check_array(where, leaf)
        if leaf.ndim == 0 or leaf.shape[0] != rows:
            raise R2T2Error(f"{where} has shape {leaf.shape}; its leading axis must count the {rows} samples{counted}")


def check_embeddings(name: str, embeddings: Any) -> None:
    """Refuse anything but a non-empty [rows, M] array of finite unit vectors."""
    check_array(name, embeddings)
    if embeddings.ndim != 2:
        raise R2T2Error(f"{name} have shape {embeddings.shape}; they must be [rows, M]")
    if embeddings.shape[0] == 0:
        raise R2T2Error(f"{name} are empty; give at least one")
    if embeddings.dtype == np.float32:  # one pass, which NaN and infinity do not survive
        rows = np.asarray(embeddings)
        if (np.abs(np.einsum("rm,rm->r", rows, rows) - 1) < UNIT_TOLERANCE / 2).all():
            return
    check_finite(name, embeddings)
    length = np.square(np.asarray(embeddings, np.float64)).sum(axis=1)  # [rows]
    worst = int(np.abs(length - 1).argmax())
    if abs(length[worst] - 1) > UNIT_TOLERANCE:
        raise R2T2Error(f"{name} must be unit vectors; row {worst} has length {length[worst] ** 0.5:.3g}: normalize it")


def check_squares(name: str, vectors: Any) -> None:
    """Refuse vectors with NaN or infinity, and vectors so long that squared distances overflow in float32."""
    check_finite(name, vectors)
    length = np.sqrt(np.square(np.asarray(vectors, np.float64)).sum(axis=1))  # [rows]
    longest = int(length.argmax())
    if length[longest] > LONGEST:
        raise R2T2Error(
            f"{name} are too large for squared distances in float32: row {longest} has length {length[longest]:.3g}, "
            f"at most {LONGEST:.3g} is possible; scale the vectors down"
        )


def shape_hint(shape: tuple[int, ...]) -> str:
    """What an array in place of routing weights [rows, L, E] probably is, by its number of axes."""
    if len(shape) == 4:
        return ". For gates per token, average them over the tokens (without padding)"
    return ". For a model with one routed layer, insert its axis: routing[:, None]" if len(shape) == 2 else ""


def check_routing(name: str, spec: RoutingSpec, routing: Any, support: Any | None = None) -> None:
    """Refuse routing that is not [rows, L, E], not finite, or non-zero outside the support."""
    check_array(name, routing)
    if routing.ndim != 3 or tuple(routing.shape[1:]) != spec.shape:
        layers, experts = spec.shape
        raise R2T2Error(
            f"{name} has shape {routing.shape}; this model needs [rows, {layers} layers, {experts} experts]"
            f"{shape_hint(routing.shape)}"
        )
    if not jnp.issubdtype(routing.dtype, np.floating):
        raise R2T2Error(f"{name} holds {routing.dtype}; convert routing weights to float32")
    check_finite(name, routing)
    mask = np.asarray(spec.support_mask() if support is None else support, bool)
    try:
        mask = np.broadcast_to(mask, routing.shape)  # [rows, L, E]
    except ValueError:
        raise R2T2Error(f"support of shape {mask.shape} does not fit {name} of shape {routing.shape}") from None
    outside = np.argwhere((np.asarray(routing) != 0) & ~mask)
    if len(outside):
        row, layer, expert = outside[0]
        raise R2T2Error(
            f"{name} gives weight to {spec.experts[expert]!r} in layer {layer} of row {row}, outside its support; "
            "set such weights to zero or widen the support"
        )


def check_shares(name: str, routing: Any, spec: RoutingSpec) -> None:
    """Refuse weights [rows, L, E] of competing experts that are negative or sum to more than one, as logits do.

    A sum below one is that of a gate which keeps its largest shares only. The expert of a group of one competes with
    none: any weight of it is accepted.
    """
    weights = np.asarray(routing, np.float32)
    for group in (list(group) for group in spec.groups if len(group) > 1):
        shares = weights[..., group]  # [rows, L, experts of the group]
        wrong = (shares.min(axis=-1) < -UNIT_TOLERANCE) | (shares.sum(axis=-1) > 1 + UNIT_TOLERANCE)
        if not wrong.any():
            continue
        row, layer = np.argwhere(wrong)[0]
        values = shares[row, layer]
        fault = "has negative weights" if values.min() < -UNIT_TOLERANCE else f"sums to {values.sum():.3g}"
        shown = ", ".join([f"{value:.3g}" for value in values[:8]] + ["..."] * (len(values) > 8))
        raise R2T2Error(
            f"{name} {fault} in row {row}, layer {layer}: [{shown}]. If these are logits of the router, give their "
            "softmax. If experts do not compete, as with sigmoid gates, give each a group of its own: "
            "spec=RoutingSpec(experts, layers, groups=((0,), (1,), ...))"
        )


def check_new_weights(strategy: str, weights: Any, samples: Sequence[str]) -> None:
    """Refuse weights [rows, L, E] of a strategy that are all NaN or infinite; warn of some. `samples` are names."""
    finite = np.isfinite(np.asarray(weights, np.float32))
    wrong = np.flatnonzero(~finite.all(axis=tuple(range(1, finite.ndim))))
    if len(wrong) == 0:
        return
    of = f"all {len(samples)}" if len(wrong) == len(samples) else f"{len(wrong)} of {len(samples)}"
    text = (
        f"{strategy} gives routing weights that are NaN or infinite for {of} samples, first {samples[int(wrong[0])]}: "
        "answer_loss or its gradient is so"
    )
    if len(wrong) == len(samples):
        raise R2T2Error(f"{text}; check params, the loss and the learning rate")
    warnings.warn(text, R2T2Warning, stacklevel=3)


def check_weights(
    name: str,
    routing: Any,
    spec: RoutingSpec | None,
    as_recorded: bool = False,
    remedy: str = "build or import the bank again",
) -> None:
    """Refuse stored routing weights [rows, L, E] that are not finite or, of a known structure, no shares.

    With a `spec`, weights lie in 0..1, are not all zero in a single layer, and those of a group sum to at most one:
    experts of a group compete, and a gate may keep only the largest shares without normalizing them again. A row of
    zeros in every layer is a sample for which the model chose no expert, as MoVA may. `as_recorded` permits groups with
    larger sums, for weights whose groups are not known.
    """
    check_finite(name, routing)
    if spec is None:
        return
    weights = np.asarray(routing, np.float32)
    sums = np.stack([weights[..., list(group)].sum(axis=-1) for group in spec.groups], axis=-1)  # [rows, L, groups]
    chosen = np.asarray(weights.any(axis=(1, 2)))[:, None]  # [rows, 1]
    wrong = (weights < 0).any(axis=-1) | (weights > 1 + UNIT_TOLERANCE).any(axis=-1) | (chosen & (sums.sum(-1) <= 0))
    if not as_recorded:
        wrong |= (sums > 1 + UNIT_TOLERANCE).any(axis=-1)
    if wrong.any():
        row, layer = np.argwhere(wrong)[0]
        shown = ", ".join(f"{value:.3g}" for value in weights[row, layer][:8])
        raise R2T2Error(
            f"{name} holds weights that are negative, all zero or sum to more than one: "
            f"[{shown}] in row {row}, layer {layer}; {remedy}"
        )
