"""The adapter against the original code: every mask, every given routing, gradients with respect to it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.bert import Bert, bert_leaves
from ports.common.layers.stack import traced_keys
from ports.mova.adapter.adapter import Adapter, adapter_leaves
from r2t2_jax.routing import Routing
from tests.goldens import find_goldens
from tests.ports.mova.recorded import FEATURES, GRADIENTS, Recorded, adapter_config, bert_config, filled, run

MASKS = ("all", "some", "one", "none", "batch2")


def close(ours, theirs, atol=FEATURES, rtol=0.0):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


@cache
def read(path):
    """The golden, and adapter and text encoder with its weights."""
    golden = Recorded(path)
    config = adapter_config(golden.config)
    words = golden["w/text_encoder.bert.embeddings.word_embeddings.weight"]
    bert = bert_config(golden.config["bert"], len(words))
    leaves = adapter_leaves("adapter", "", config) | bert_leaves("bert", "text_encoder.bert.", bert)

    def make():
        return nnx.Dict(adapter=Adapter(config, traced_keys(0)), bert=Bert(bert, traced_keys(0)))

    return golden, filled(make, leaves, golden)


def experts_of(config, x):
    """Upstream's concatenation of channels: the base, then the experts."""
    edges = np.cumsum([config.width, *config.expert_widths])[:-1]
    base, *experts = jnp.split(x, edges, axis=-1)
    return base, experts


def forward(net, x, mask, ids, attention, routing):
    """Everything that is recorded of one sample."""
    adapter = net["adapter"]
    base, experts = experts_of(adapter.config, x)
    hidden = net["bert"](ids, attention > 0)
    facts = adapter.encode(base, experts, hidden[0], mask > 0, mask > 0, "outputs")
    states, weights = adapter.run_blocks(facts, routing)
    start = base + adapter.position_embedding[...]
    return {
        "bert_last_hidden": hidden,
        "text_feat": hidden[0],
        "router_logits": jnp.stack(
            [b.gate(hidden[0], before) for b, before in zip(adapter.blocks, [start, *states[:-1]], strict=True)]
        ),
        "weights_topk_renorm": weights,
        "block_out": states,
        "xattn": jnp.stack(
            [
                block.cross_attend(before, *block.project_experts(experts))
                for block, before in zip(adapter.blocks, [start, *states[:-1]], strict=True)
            ]
        ),
        "pre_downsample": (states[-1] + base) / 2,
        "post_downsample": adapter.downsample.shrink((states[-1] + base) / 2),
        "final": adapter.image_tokens(base, states[-1]),
        "without_experts": adapter.without_experts(base),
    }


@pytest.mark.parametrize("path", find_goldens("golden_mova_adapter_*.npz"))
def test_the_gates_own_weights(path):
    golden, net = read(path)
    cases = [name for name in MASKS if f"{name}/in/x_concat" in golden.arrays]
    names = ("x_concat", "routing_mask", "input_ids", "attention_mask")
    arrays = [[golden[f"{case}/in/{name}"] for case in cases] for name in names]
    longest = max(ids.shape[1] for ids in arrays[2])
    arrays[2:] = [[np.pad(ids, ((0, 0), (0, longest - ids.shape[1]))) for ids in part] for part in arrays[2:]]
    everything = run(net, lambda *args: forward(*args, None), *map(np.concatenate, arrays))
    edges = np.cumsum([0, *(len(mask) for mask in arrays[1])])
    for number, case in enumerate(cases):
        ours = {name: rows[edges[number] : edges[number + 1]] for name, rows in everything.items()}
        theirs = {name: golden[f"{case}/out/{name}"] for name in ("text_feat", "block_out", "final")}
        close(ours["text_feat"], theirs["text_feat"])
        hidden, valid = golden[f"{case}/out/bert_last_hidden"], golden[f"{case}/in/attention_mask"] > 0
        close(ours["bert_last_hidden"][:, : hidden.shape[1]][valid], hidden[valid])
        close(ours["block_out"].swapaxes(0, 1), theirs["block_out"])
        close(ours["final"], theirs["final"])
        for name in ("pre_downsample", "post_downsample"):
            mapped = golden[f"{case}/out/{name}_nchw"]
            close(ours[name].swapaxes(1, 2).reshape(mapped.shape), mapped)
        if golden[f"{case}/in/routing_mask"].any():
            close(ours["router_logits"].swapaxes(0, 1), golden[f"{case}/out/router_logits"])
            close(ours["weights_topk_renorm"].swapaxes(0, 1), golden[f"{case}/out/weights_topk_renorm"])
        else:
            close(ours["without_experts"], theirs["block_out"][-1])
        for name in golden.arrays:
            if name.startswith(f"{case}/out/xattn_"):
                block, expert = (int("".join(filter(str.isdigit, part))) for part in name.split("_")[1:])
                close(ours["xattn"][:, block, expert], golden[name])


@pytest.mark.parametrize("path", find_goldens("golden_mova_adapter_*.npz"))
def test_given_weights(path):
    golden, net = read(path)
    x, ids, attention = (golden[f"explicit/in/{name}"] for name in ("x_concat", "input_ids", "attention_mask"))
    cases = sorted({name.split("/")[1] for name in golden.arrays if name.startswith("explicit/") and "/in/r" in name})
    assert cases
    arrays = [golden[f"explicit/{case}/in/r"] for case in cases]
    blocks = golden.config["num_layers"]
    r = np.stack([np.broadcast_to(value, (blocks, value.shape[-1])) for value in arrays])
    masks = np.concatenate([golden[f"explicit/{case}/in/routing_mask"] for case in cases])
    cotangent = golden["explicit/in/cotangent"][0]

    def differentiate(net, r, mask):
        def loss(r):
            facts = forward(net, x[0], mask, ids[0], attention[0], Routing(r))
            return (facts["final"] * cotangent).sum(), facts

        (value, facts), gradient = jax.value_and_grad(loss, has_aux=True)(r)
        return value, facts["block_out"], facts["final"], gradient

    value, block_out, final, gradient = run(net, differentiate, r, masks)
    for row, case in enumerate(cases):
        close(block_out[row][:, None], golden[f"explicit/{case}/out/block_out"])
        close(final[row][None], golden[f"explicit/{case}/out/final"])
        theirs = golden[f"explicit/{case}/out/grad_r"]
        ours = gradient[row] if theirs.ndim == 2 else gradient[row].sum(axis=0)  # one row for all blocks
        close(ours, theirs, GRADIENTS, 1e-5)
        close(value[row][None], golden[f"explicit/{case}/out/loss"], GRADIENTS, 1e-5)
        assert (gradient[row][:, masks[row] == 0] == 0).all()
