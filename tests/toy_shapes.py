"""The toy of `tests/toy.py` as shapes only, as a port offers them to `r2t2 fit`."""

from typing import Any

import jax
import numpy as np

from r2t2_jax.contract import ModelShapes
from tests.toy import MODEL, toy_answers, toy_features, toy_params


def shapes(variant: str | None, question_tokens: int | None, answer_tokens: int | None) -> ModelShapes:
    rng = np.random.default_rng(0)
    params, features, answers = toy_params(), toy_features(rng, 1), toy_answers(rng, 1)
    return ModelShapes("toy", MODEL, _shapes(params, 0), _shapes(features, 1), _shapes(answers, 1))


def _shapes(tree: Any, leading: int) -> Any:
    """Without the leading axes; int64 and float64 become what JAX makes of them."""
    kind = jax.dtypes.canonicalize_dtype
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[leading:], kind(leaf.dtype)), tree)
