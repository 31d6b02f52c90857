"""What makes two runs the same: all of `run.json`. A folder that holds another run is refused, the difference shown."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from r2t2_jax.errors import R2T2Error

SHOWN = 5  # differences, before the others are only counted


def fingerprinted(run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json`, as JSON gives it back, with its fingerprint."""
    plain = json.loads(json.dumps(run, default=str))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return plain | {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest()[:16]}


def check_fingerprint(saved: Mapping[str, Any], asked: Mapping[str, Any], where: str) -> None:
    """Refuse to go on with a run that had other settings.

    Raises:
        R2T2Error: naming what differs, with both values.
    """
    if saved == asked:
        return
    there, here = _flat(saved), _flat(asked)
    names = [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]
    names = [name for name in names if not name.startswith(("plan.", "fingerprint"))] or names  # these only follow
    shown = [f"{name} is {_told(there, name)} there and {_told(here, name)} here" for name in names[:SHOWN]]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise R2T2Error(f"{where} holds a run with other settings: {'; '.join(shown)}{more}. Choose another folder")


def _told(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Leaves by their dotted names."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        return {name: tree}
    return {leaf: value for key, child in items for leaf, value in _flat(child, f"{name}.{key}".lstrip(".")).items()}


def versions() -> dict[str, str]:
    """What a result may depend on beside its settings."""
    import jax

    found = {name: version(name) for name in ("r2t2-jax", "jax", "jaxlib", "numpy")}
    devices = jax.devices()
    return {"python": platform.python_version(), **found, "devices": f"{len(devices)} x {devices[0].device_kind}"}
