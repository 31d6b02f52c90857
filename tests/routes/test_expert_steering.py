"""Steering files from maps and recordings: hand-worked differences, and one line for what does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.expert_steering import boost_rules, mask_rules, usage
from r2t2_jax.routes.recording import RecordingFacts, SampleRoutes

LAYERS, EXPERTS = ("layer 0", "layer 1"), ("e0", "e1", "e2", "e3")
COLUMNS = ("factor", "group", "layer", "expert", "usage_difference", "usage_q", "weight_difference", "weight_q")
DIFFERENCES = {"layer 0": [0.4, -0.4, 0.1, -0.1], "layer 1": [0.0, 0.2, -0.2, 0.0]}


@pytest.fixture
def folder(tmp_path):
    """A map with two categories, whose differences are opposite."""
    rows = [
        ["category", group, layer, expert, sign * difference, 0.01 if abs(difference) > 0.15 else 0.5, 0, 1]
        for group, sign in (("size", 1), ("color", -1))
        for layer, differences in DIFFERENCES.items()
        for expert, difference in zip(EXPERTS, differences, strict=True)
    ]
    lines = [",".join(f'"{value}"' if isinstance(value, str) else str(value) for value in row) for row in rows]
    (tmp_path / "experts.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return tmp_path


def boost(folder, task="size", layers="all", rate=None):
    return boost_rules(folder, task, layers, 0.5, "std", "all", rate)


def test_experts_with_positive_differences_are_boosted_in_proportion(folder):
    added = {"lambda": 0.5, "unit": "std"}
    first = {"layers": ["layer 0"], "boost": {"e0": 1.0, "e2": 0.25}} | added
    second = {"layers": ["layer 1"], "boost": {"e1": 0.5}} | added
    assert boost(folder) == [first, second]
    assert boost(folder, layers="1") == [{"layers": ["layer 1"], "boost": {"e1": 1.0}} | added]
    assert boost(folder, "category=size", rate=0.05)[0]["boost"] == {"e0": 1.0}


def test_a_map_without_differences_in_usage_has_those_in_weight(folder):
    path = folder / "experts.csv"
    header, *lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    swapped = [[*row[:4], "0", "1", row[4], row[5]] for row in rows]
    path.write_text("\n".join([header, *map(",".join, swapped)]))
    assert boost(folder)[0]["boost"] == {"e0": 1.0, "e2": 0.25}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": "shape"}, "has no group 'shape'; choose one of size, color"),
        ({"layers": "0-2"}, "--layers 0-2: the model has the layers 0 to 1"),
        ({"layers": "middle"}, "--layers 'middle' is not all, last5, 6-42"),
        ({"rate": 0.001}, "'size' uses no expert more than the mean with q up to 0.001 in layers all"),
    ],
)
def test_what_a_map_does_not_have_is_refused(folder, change, problem):
    with pytest.raises(R2T2Error) as error:
        boost(folder, **change)
    assert problem in str(error.value)


def test_groups_of_two_factors_and_other_files_are_refused(folder, tmp_path):
    path = folder / "experts.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *(line.replace("category", "source") for line in lines[1:])]))
    with pytest.raises(R2T2Error, match="has the group 'size' of two factors; write category=size or source=size"):
        boost(folder)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(R2T2Error, match="holds no expert map: r2t2 experts map DIR --out MAP writes one"):
        boost(folder)
    path.write_text("\n".join(lines).replace("0.4", "much"))
    with pytest.raises(R2T2Error, match="usage_difference = 'much', which is no number"):
        boost(folder)


def test_the_command_writes_a_file_that_is_a_steering(folder, tmp_path, capsys):
    out = tmp_path / "steer.json"
    words = ["experts", "steer", "--from", str(folder), "--task", "size", "--out", str(out)]
    assert main([*words, "--lambda", "2", "--tokens", "image"]) == 0
    assert "Boosts 3 experts in 2 layers by up to 2 std." in capsys.readouterr().out
    rule = json.loads(out.read_text())["rules"][0]
    assert rule == {
        "layers": ["layer 0"], "tokens": "image", "boost": {"e0": 1.0, "e2": 0.25}, "lambda": 2.0, "unit": "std",
    }  # fmt: skip
    assert main([*words, "--lambda", "nan"]) == 2
    assert "--strength nan" in capsys.readouterr().err


class Recorded:
    """A recording in memory: for each token the two experts of both layers, and its kind."""

    def __init__(self, name, *tokens, **facts):
        self.folder = name
        self.facts = replace(RecordingFacts(1, LAYERS, EXPERTS, 2, "all", True, False, 1, {}), **facts)
        self.tokens = tokens

    def samples(self):
        kinds = [kind for kind, *_ in self.tokens]
        experts = np.asarray([routes for _, *routes in self.tokens]).reshape(len(kinds), 2, 2)
        places = np.arange(len(kinds))
        yield SampleRoutes("a", "set", "", "", places, places, kinds, experts)


WANTED = Recorded("wanted", ("text", [0, 1], [0, 1]), ("answer", [0, 2], [0, 1]), ("answer", [-1, -1], [-1, -1]))
UNWANTED = Recorded("unwanted", ("text", [3, 1], [0, 1]), ("answer", [3, 2], [2, 1]))


def test_usage_is_the_share_of_tokens_that_choose_an_expert():
    np.testing.assert_allclose(usage(WANTED, "all"), [[1, 0.5, 0.5, 0], [1, 1, 0, 0]])
    np.testing.assert_allclose(usage(WANTED, "text"), [[1, 1, 0, 0], [1, 1, 0, 0]])
    with pytest.raises(R2T2Error, match="wanted has no image tokens with a route"):
        usage(WANTED, "image")


def test_the_largest_risk_differences_are_masked_and_selected():
    """Differences: layer 0 [1, 0, 0, -1], layer 1 [0.5, 0, -0.5, 0]."""
    rules, named = mask_rules(WANTED, UNWANTED, 10, 1, "all", "all")
    assert rules == [
        {"layers": ["layer 0"], "mask": ["e3"]},
        {"layers": ["layer 1"], "mask": ["e2"]},
        {"layers": ["layer 0"], "select": ["e0"]},
    ]
    assert named == [("layer 0", "e3", -1.0), ("layer 1", "e2", -0.5), ("layer 0", "e0", 1.0)]
    rules, _ = mask_rules(WANTED, UNWANTED, 1, 0, "1", "answer")
    assert rules == [{"layers": ["layer 1"], "tokens": "answer", "mask": ["e2"]}]


def test_a_layer_keeps_as_many_experts_as_its_gate_chooses():
    facts = {"experts": EXPERTS[:3]}
    wanted = Recorded("wanted", ("text", [0, 1], [0, 1]), **facts)
    unwanted = Recorded("unwanted", ("text", [2, 1], [0, 2]), **facts)
    rules, _ = mask_rules(wanted, unwanted, 10, 0, "all", "all")
    assert rules == [{"layers": ["layer 0"], "mask": ["e2"]}, {"layers": ["layer 1"], "mask": ["e2"]}]


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (Recorded("other", *UNWANTED.tokens, layers=("a", "b")), "wanted and other differ in layers"),
        (WANTED, "wanted and wanted use all experts alike in all"),
    ],
)
def test_recordings_that_do_not_contrast_are_refused(second, problem):
    with pytest.raises(R2T2Error) as error:
        mask_rules(WANTED, second, 2, 1, "all", "all")
    assert problem in str(error.value)


def test_a_model_that_mixes_all_experts_has_none_to_mask():
    whole = Recorded("whole", ("sample", [0, 1], [1, 0]), experts=EXPERTS[:2])
    with pytest.raises(R2T2Error, match="mixes all 2 experts of a sample and chooses none"):
        mask_rules(whole, whole, 1, 0, "all", "all")
