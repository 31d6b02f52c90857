"""Fingerprint of a run: a hash of all of `run.json`. Other settings are an error that lists the differences."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from r2t2_jax.errors import R2T2Error

SHOWN = 5  # differences listed; further ones are counted
NUMERICS = (
    "default_prng_impl",
    "threefry_partitionable",
    "random_seed_offset",
    "enable_x64",
    "default_matmul_precision",
    "numpy_dtype_promotion",
)
UNUSUAL = {  # further settings, with JAX's defaults: recorded if they differ from them, so that earlier runs continue
    "allow_f16_reductions": False,
    "disable_jit": False,
    "disable_most_optimizations": False,
    "exec_time_optimization_effort": 0.0,
    "high_dynamic_range_gumbel": False,
    "softmax_custom_jvp": True,
    "threefry_gpu_kernel_lowering": False,
}
VARIABLES = ("NVIDIA_TF32_OVERRIDE",)  # recorded if they are set
RENAMED = {  # options of earlier versions, by command
    "aux build": {"dataset": "data", "samples": "limit"},
    "demo": {"samples": "limit"},
    "eval": {"benchmark": "data"},
    "reproduce": {"samples": "limit"},
}
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
NO_NUMERICS = ("--xla_dump", "--xla_force_host_platform_device_count")  # the devices are recorded with their number


def fingerprinted(run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json`, as JSON reads it back, with its fingerprint."""
    plain = json.loads(json.dumps(run, default=str))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return plain | {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest()[:16]}


def current_settings(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run of an earlier version under the names that the command's options have now."""
    if command == "bank build" and ("dataset" in settings or isinstance(settings.get("keep"), str)):
        renamed = {"dataset": "data", "samples": "limit", "limit": "keep"}
        rest = {name: value for name, value in settings.items() if name != "keep"}
        stored = {"only_correct": settings["keep"] == "correct"} if "keep" in settings else {}
        return {renamed.get(name, name): value for name, value in rest.items()} | stored
    named = {RENAMED.get(command, {}).get(name, name): value for name, value in settings.items()}
    if command == "eval" and isinstance(named.get("data"), str):
        named["data"] = [name.strip() for name in named["data"].split(",")]
    return named


def with_current_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json` with `current_settings`, and the fingerprint of that content if names changed."""
    if not isinstance(saved.get("settings"), dict) or not isinstance(saved.get("command"), str):
        return dict(saved)
    settings = current_settings(saved["command"], saved["settings"])
    if settings == saved["settings"]:
        return dict(saved)
    content = {name: value for name, value in saved.items() if name != "fingerprint"}
    return fingerprinted(content | {"settings": settings})


def check_settings(saved: Mapping[str, Any], command: str, settings: Mapping[str, Any], where: str) -> None:
    """Check command and settings of a saved run before its other dependencies are known.

    Args:
        saved: the content of `run.json`.
        command: as typed after `r2t2`.
        settings: the command's options; an empty mapping compares the command only.
        where: the run's folder, for the error.

    Raises:
        R2T2Error: as `check_fingerprint`.
    """
    current = with_current_settings(saved)
    requested = json.loads(
        json.dumps({"command": command, "settings": settings or current.get("settings")}, default=str)
    )
    check_fingerprint({name: current.get(name) for name in requested}, requested, where)


def check_fingerprint(saved: Mapping[str, Any], requested: Mapping[str, Any], where: str) -> None:
    """Check that a saved run has the requested settings.

    Raises:
        R2T2Error: it is a run of another command, or the settings differ; the message lists the differences with both
            values.
    """
    saved = with_current_settings(saved)
    if saved == requested:
        return
    if saved.get("command") != requested["command"]:
        raise R2T2Error(
            f"{where} holds a run of `r2t2 {saved.get('command')}`, not of `r2t2 {requested['command']}`. "
            "Choose another folder"
        )
    there, here = _flat(saved), _flat(requested)
    names = [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]
    names = [
        name for name in names if not name.startswith(("plan.", "fingerprint"))
    ] or names  # consequences of other differences
    shown = [f"{name} is {_shown(there, name)} there and {_shown(here, name)} here" for name in names[:SHOWN]]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise R2T2Error(f"{where} holds a run with other settings: {'; '.join(shown)}{more}. Choose another folder")


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists by dotted name."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        return {name: tree}
    return {leaf: value for key, child in items for leaf, value in _flat(child, f"{name}.{key}".lstrip(".")).items()}


def versions(devices: str | None = None) -> dict[str, Any]:
    """Versions of the libraries, devices and numerics, on which results may depend besides the settings.

    Args:
        devices: number and kind of those that compute the results; `None` for those of this process.
    """
    return {
        "python": platform.python_version(),
        **package_versions(),
        "devices": devices or local_devices(),
        "numerics": numerics(),
    }


def local_devices() -> str:
    """Number and kind of the devices of this process: `4 x NVIDIA H100`."""
    import jax

    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def numerics() -> dict[str, str]:
    """The settings of JAX and XLA that change computed numbers or random draws."""
    import jax

    settings = {name: str(getattr(jax.config, f"jax_{name}")) for name in NUMERICS}
    unusual = {name: jax.config.values.get(f"jax_{name}", default) for name, default in UNUSUAL.items()}
    settings |= {name: str(value) for name, value in unusual.items() if value != UNUSUAL[name]}
    settings |= {name.lower(): os.environ[name] for name in VARIABLES if os.environ.get(name)}
    flags = " ".join(os.environ.get(name, "") for name in FLAGS).split()
    return settings | {"xla_flags": " ".join(sorted(flag for flag in flags if not flag.startswith(NO_NUMERICS)))}


def package_versions() -> dict[str, str]:
    """Versions of the packages that compute results."""
    return {name: version(name) for name in ("r2t2-jax", "jax", "jaxlib", "numpy")}
