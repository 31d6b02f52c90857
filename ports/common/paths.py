"""Parameters by name: the path of a leaf in an NNX state, its parts joined by slashes."""

from __future__ import annotations

from typing import Any

import jax


def path_name(path: tuple) -> str:
    """`blocks/0/query/kernel` for a path of jax.tree_util; a variable's attribute `value` is left out."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return "/".join(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None)))) for entry in path)


def named(params: Any) -> dict[str, Any]:
    """Leaves of a tree by name, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
