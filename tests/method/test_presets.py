"""Presets by name and from files."""

import json
from pathlib import Path

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import PAPER, Preset, find_preset, own_preset


def test_presets_by_name() -> None:
    assert find_preset("paper") is PAPER
    assert find_preset("mine", {"mine": {"k": 7}}) == Preset(k=7)
    with pytest.raises(R2T2Error, match="unknown preset 'theirs'; choose one of paper, mine, or a file"):
        find_preset("theirs", {"mine": {}})


def test_a_ports_own_preset_is_called_like_it() -> None:
    assert own_preset("pocket:narrow", {"pocket": {}}) == "pocket"
    assert own_preset("pocket:narrow", {"other": {}}) == own_preset("moai", {}) == "paper"


def test_a_preset_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    path.write_text(json.dumps({"name": "mine", "settings": Preset(k=9, space="logit").to_mapping(), "evidence": {}}))
    assert find_preset(str(path)) == Preset(k=9, space="logit")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "cannot read preset"),
        ("[1]", "holds no preset: r2t2 tune writes one"),
        ('{"settings": 3}', "holds no preset"),
        ('{"settings": {"spice": 1}}', r"unknown settings \['spice'\]"),
    ],
)
def test_files_that_hold_none_are_refused(content: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    path.write_text(content)
    with pytest.raises(R2T2Error, match=cause):
        find_preset(str(path))
