"""Steering files: every field, and one line for everything that is wrong with one."""

import json

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.steering.files import Rule, layer_positions, opened_steering, parse_steering, position, read_steering

LAYERS = ("layer 0", "layer 1", "layer 2", "layer 3")


def rules(*content):
    return {"steering": 1, "rules": list(content)}


def test_a_file_has_every_kind_of_rule(tmp_path):
    path = tmp_path / "steer.json"
    content = rules(
        {"layers": "1-2", "tokens": "image", "mask": [0, "expert 1"], "about": "text"},
        {"layers": [0, "layer 3"], "boost": {"2": 1.5}, "lambda": 0.5, "unit": "std"},
        {"boost": [3]},
        {"layers": 2, "tokens": "answer", "select": [1]},
        {"tokens": "last", "weigh": {"expert 1": 0.25, "0": 0.75}},
    )
    path.write_text(json.dumps(content | {"about": "an example"}))
    steering = read_steering(path)
    assert steering.rules == (
        Rule("1-2", "image", "mask", ((0, 1.0), ("expert 1", 1.0))),
        Rule((0, "layer 3"), "all", "boost", (("2", 1.5),), 0.5, "std"),
        Rule("all", "all", "boost", ((3, 1.0),)),
        Rule((2,), "answer", "select", ((1, 1.0),)),
        Rule("all", "last", "weigh", (("expert 1", 0.25), ("0", 0.75))),
    )
    assert opened_steering(str(path)) == steering
    assert opened_steering(steering) is steering
    path.write_text(path.read_text() + "\n")
    assert read_steering(path).digest != steering.digest


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "the content must be an object, not a list"),
        ({"rules": [{"mask": [0]}]}, "'steering' is missing"),
        ({"steering": 2, "rules": [{"mask": [0]}]}, "'steering' is 2; this version reads format 1"),
        ({"steering": True, "rules": [{"mask": [0]}]}, "'steering' is True"),
        ({"steering": 1}, "'rules' is missing"),
        ({"steering": 1, "rules": []}, "'rules' must be a list of at least one rule"),
        ({"steering": 1, "rules": {"mask": [0]}}, "'rules' must be a list"),
        ({"steering": 1, "rule": []}, "unknown field 'rule'"),
        ({"steering": 1, "about": 3, "rules": [{"mask": [0]}]}, "'about' must be a text"),
        (rules("mask"), "'rules[0]' must be an object"),
        (rules({"mask": [0]}, {"layers": "all"}), "'rules[1]' needs one of select, mask, boost, weigh, and has none"),
        (
            rules({"mask": [0], "boost": [1]}),
            "'rules[0]' needs one of select, mask, boost, weigh, and has mask and boost",
        ),
        (rules({"mask": [0], "layer": 1}), "unknown field 'rules[0].layer'; a rule has layers, tokens"),
        (rules({"mask": [0], "lambda": 2}), "'rules[0].lambda' belongs to boost, not to mask"),
        (rules({"weigh": {"0": 1}, "unit": "std"}), "'rules[0].unit' belongs to boost, not to weigh"),
        (rules({"boost": [0], "lambda": "0.5"}), "'rules[0].lambda' must be a number, not '0.5'"),
        (rules({"boost": [0], "lambda": True}), "'rules[0].lambda' must be a number, not True"),
        (rules({"boost": [0], "unit": "share"}), "'rules[0].unit' is 'share'; choose logit, std"),
        (rules({"boost": {"0": None}}), "'rules[0].boost.0' must be a number, not None"),
        (rules({"boost": {}}), "'rules[0].boost' must be an object of scores, or a list of experts"),
        (rules({"weigh": [0]}), "'rules[0].weigh' must be an object of weights by expert"),
        (rules({"weigh": {"0": -0.5, "1": 1}}), "'rules[0].weigh.0' is -0.5; weights are not negative"),
        (rules({"weigh": {"0": 0}}), "'rules[0].weigh' weighs every expert with zero"),
        (rules({"mask": {"0": 1}}), "'rules[0].mask' must be a list of experts"),
        (rules({"mask": []}), "'rules[0].mask' must be a list of experts with at least one"),
        (rules({"mask": [1.5]}), "'rules[0].mask[0]' must be a position or a name, not 1.5"),
        (rules({"mask": [True]}), "'rules[0].mask[0]' must be a position or a name, not True"),
        (rules({"mask": [0, -1]}), "'rules[0].mask[1]' is -1; positions are counted from 0"),
        (rules({"mask": [0], "tokens": "video"}), "'rules[0].tokens' is 'video'; choose all, prompt, text"),
        (rules({"mask": [0], "tokens": ["image"]}), "'rules[0].tokens' is ['image']"),
        (rules({"mask": [0], "layers": []}), "'rules[0].layers' must be all, last5, 6-42, 43,45 or a list"),
        (rules({"mask": [0], "layers": None}), "'rules[0].layers' must be all"),
        (rules({"mask": [0], "layers": [0, -2]}), "'rules[0].layers[1]' is -2"),
        (rules({"mask": [0], "about": []}), "'rules[0].about' must be a text"),
    ],
)
def test_every_problem_is_one_line_with_file_and_field(tmp_path, content, problem):
    path = tmp_path / "steer.json"
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(R2T2Error) as error:
        read_steering(path)
    assert problem in str(error.value)
    assert str(error.value).startswith(f"{path}:")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1", '{"steering": 1, "steering": 1, "rules": []}', '{"steering": NaN}'])
def test_a_file_that_is_no_json_is_refused(tmp_path, text, capsys):
    path = tmp_path / "steer.json"
    path.write_text(text)
    question = ["--model", "pocket:narrow", "--question", "what ?"]
    assert main(["answer", *question, "--steer", str(path)]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert err.count("\n") == 1


def test_a_mapping_that_is_no_json_is_refused():
    with pytest.raises(R2T2Error, match="steering is not JSON"):
        parse_steering({"steering": 1, "rules": [{"mask": {3}}]})


@pytest.mark.parametrize(
    ("layers", "positions"),
    [("all", (0, 1, 2, 3)), ("last2", (2, 3)), ("1-2", (1, 2)), ("3,0-1", (0, 1, 3)), ("layer 2", (2,)), ("2", (2,)),
     ((3, "layer 0", "1"), (0, 1, 3))],
)  # fmt: skip
def test_layers_by_position_and_name(layers, positions):
    assert layer_positions(layers, LAYERS) == positions


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ("last0", "last0: the model has 4 layers"),
        ("last9", "last9: the model has 4 layers"),
        ("2-4", "2-4: the model has the layers 0 to 3"),
        ("3-1", "3-1: the model has the layers 0 to 3"),
        ("first", "'first' is not all, last5, 6-42, 43,45 or the name of a layer such as 'layer 0'"),
        ((7,), "there is no layer 7; the model has the layers 0 to 3"),
        (("mixer",), "there is no layer 'mixer'; the layers are layer 0, layer 1, layer 2, layer 3"),
    ],
)
def test_unknown_layers_are_refused(layers, problem):
    with pytest.raises(R2T2Error, match=r".") as error:
        layer_positions(layers, LAYERS)
    assert str(error.value) == problem


def test_a_name_of_digits_precedes_a_position():
    assert position("2", ("1", "2", "3"), "expert") == 1
    assert position(2, ("1", "2", "3"), "expert") == 2
