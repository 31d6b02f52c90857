"""Devices and processes of an evaluation: groups of devices that hold one copy of the weights each.

Groups and processes take whole batches, so no group waits for another, hosts exchange nothing, and the result of a
sample does not depend on how many groups and processes there are. Within a group the weights are sharded.
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
from r2t2_jax.runs.plan import ProcessShard

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


def device_groups(mesh: str, processes: int) -> list[ReplicaGroup]:
    """The groups of this process.

    Args:
        mesh: `data=4,model=2` for four groups of two devices over all processes. Empty for one group per device; a CPU
            counts as one device.
        processes: number of processes that share the evaluation.

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
    groups = axes.get(DATA, processes * max(1, own // size))
    if groups % processes:
        raise R2T2Error(
            f"{groups} copies of the weights (data={groups}) cannot be divided evenly among {processes} processes"
        )
    needed = groups // processes * size
    if needed > len(local):
        raise R2T2Error(f"the mesh {mesh} needs {needed} devices in each process, and there are {len(local)}")
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


def join_processes(coordinator: str, processes: int | None, process: int | None) -> ProcessShard:
    """Join the other processes through JAX's distributed runtime.

    Args:
        coordinator: address of the first process, or `auto` if SLURM, GKE, a TPU pod or Open MPI provides it; empty for
            a single process.
        processes: number of processes; with an address.
        process: index of this process, from 0; with an address.

    Raises:
        R2T2Error: the options contradict each other, the processes cannot connect, or `auto` finds no cluster.
    """
    if not coordinator:
        if processes is not None or process is not None:
            raise R2T2Error("several processes need the address of the first: --coordinator HOST:PORT, or auto")
        return ProcessShard()
    address = None if coordinator == "auto" else coordinator
    if address and (processes is None or process is None or not 0 <= process < processes):
        raise R2T2Error(
            f"--coordinator {coordinator} also needs --processes (their number) and --process (the index of this one)"
        )
    try:
        jax.distributed.initialize(address, processes, process, shutdown_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
        raise R2T2Error(f"the processes cannot connect: {' '.join(str(error).split())[:300]}") from error
    return ProcessShard(jax.process_index(), jax.process_count())


def shutdown_processes(groups: Sequence[ReplicaGroup]) -> None:
    """Barrier, then shut down jax.distributed; otherwise the exit of process 0 would abort the others.

    GPUs that share weights still exchange addresses through it, so it stays up for them.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental.multihost_utils import sync_global_devices

    sync_global_devices("r2t2")
    if jax.default_backend() != "gpu" or groups[0].mesh is None:
        jax.distributed.shutdown()
