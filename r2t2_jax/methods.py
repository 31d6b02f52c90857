"""Every method that can be evaluated, by name: strategies return routing weights, baselines return answers.

No other module imports both the method and the rivals. To add a strategy, write a function of the blocks of settings
that it reads, and add a row to the table of its package (`method/strategies.py` or `rivals/table.py`). Reports show the
first line of the function's docstring; `Control: ` before it is the role, as others are (`reporting/roles.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import BLOCKS, PAPER, PRESETS, Preset, changed_block, paths_of
from r2t2_jax.method.strategies import ATLAS_STRATEGIES, PAPER_STRATEGIES, Strategy, StrategyFactory
from r2t2_jax.rivals.base import Baseline
from r2t2_jax.rivals.table import BASELINES, RIVAL_STRATEGIES
from r2t2_jax.runtime.typed_json import open_json

Method = Strategy | Baseline
BASE = "base"  # the strategy that is the unmodified model
ORACLE_PERMUTED, BASE_PERMUTED = "oracle_permuted", "base_permuted"  # both scored by the labels of other questions

STRATEGIES: dict[str, StrategyFactory] = {**PAPER_STRATEGIES, **ATLAS_STRATEGIES, **RIVAL_STRATEGIES}
METHODS: dict[str, Callable[..., Method]] = {**STRATEGIES, **BASELINES}

# Where the settings of a flat preset are now, by block: `old` or `old=new`.
_FLAT = {
    "neighborhood": "k epsilon kernel bandwidth nu degree offset",
    "space": "space=kind tied",
    "descent": "optimizer schedule learning_rate final_learning_rate decay_factor decay_every steps",
    "line_search": "line_evaluations=evaluations",
    "mode": "mode_k=k mode_bandwidth=bandwidth mode_step=step_size mode_tolerance=tolerance"
    " mode_iterations=max_iterations",
    "best_of_n": "candidates",
    "generation": "answer_tokens=max_new_tokens",
    "atlas": "atlas_k=k atlas_loss=loss atlas_temperature=temperature atlas_trust=proximal_weight"
    " atlas_bandwidth=bandwidth atlas_min_gain=min_gain",
    "atlas_taylor": "taylor_trust=proximal_weight",
    "entropy": "entropy_margin=margin",
    "eata": "eata_pull=proximal_weight",
    "sar": "sar_radius=radius sar_recovery=recovery",
    "augmentation": "views",
    "tpt": "views_kept=selected_views",
    "deyo": "deyo_threshold=threshold",
    "rewiring": "rewiring_learning_rate=learning_rate rewiring_steps=steps",
    "cma_es": "cma_sigma=sigma cma_generations=generations",
    "t3": "t3_low=low t3_high=high t3_gamma=gamma",
    "manifold_pull": "manifold_k=k manifold_pull=proximal_weight",
    "warmup": "warmup_learning_rate=learning_rate",
}
FLAT_SETTINGS: dict[str, str] = {
    pair.partition("=")[0]: f"{block}.{pair.rpartition('=')[2]}"
    for block, pairs in _FLAT.items()
    for pair in pairs.split()
}
DROPPED_SETTINGS = ("atlas_image_bandwidth", "atlas_learning_rate", "atlas_steps")


@cache
def blocks_of(name: str) -> Mapping[str, type]:
    """The blocks of settings that a method reads, with their types: the parameters of its function."""
    return {block: kind for block, kind in get_type_hints(METHODS[name]).items() if block != "return"}


@cache
def all_blocks() -> Mapping[str, type]:
    """The blocks of all methods, with their types."""
    return {block: kind for name in METHODS for block, kind in blocks_of(name).items()}


def method_of(name: str, preset: Preset = PAPER) -> Method:
    """The strategy or the baseline of this name with a preset's numbers.

    Raises:
        R2T2Error: there is none of this name, or a number of the preset is out of range.
    """
    _check_name("strategy", name, METHODS)
    return METHODS[name](**{block: preset.block(block, kind) for block, kind in blocks_of(name).items()})


def strategy(name: str, preset: Preset = PAPER) -> Strategy:
    """The strategy of this name with a preset's numbers.

    Raises:
        R2T2Error: there is no strategy of this name, or a number of the preset is out of range.
    """
    _check_name("strategy", name, STRATEGIES)
    chosen = method_of(name, preset)
    assert isinstance(chosen, Strategy)
    return chosen


def baseline(name: str, preset: Preset = PAPER) -> Baseline:
    """The baseline of this name with a preset's numbers.

    Raises:
        R2T2Error: there is no baseline of this name, or a number of the preset is out of range.
    """
    _check_name("baseline", name, BASELINES)
    chosen = method_of(name, preset)
    assert not isinstance(chosen, Strategy)
    return chosen


def _check_name(kind: str, name: Any, known: Mapping[str, Any]) -> None:
    """Refuse anything but one name of those that are known."""
    if not isinstance(name, str):
        raise R2T2Error(f"a {kind} is one name, such as {next(iter(known))!r}, not {name!r:.60}")
    if name not in known:
        raise R2T2Error(f"unknown {kind} {name!r}; choose one of {', '.join(known)}")


def untouched(name: str, names: Container[str]) -> str:
    """The row of the unmodified model with which a strategy of `names` is compared, scored by the same labels."""
    return BASE_PERMUTED if name in (ORACLE_PERMUTED, BASE_PERMUTED) and BASE_PERMUTED in names else BASE


def settings_read(names: Iterable[str], preset: Preset) -> dict[str, dict[str, Any]]:
    """The blocks of a preset that these methods read, ready for JSON."""
    kinds = {block: kind for name in names for block, kind in blocks_of(name).items()}
    return {block: dataclasses.asdict(preset.block(block, kind)) for block, kind in sorted(kinds.items())}


def preset_of(settings: Mapping[str, Any], where: str = "a preset", base: Preset = PAPER) -> Preset:
    """A preset from settings that change those of `base`: nested, or by path such as `descent.steps`.

    Raises:
        R2T2Error: the settings are flat, or no method has a setting; `where` begins the message.
    """
    flat = [path for path, _ in paths_of(settings) if "." not in path]
    if flat:
        raise R2T2Error(f"{where} has settings in no block: {'; '.join(map(_correction, flat))}")
    preset = base.with_settings(settings)
    known = all_blocks()
    for block, values in preset.others:
        if block not in known:
            raise R2T2Error(f"unknown block {block!r} in {where}; known blocks are {', '.join(sorted(known))}")
        changed_block(block, known[block](), dict(values))
    return preset


def _correction(name: str) -> str:
    """The correct form of a setting of a flat preset."""
    if name in FLAT_SETTINGS:
        return f"write {name!r} as {FLAT_SETTINGS[name]!r}"
    if name in {*BLOCKS, *all_blocks()}:
        return f"the block {name!r} must be an object"
    if name in DROPPED_SETTINGS:
        return f"remove {name!r}, which no longer exists"
    return f"{name!r} is unknown; the blocks are {', '.join(sorted({*BLOCKS, *all_blocks()}))}"


def find_preset(name: str | Path | Preset | Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> Preset:
    """The preset of this name: one of `PRESETS`, one that a port offers (`Port.presets`), or a file of `r2t2 tune`.

    A `Preset` is returned as it is; settings in a mapping change those of the paper.

    Raises:
        R2T2Error: there is no preset of this name, or the file (`*.json`) or the mapping holds none.
    """
    if isinstance(name, Preset):
        return name
    if isinstance(name, Mapping):
        return preset_of(name)
    if not isinstance(name, str | Path):
        raise R2T2Error(f"a preset is a name, a file, a Preset or settings in a dictionary, not {name!r:.60}")
    name = str(name)
    if name.endswith(".json"):
        return read_preset(Path(name))
    presets: dict[str, Any] = {**PRESETS, **(offered or {})}
    if name not in presets:
        raise R2T2Error(f"unknown preset {name!r}; choose one of {', '.join(presets)}, or a file that r2t2 tune wrote")
    chosen = presets[name]
    return chosen if isinstance(chosen, Preset) else preset_of(chosen, f"preset {name}")


def read_preset(path: Path) -> Preset:
    """The preset in a file: an object whose `settings` change the paper's.

    Raises:
        R2T2Error: it cannot be read or holds no such object, or a setting is unknown.
    """
    try:
        content = open_json(path).content
    except R2T2Error as error:
        raise R2T2Error(f"cannot read preset {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise R2T2Error(f"{path} holds no preset: r2t2 tune writes one, an object with 'settings'")
    return preset_of(content["settings"], f"preset {path}")


def preset_name(preset: str | Path | Preset | Mapping[str, Any]) -> str:
    """The name of a preset or its file; that of an equal one of `PRESETS`; else `custom`."""
    if isinstance(preset, str | Path):
        return str(preset)
    preset = find_preset(preset)
    return next((name for name, known in PRESETS.items() if known == preset), "custom")


def own_preset(port_name: str, offered: Mapping[str, Any]) -> str:
    """The name of a port's own preset, which is that of the port without its variant; else `paper`."""
    name = port_name.partition(":")[0]
    return name if name in offered else "paper"
