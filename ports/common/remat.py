"""What the backward pass of a layer computes again instead of keeping it: nothing, its attention, or all of it.

`full` keeps a layer's input alone and runs the layer once more, half as many products again as without. `attention`
keeps the results of the linear maps, whose weights all rows share, and computes again what is cheap, or large for what
it is: norms, activations, scores. `none` keeps everything that a gradient needs, except for parameters cut out of a
stack: kept, they would be copies of all weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax

Remat = Literal["none", "attention", "full"]

VIEWS = ("dynamic_slice", "squeeze", "reshape")  # how `stack.layer_at` cuts a layer out


def recomputed(step: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """`step` with the same values and gradients, and another trade of memory for work."""
    if remat == "full":
        return jax.checkpoint(step, prevent_cse=False)
    # A product over an axis of heads or neighbours has batch axes, a linear map has none.
    keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "attention" else _all_but_views
    return jax.checkpoint(step, prevent_cse=False, policy=keep)


def _all_but_views(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in VIEWS
