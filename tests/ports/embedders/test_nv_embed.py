"""NV-Embed-v2: full sizes, pooling, the license."""

import logging
from dataclasses import replace

import jax
import numpy as np
import pytest

from ports.embedders.nv_embed import NVEmbedConfig, abstract_params, load
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.setup import open_embedder, with_embedder
from r2t2_jax.method.presets import PAPER, Preset
from tests.ports.common.embedder_folders import NV, write_nv_embed
from tests.toy_port import toy


def test_full_size_is_mistral_and_the_latent_block():
    shapes = abstract_params(NVEmbedConfig.full_v2())
    latent = sum(leaf.size for leaf in jax.tree.leaves(shapes["latent"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) - latent == 7_241_732_096 - 32000 * 4096  # no head
    heads, width = 8 * 4096, 4096
    assert latent == 512 * width + 4 * heads * width + (heads + 1) * width + 4 * width * width + heads + 6 * width


def test_the_instruction_can_be_chosen(tmp_path):
    folder = str(write_nv_embed(tmp_path / "nv"))
    embedder = load(folder)
    paper = open_embedder(f"nv_embed:{folder}", PAPER.embedding.instruction)
    assert paper.instruction == "Retrieve relevant questions: " and paper.fingerprint != embedder.fingerprint
    assert len(paper.tokenize(["ab?"])[0].ids) == 2 + len("Retrieve relevant questions: ab?")
    assert np.abs(paper.embed(["ab?"]) - embedder.embed(["ab?"])).max() > 1e-4
    named = open_embedder(f"nv_embed:{folder},instruction=ask: ", PAPER.embedding.instruction)
    assert named.instruction == "ask: " and named.fingerprint == embedder.with_instruction("ask: ").fingerprint
    assert open_embedder(f"nv_embed:{folder}", None).fingerprint == embedder.fingerprint
    assert open_embedder(f"nv_embed:{folder},instruction=similar", "other").fingerprint == embedder.fingerprint
    preset = Preset.from_mapping({"embedding.instruction": "ask: "})
    port = replace(toy(), presets={"toy": preset})
    (own,), (papers,) = (with_embedder([port], f"nv_embed:{folder}", name) for name in (None, "paper"))
    assert (own.embedder.instruction, papers.embedder.instruction) == ("ask: ", "Retrieve relevant questions: ")


def test_the_beginning_of_the_instruction_is_not_pooled(tmp_path):
    embedder = load(str(write_nv_embed(tmp_path / "nv")))
    (text,) = embedder.tokenize(["ab?"])
    tokens = [embedder.tokenize.tokenizer.id_to_token(number) for number in text.ids]
    instruction = "Instruct: Retrieve semantically similar text\nQuery: "
    assert (tokens[0], tokens[-1], len(tokens)) == ("<s>", "</s>", 2 + len(f"{instruction}ab?"))
    assert text.skipped == len(instruction)  # <s> and all but the last of its tokens
    assert tokens[text.skipped :] == [" ", "a", "b", "?", "</s>"]


def test_the_license_is_logged(tmp_path, caplog):
    with pytest.raises(R2T2Error, match="non-commercial use only"):
        load(None)
    with caplog.at_level(logging.WARNING, "r2t2"):
        load(str(write_nv_embed(tmp_path / "nv")))
    assert "non-commercial use only" in caplog.text


def test_unsupported_fields_are_refused():
    with pytest.raises(R2T2Error, match="is_mask_instruction = False"):
        NVEmbedConfig.from_hf(NV | {"is_mask_instruction": False})
    latent = NV["latent_attention_config"] | {"output_normalize": False}
    with pytest.raises(R2T2Error, match=r"latent_attention_config\.output_normalize = False"):
        NVEmbedConfig.from_hf(NV | {"latent_attention_config": latent})
    text = NV["text_config"] | {"hidden_act": "gelu"}
    every = NV | {"is_mask_instruction": False, "latent_attention_config": latent, "text_config": text}
    with pytest.raises(R2T2Error) as refused:
        NVEmbedConfig.from_hf(every)
    names = ("is_mask_instruction", "latent_attention_config.output_normalize", "text_config.hidden_act")
    assert all(f"{name} = " in str(refused.value) for name in names)


@pytest.mark.parametrize("nested", [{}, {"text_config": None}, {"text_config": {"model_type": "bidir_mistral"}}])
def test_a_short_config_is_completed_from_the_released_model(nested):
    """The library leaves out fields of nested configs that equal the defaults of their classes."""
    assert NVEmbedConfig.from_hf({"model_type": "nvembed", **nested}) == NVEmbedConfig.full_v2()
    short = {"text_config": {"rms_norm_eps": 1e-6, "num_hidden_layers": 2}}
    assert NVEmbedConfig.from_hf(short) == NVEmbedConfig(eps=1e-6, layers=2)
