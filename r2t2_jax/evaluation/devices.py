"""Devices of an evaluation: groups of devices that hold one copy of the weights each; fetching the weights.

Groups take whole batches, so no group waits for another, and the result of a sample does not depend on how many groups
there are. Within a group the weights are sharded.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import lock_descriptor
from jax.sharding import Mesh

from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error, missing_extra
from r2t2_jax.plugins import PORTS, load, registered
from r2t2_jax.runs.atomic_io import atomic_folder
from r2t2_jax.runtime.typed_json import parse_json

DATA, MODEL = "data", "model"
DESCRIPTION = "model.json"  # of a model directory; it has the digests of all its files


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
    axes = mesh_axes(mesh)
    size = axes.get(MODEL, 1)
    groups = axes.get(DATA, max(1, own // size))
    needed = groups * size
    if needed > len(local):
        raise R2T2Error(f"the mesh {mesh} needs {needed} devices, and there are {len(local)}")
    return [ReplicaGroup(tuple(local[first : first + size])) for first in range(0, needed, size)]


def mesh_axes(mesh: str) -> dict[str, int]:
    """The sizes of the axes `data` and `model` that a text such as `data=4,model=2` names.

    Raises:
        R2T2Error: it cannot be read.
    """
    if not re.fullmatch(r"(data|model)=[1-9]\d*(,(data|model)=[1-9]\d*)?", mesh):
        raise R2T2Error(
            f"{mesh!r} is not a mesh; write data=4,model=2 for four copies of the weights on two devices each"
        )
    return {name: int(size) for name, _, size in (axis.partition("=") for axis in mesh.split(","))}


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


def local_model(model: str, uri: str) -> str:
    """The model's name or path, or the path of a copy fetched from `uri` if this host does not see the path.

    The copy is made once per host, in the folder for temporary files.

    Raises:
        R2T2Error: the model is no directory, cannot be fetched, or the URI holds another model than the path.
    """
    if not uri:
        return model
    if model.partition(":")[0] in registered(PORTS) or (":" in model and not Path(model).is_dir()):
        raise R2T2Error(f"--model-uri is for model directories; {model} is loaded by name")
    description = _read_description(uri)
    if Path(model).is_dir():
        own = (Path(model) / DESCRIPTION).read_bytes() if (Path(model) / DESCRIPTION).is_file() else b"{}"
        if _digest(own) != _digest(description):
            raise R2T2Error(
                f"--model-uri {uri} holds another model than {model}: {DESCRIPTION} has digest {_digest(description)}, "
                f"not {_digest(own)}"
            )
        return model
    folder = (
        Path(tempfile.gettempdir()) / f"r2t2-model-{getattr(os, 'getuid', getpass.getuser)()}-{_digest(description)}"
    )
    lock = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock_descriptor(lock)  # the workers of a host fetch once
        if not folder.exists():
            atomic_folder(folder, lambda draft: _fetch(uri, draft))
    finally:
        os.close(lock)
    return str(folder)


def _digest(description: bytes) -> str:
    """Of the content of a `model.json`, which has the digests of all files of the model."""
    try:
        text = description.decode("utf-8-sig")
        content = json.dumps(parse_json(text, DESCRIPTION).content, sort_keys=True)
    except ValueError as error:
        raise R2T2Error(f"--model-uri: {DESCRIPTION} is not JSON ({error})") from error
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_description(uri: str) -> bytes:
    filesystem, path = _file_system(uri)
    try:
        return filesystem.cat_file(f"{path}/{DESCRIPTION}")
    except Exception as error:  # every file system has exceptions of its own
        raise R2T2Error(
            f"cannot read {DESCRIPTION} of a model directory from --model-uri {uri} ({_one_line(error)})"
        ) from error


def _fetch(uri: str, folder: Path) -> None:
    filesystem, path = _file_system(uri)
    try:
        filesystem.get(f"{path}/", f"{folder}/", recursive=True)
    except Exception as error:
        raise R2T2Error(f"cannot fetch the model from --model-uri {uri}: {_one_line(error)}") from error


def _file_system(uri: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise missing_extra("--model-uri", "fsspec", "ray") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except Exception as error:
        raise R2T2Error(f"cannot open --model-uri {uri}: {_one_line(error)}") from error
    return filesystem, path.rstrip("/")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
