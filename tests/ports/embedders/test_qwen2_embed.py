"""stella and gte: full sizes, instructions, appended tokens."""

import dataclasses
import json

import jax
import pytest

from ports.common.checkpoint.mapping import Tensor, check
from ports.embedders.qwen2_embed import Qwen2EmbedConfig, abstract_params, ignored, leaves, load_gte, load_stella
from r2t2_jax.errors import R2T2Error
from tests.ports.common.embedder_folders import upstream_shapes, write_gte, write_stella

TASK = "Instruct: Retrieve semantically similar text"


def count(config):
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


def test_full_sizes_are_those_of_qwen2():
    stella, gte = Qwen2EmbedConfig.stella(), Qwen2EmbedConfig.gte_qwen2_7b()
    small = dataclasses.replace(stella, vocab_size=151936, head=None)
    assert count(small) == 1_543_714_304  # Qwen2-1.5B, embeddings tied
    assert count(stella) - count(dataclasses.replace(stella, head=None)) == 1536 * 1024 + 1024
    large = dataclasses.replace(gte, vocab_size=152064)
    assert count(large) == 7_615_616_512 - 152064 * 3584  # Qwen2-7B without its head


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("config", [Qwen2EmbedConfig.stella(), Qwen2EmbedConfig.gte_qwen2_7b()])
def test_every_tensor_of_a_full_checkpoint_is_mapped(prefix, config):
    config = dataclasses.replace(config, prefix=prefix)
    names = {f"{prefix}embed_tokens.weight", f"{prefix}norm.weight"} | (
        {"linear.weight", "linear.bias"} if config.head else set()
    )
    for layer in range(28):
        at = f"{prefix}layers.{layer}"
        names |= {f"{at}.self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")}
        names |= {f"{at}.self_attn.o_proj.weight", f"{at}.input_layernorm.weight"}
        names |= {f"{at}.post_attention_layernorm.weight"}
        names |= {f"{at}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    shapes = upstream_shapes_of(config)
    assert set(shapes) == names
    assert shapes[f"{prefix}layers.3.self_attn.k_proj.weight"].shape == (config.kv_heads * 128, config.width)
    report = check(
        leaves(config), shapes | {"lm_head.weight": Tensor((1,), "f")}, abstract_params(config), ignored(config)
    )
    assert report.ignored == ("lm_head.weight",)


def upstream_shapes_of(config):
    from ports.embedders.qwen2_embed import gte_qwen2

    return upstream_shapes(gte_qwen2, config)


def test_stella_puts_its_instruction_before_the_text_and_nothing_after_it(tmp_path):
    embedder = load_stella(str(write_stella(tmp_path / "stella")))
    (text,) = embedder.tokenize(["ab?"])
    characters = embedder.tokenize.tokenizer
    assert [characters.id_to_token(number) for number in text.ids[-3:]] == list("ab?")
    assert len(text.ids) == min(64, len(f"{TASK}.\nQuery: ab?"))
    assert text.skipped == 0  # the instruction counts in the mean
    assert embedder.size == 12


def test_gte_ends_in_one_end_of_text(tmp_path):
    embedder = load_gte(str(write_gte(tmp_path / "gte")))  # its tokenizer.json appends one of its own
    end = embedder.tokenize.tokenizer.token_to_id("<|endoftext|>")
    (text,) = embedder.tokenize(["ab?"])
    assert len(text.ids) == len(f"{TASK}\nQuery: ab?") + 1
    assert [number for number in text.ids if number == end] == [end]
    assert text.ids[-1] == end


def test_the_prefix_of_the_tensor_names_is_detected(tmp_path):
    from ports.embedders.qwen2_embed import gte_qwen2, stella

    for converter, write, prefix in ((stella, write_stella, "model."), (gte_qwen2, write_gte, "")):
        folder = write(tmp_path / converter.port)
        config, _ = converter.open(folder, converter.describe(folder))
        assert config.prefix == prefix


@pytest.mark.parametrize(
    "change", [{"use_sliding_window": True}, {"rope_scaling": {"type": "yarn"}}, {"attention_bias": True}]
)
def test_unsupported_fields_are_refused(tmp_path, change):
    with pytest.raises(R2T2Error, match=next(iter(change))):
        load_stella(str(write_stella(tmp_path / "stella", **change)))


def test_a_head_with_an_activation_is_refused(tmp_path):
    folder = write_stella(tmp_path / "stella")
    dense = json.loads((folder / "2_Dense_1024" / "config.json").read_text())
    dense["activation_function"] = "torch.nn.Tanh"
    (folder / "2_Dense_1024" / "config.json").write_text(json.dumps(dense))
    with pytest.raises(R2T2Error, match="only a dense layer with bias and without activation is implemented"):
        load_stella(str(folder))
