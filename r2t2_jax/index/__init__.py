"""Which references lie nearest to a question: exact and approximate search behind one protocol."""

from r2t2_jax.index.approximate import ScannIndex
from r2t2_jax.index.choose import INDEX, build_index, load_index, saved_index
from r2t2_jax.index.exact import ExactIndex
from r2t2_jax.index.protocol import Hits, Index, ball

__all__ = ["INDEX", "ExactIndex", "Hits", "Index", "ScannIndex", "ball", "build_index", "load_index", "saved_index"]
