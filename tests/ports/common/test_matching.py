"""Mapping and checkpoint must agree: every kind of mismatch, and all problems in one error."""

import dataclasses

import pytest

from ports.common.checkpoint.mapping import Leaf, Tensor, check, from_manifest
from r2t2_jax.errors import R2T2Error
from tests.ports.common.toy_model import CONVERTER, ToyConfig, leaves, toy_tensors

CONFIG = ToyConfig()


def run(tensors=None, mapping=None):
    shapes = {name: Tensor(value.shape, str(value.dtype)) for name, value in toy_tensors().items()}
    return check(
        leaves(CONFIG) if mapping is None else mapping,
        shapes | (tensors or {}),
        CONVERTER.abstract_params(CONFIG),
        CONVERTER.ignored(CONFIG),
        CONVERTER.tied(CONFIG),
    )


def test_every_name_is_mapped_ignored_or_tied():
    report = run()
    assert set(report.mapped) | set(report.ignored) | {"head.weight"} == set(toy_tensors())
    assert sorted(report.ignored) == ["h.0.cache", "h.1.cache", "h.2.cache"]
    assert report.tied == (("wte.weight", "head.weight"),)


def test_a_manifest_serves_as_a_checkpoint():
    manifest = {name: [list(value.shape), "BF16"] for name, value in toy_tensors().items()}
    tensors = from_manifest(manifest)
    check(leaves(CONFIG), tensors, CONVERTER.abstract_params(CONFIG), (r"h\.\d+\.cache",), CONVERTER.tied(CONFIG))
    del tensors["h.1.fc.bias"]
    with pytest.raises(R2T2Error, match=r"missing from the checkpoint: h\.1\.fc\.bias"):
        check(leaves(CONFIG), tensors, CONVERTER.abstract_params(CONFIG), (r".*cache",), CONVERTER.tied(CONFIG))


def test_all_problems_are_listed_at_once():
    bfloat = "bfloat16"
    mapping = leaves(CONFIG)
    mapping["extra/kernel"] = Leaf(("scale",))
    del mapping["layers/bias"]
    mapping["words"] = Leaf(("gone.weight",))
    tensors = {"new.weight": Tensor((2,), bfloat), "h.2.fc.weight": Tensor((4, 5), bfloat)}
    with pytest.raises(R2T2Error) as caught:
        run(tensors, mapping)
    message = str(caught.value)
    for part in (
        "unmapped: new.weight",
        "unmapped: h.0.fc.bias",
        "missing from the checkpoint: gone.weight",
        "mapped 2 times: scale",
        "parameter not filled: layers/bias",
        "mapped to no parameter: extra/kernel",
        "h.2.fc.weight: shape (4, 5) gives (5, 4), layers/kernel needs (4, 4)",
    ):
        assert part in message


def test_ignored_names_are_matched_whole():
    with pytest.raises(R2T2Error, match=r"unmapped: h\.0\.cache\.more"):
        run({"h.0.cache.more": Tensor((2,), "bfloat16")})


def test_a_stack_of_another_depth_is_refused():
    deeper = leaves(dataclasses.replace(CONFIG, layers=2))
    with pytest.raises(R2T2Error, match=r"layers/kernel: 2 tensors to stack, its shape is \(3, 4, 4\)"):
        run(mapping=deeper)


def test_a_tensor_of_another_rank_is_named():
    with pytest.raises(R2T2Error, match=r"h\.1\.fc\.weight: shape \(4, 4, 1\)"):
        run({"h.1.fc.weight": Tensor((4, 4, 1), "bfloat16")})


def test_a_stack_has_one_dtype():
    with pytest.raises(R2T2Error, match=r"layers/bias: tensors of different dtypes to stack \(bfloat16, float32\)"):
        run({"h.1.fc.bias": Tensor((4,), "float32")})


def test_a_dropped_tensor_may_not_be_mapped():
    with pytest.raises(R2T2Error, match=r"both mapped and dropped as tied: head\.weight"):
        run(mapping=leaves(CONFIG) | {"words": Leaf(("head.weight",))})
