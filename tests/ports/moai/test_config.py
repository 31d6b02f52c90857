"""Configs: the released one read from its config.json, values that are not implemented refused."""

import json

import pytest

from ports.moai.config import MoAIConfig
from r2t2_jax.errors import R2T2Error
from tests.goldens import find_goldens


@pytest.mark.parametrize("path", find_goldens("manifest_moai7b_meta.json"))
def test_golden_config_of_the_hub_is_the_7b_config(path):
    described = json.loads(path.read_text(encoding="utf-8"))["hub_config"]
    config = MoAIConfig.from_hf(described)
    assert config == MoAIConfig.full_7b()
    assert config.mixer_layers == (7, 15, 23, 31) and config.tail_layers == 0
    assert config.image_tokens == 1225
    tiny = MoAIConfig.from_hf(described | {"r2t2": {"compressor_depth": 2, "stop_ids": [2]}})
    assert (tiny.compressor_depth, tiny.stop_ids) == (2, (2,))
    assert hash(tiny) != hash(config)


@pytest.mark.parametrize("path", find_goldens("manifest_moai7b_meta.json"))
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sliding_window": 4096}, "sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling"),
        ({"r2t2": {"depth": 3}}, "depth"),
        ({"num_key_value_heads": 7}, "7"),
        ({"img_size": 491}, "491"),
    ],
)
def test_values_that_are_not_implemented_are_refused(path, change, word):
    described = json.loads(path.read_text(encoding="utf-8"))["hub_config"]
    with pytest.raises(R2T2Error, match=word):
        MoAIConfig.from_hf(described | change)


def test_a_missing_field_is_named():
    with pytest.raises(R2T2Error, match="hidden_size"):
        MoAIConfig.from_hf({"bias": False})
