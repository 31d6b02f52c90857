"""Import of the authors' reference file: all fields are read, and malformed entries are named."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.importing import import_bank
from r2t2_jax.bank.inspect import routing_predictability
from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval.hashed_bag_of_words import HashedBagOfWords

EXPERTS = ("img_aux", "img_lang", "img_self", "lang_aux", "lang_img")
RELEASED = Path(os.environ.get("R2T2_SAMPLES", "../shared/samples")) / "r2t2" / "reference.json"


def entries(count=6):
    rng = np.random.default_rng(0)
    weights = np.concatenate([rng.dirichlet(np.ones(3), count), rng.dirichlet(np.ones(2), count)], axis=1)
    return [
        {
            "id": 2 * i,
            "question": f"What color is cube {i}?",
            "image_path": f"image_{i // 2}.png",
            "model_answer": "red" if i != 4 else "blue",
            "ground_truth": "red",
            "is_correct": i != 4,
            "weights": dict(zip(EXPERTS, weights[i].tolist(), strict=True)),
        }
        for i in range(count)
    ]


def load(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return import_bank(path, HashedBagOfWords())


def test_every_field_is_imported(tmp_path):
    content = entries()
    load(tmp_path / "file.json", content).save(tmp_path / "bank")
    bank = ReferenceBank.open(tmp_path / "bank")
    assert bank.spec.experts == EXPERTS
    assert bank.spec.groups == ((0, 1, 2), (3, 4))
    assert bank.right.tolist() == [True, True, True, True, False, True]
    np.testing.assert_allclose(bank.routing[3, 0], list(content[3]["weights"].values()), rtol=1e-6)
    np.testing.assert_array_equal(bank.embeddings, HashedBagOfWords().embed([entry["question"] for entry in content]))
    record = bank.records[4]
    assert (record["id"], record["question"], record["image"]) == ("8", "What color is cube 4?", "image_2.png")
    assert (record["prediction"], record["answer"], record["score"]) == ("blue", "red", 0.0)


def test_weights_without_groups_form_one_group(tmp_path):
    content = entries()
    content[0]["weights"] = dict.fromkeys(EXPERTS, 0.2)
    assert load(tmp_path / "file.json", content).spec.groups == ((0, 1, 2, 3, 4),)


def changed(number, **fields):
    content = copy.deepcopy(entries())
    content[number] |= fields
    return content


def without(number, name):
    content = entries()
    del content[number][name]
    return content


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ({}, "must be a non-empty list of references"),
        ([], "must be a non-empty list"),
        ([3], "entry 0: expected an object, got int"),
        (without(2, "weights"), "entry 2: 'weights' is missing"),
        (changed(1, question=5), "entry 1: 'question' must not be 5"),
        (changed(1, question="  "), r"entry 1 \(id 2\): the question is empty"),
        (changed(3, is_correct="yes"), "entry 3: 'is_correct' must not be 'yes'"),
        (changed(3, id=4), "id '4' occurs twice"),
        (changed(2, weights={"img_aux": 1.0}), r"entry 2 \(id 4\): weights name \['img_aux'\], the first entry"),
        (changed(2, weights=dict.fromkeys(EXPERTS, -0.1)), "the weight of 'img_aux' is -0.1, not a number from 0 to 1"),
        (changed(2, weights=dict.fromkeys(EXPERTS, 17.0)), "the weight of 'img_aux' is 17.0"),
        (changed(2, weights=dict.fromkeys(EXPERTS, 0.0)), "entry 2: the weights sum to 0, not to one"),
        (changed(2, weights=dict.fromkeys(EXPERTS, 0.9)), "entry 2: the weights sum to 4.5, not to one"),
        (changed(2, weights=dict.fromkeys(EXPERTS, "much")), "the weight of 'img_aux' is 'much', not a number"),
        (
            changed(2, weights=dict.fromkeys(EXPERTS, float("nan"))),
            r"file\.json:1: not JSON: '\[2\]\.weights\.img_aux' is NaN",
        ),
    ],
)
def test_malformed_files_are_named(content, cause, tmp_path):
    with pytest.raises(R2T2Error, match=cause):
        load(tmp_path / "file.json", content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(R2T2Error, match=r"cannot read .*none\.json: No such file"):
        import_bank(tmp_path / "none.json", HashedBagOfWords())


@pytest.mark.skipif(not RELEASED.exists(), reason="the released file is not here")
def test_the_released_weights_do_not_depend_on_the_question():
    bank = import_bank(RELEASED, HashedBagOfWords())
    assert len(bank) == 3887 and bank.right.all()
    assert bank.spec.groups == ((0, 1, 2), (3, 4, 5))
    predictability = routing_predictability(bank.routing, bank.embeddings)
    assert -0.23 < predictability.r2 < -0.17
    assert predictability.p > 0.05 and not predictability.informative
