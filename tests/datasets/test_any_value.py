"""For any value in an official JSON file a reader yields records or raises `R2T2Error`."""

import contextlib
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.validate import read_split
from r2t2_jax.errors import R2T2Error
from tests.datasets.official import OFFICIAL, put

STRANGE = (None, 7, "", "x", [], [[]], {}, {"x": []})
WITHOUT_JSON = ("cocoqa", "mmbench", "mme", "cvbench2d", "cvbench3d")


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of keys to every nested value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*above, key)
        yield from places(item, (*above, key))


def replaced(content: Any, keys: tuple[Any, ...], value: Any) -> Any:
    copy = deepcopy(content)
    inside = copy
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    return copy


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name not in WITHOUT_JSON])
def test_any_value_at_any_position_is_read_or_refused(name: str, tmp_path: Path) -> None:
    OFFICIAL[name](tmp_path)
    dataset = DATASETS[name]
    split = dataset.splits[0] if dataset.splits else ""
    tried = 0
    for path in sorted(tmp_path.rglob("*.json*")):
        lines = path.read_text(encoding="utf-8").split("\n") if path.suffix == ".jsonl" else []
        content = json.loads(lines[0] if lines else path.read_text(encoding="utf-8"))
        for keys in places(content):
            for value in STRANGE:
                put(path, replaced(content, keys, value))
                with contextlib.suppress(R2T2Error):
                    read_split(dataset, tmp_path, split)
                tried += 1
        put(path, content)
    assert tried >= 40
