"""Devices of an evaluation: groups of devices that hold one copy of the weights each.

Groups take whole batches, so no group waits for another, and the result of a sample does not depend on how many groups
there are. Within a group the weights are sharded.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import jax
import numpy as np
from jax.sharding import Mesh

from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load

DATA, MODEL = "data", "model"


@dataclass(frozen=True)
class ReplicaGroup:
    """Devices that share one copy of the weights.

    One thread at a time starts programs on a group of several devices: two threads could reach the devices in different
    orders and deadlock.
    """

    devices: tuple[jax.Device, ...]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def mesh(self) -> Mesh | None:
        """The devices along the axis `model`; `None` for a single one."""
        return Mesh(np.array(self.devices), (MODEL,)) if len(self.devices) > 1 else None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held by the thread that runs programs on the group; free for a single device."""
        with nullcontext() if self.mesh is None else self._lock:
            yield


def device_groups(mesh: str) -> list[ReplicaGroup]:
    """The groups of this process.

    Args:
        mesh: `data=4,model=2` for four groups of two devices. Empty for one group per device; a CPU counts as
            one device.

    Raises:
        R2T2Error: `mesh` cannot be read, or there are too few devices.
    """
    local = jax.local_devices()
    own = 1 if jax.default_backend() == "cpu" else len(local)
    if not mesh:
        return [ReplicaGroup((device,)) for device in local[:own]]
    if not re.fullmatch(r"(data|model)=[1-9]\d*(,(data|model)=[1-9]\d*)?", mesh):
        raise R2T2Error(
            f"{mesh!r} is not a mesh; write data=4,model=2 for four copies of the weights on two devices each"
        )
    axes = {name: int(size) for name, _, size in (axis.partition("=") for axis in mesh.split(","))}
    size = axes.get(MODEL, 1)
    groups = axes.get(DATA, max(1, own // size))
    needed = groups * size
    if needed > len(local):
        raise R2T2Error(f"the mesh {mesh} needs {needed} devices, and there are {len(local)}")
    return [ReplicaGroup(tuple(local[first : first + size])) for first in range(0, needed, size)]


def load_on(model: str, groups: Sequence[ReplicaGroup]) -> list[Port]:
    """The model on every group.

    For groups of one device it is loaded once and copied; for larger groups it is read from its directory straight into
    the shards, once per group.

    Raises:
        R2T2Error: as `load`.
    """
    if groups[0].mesh is not None:
        return [load(model, group.mesh) for group in groups]
    port = load(model)
    if len(groups) == 1:
        return [port]
    return [replace(port, params=jax.device_put(port.params, group.devices[0])) for group in groups]
