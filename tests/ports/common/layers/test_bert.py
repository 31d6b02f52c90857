"""The BERT encoder against transformers."""

import jax
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.bert import Bert, BertConfig, bert_leaves
from tests.ports.common.torch_weights import filled, tensors_of

CONFIG = BertConfig(width=24, layers=2, heads=3, hidden=40, vocab_size=50, positions=16)


def test_states_equal_transformers_with_and_without_padding():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
            max_position_embeddings=16,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    tensors = tensors_of(theirs)
    ours = filled(lambda: nnx.Dict(bert=Bert(CONFIG, nnx.Rngs(0))), bert_leaves("bert", "", CONFIG), tensors)["bert"]
    tokens = np.random.default_rng(0).integers(0, 50, (2, 9))
    mask = np.arange(9)[None] < np.array([[9], [5]])
    with torch.no_grad():
        states = theirs(torch.tensor(tokens), torch.tensor(mask.astype(int)), output_hidden_states=True).hidden_states
    run = jax.jit(ours.states)
    for row in range(2):
        real = mask[row]
        _, blocks = run(tokens[row], real)
        np.testing.assert_allclose(ours.embed(tokens[row])[real], states[0][row].numpy()[real], atol=1e-5)
        np.testing.assert_allclose(blocks[0][real], states[1][row].numpy()[real], atol=2e-5)
        np.testing.assert_allclose(blocks[1][real], states[2][row].numpy()[real], atol=2e-5)
