"""Parameters by name: the path of a leaf in an NNX state, its parts joined by slashes."""

from __future__ import annotations

from typing import Any

import jax


def path_name(path: tuple) -> str:
    """`blocks/0/query/kernel` for a path of jax.tree_util."""
    parts = (getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None))) for entry in path)
    return "/".join(str(part) for part in parts if part != "value")


def named(params: Any) -> dict[str, Any]:
    """Leaves of a tree by name, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
