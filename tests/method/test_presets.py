"""Presets by name and from files."""

import dataclasses
import json
from pathlib import Path

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import PAPER, Preset
from r2t2_jax.methods import (
    FLAT_SETTINGS,
    all_blocks,
    find_preset,
    own_preset,
    preset_of,
    settings_read,
    strategy,
)


def test_presets_by_name() -> None:
    assert find_preset("paper") is PAPER
    assert find_preset("mine", {"mine": {"neighborhood.k": 7}}) == Preset.from_mapping({"neighborhood.k": 7})
    with pytest.raises(
        R2T2Error, match="unknown preset 'theirs'; choose one of paper, c3po, simplex, logit, mine, or a"
    ):
        find_preset("theirs", {"mine": {}})


def test_a_ports_own_preset_has_its_name() -> None:
    assert own_preset("pocket:narrow", {"pocket": {}}) == "pocket"
    assert own_preset("pocket:narrow", {"other": {}}) == own_preset("moai", {}) == "paper"


def test_a_preset_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    path.write_text(
        json.dumps(
            {
                "name": "mine",
                "settings": Preset.from_mapping({"neighborhood.k": 9, "space.kind": "logit"}).to_mapping(),
                "evidence": {},
            }
        )
    )
    assert find_preset(str(path)) == Preset.from_mapping({"neighborhood.k": 9, "space.kind": "logit"})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "cannot read preset"),
        ("[1]", "holds no preset: r2t2 tune writes one"),
        ('{"settings": 3}', "holds no preset"),
        (
            '{"settings": {"learning_rate": 0.3, "eata_pull": 1.0, "atlas_steps": 20}}',
            "write 'learning_rate' as 'descent.learning_rate'; write 'eata_pull' as 'eata.proximal_weight'; remove 'a",
        ),
        (
            '{"settings": {"cma_es": {"sigmas": 1}}}',
            r"\['cma_es.sigmas'\] in a preset; the block cma_es has",
        ),
        ('{"settings": {"neighborhood": 3}}', "the block 'neighborhood' must be an object"),
        ('{"settings": {"neighborhood": {"k": "x"}}}', "setting neighborhood.k must be a whole number, not 'x'"),
        ('{"settings": {"neighborhood": {"k": 3.5}}}', "setting neighborhood.k must be a whole number, not 3.5"),
        ('{"settings": {"neighborhood": {"k": true}}}', "setting neighborhood.k must be a whole number, not True"),
        (
            '{"settings": {"descent": {"learning_rate": null}}}',
            "descent.learning_rate must be a finite number, not None",
        ),
        ('{"settings": {"neighborhood": {"bandwidth": NaN}}}', "'settings.neighborhood.bandwidth' is NaN"),
        ('{"settings": {"space": {"tied": 1}}}', "setting space.tied must be true or false, not 1"),
        ('{"settings": {"sar": {"radius": "wide"}}}', "setting sar.radius must be a finite number, not 'wide'"),
        ('{"settings": {"spice": {"heat": 1}}}', r"unknown block 'spice' in preset .*known blocks are"),
    ],
)
def test_files_without_a_valid_preset_are_refused(content: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    path.write_text(content)
    with pytest.raises(R2T2Error, match=cause):
        find_preset(str(path))


def test_a_file_shows_only_the_blocks_that_its_method_reads() -> None:
    preset = preset_of({"descent": {"steps": 3}, "sar": {"radius": 0.1}, "t3": {"gamma": 2.0}})
    settings = settings_read(["sar"], preset)
    assert list(settings) == ["descent", "entropy", "generation", "sar", "space"]
    assert settings["sar"] == {"radius": 0.1, "recovery": 0.2}
    assert strategy("sar", preset_of(settings)) == strategy("sar", preset)


def test_every_setting_of_a_flat_preset_has_a_place() -> None:
    for path in FLAT_SETTINGS.values():
        block, _, name = path.partition(".")
        assert name in {field.name for field in dataclasses.fields(all_blocks()[block])}, path


def test_settings_are_changed_nested_or_by_path() -> None:
    nested = PAPER.with_settings({"descent": {"steps": 5}, "eata": {"proximal_weight": 2.0}})
    assert nested == PAPER.with_settings({"descent.steps": 5}).with_settings({"eata.proximal_weight": 2.0})
    assert strategy("eata", nested).objective.proximal_weight == 2.0
    assert (nested.get("descent.steps"), nested.descent.steps) == (5, 5)
    assert preset_of(nested.to_mapping()) == nested
