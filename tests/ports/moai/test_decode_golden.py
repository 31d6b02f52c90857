"""Greedy decoding against recorded tokens and logits: cached, without cache, and in a left-padded batch.

Axis letters: B recorded rows, A steps, V vocabulary.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.moai.generate import greedy_search, run_tokens
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.goldens import find_goldens
from tests.ports.moai.goldens import padded, read_golden, stacked, text_inputs

LOGITS = 1e-4


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@partial(quick_jit, static_argnums=0)
def encode(graph, params, items):
    def per_sample(item):
        net = nnx.merge(graph, params)
        inputs, pixels, auxiliary = item
        latents = net.compressor(auxiliary, jnp.ones(auxiliary.shape[0], bool))
        return net.encode_prompt(net.vision.encode_pixels(pixels), latents, inputs)

    return jax.lax.map(per_sample, items)


@partial(quick_jit, static_argnums=(0, 4))
def decode(graph, params, features, routing, steps):
    """Greedy tokens [B, A], and the logits [B, A, V] at each, from one pass over the tokens chosen."""

    def per_sample(item):
        features, routing = item
        net = nnx.merge(graph, params)
        x, cache, _ = net.prefill(features, routing)
        tokens = greedy_search(net, net.logits(x)[0], cache, features.layout, steps)
        after = run_tokens(net, tokens[:-1], features.layout.length, cache, features.layout.valid)
        return tokens, net.logits(jnp.concatenate([x, after]))

    return jax.lax.map(per_sample, (features, routing))


@partial(quick_jit, static_argnums=0)
def all_logits(graph, params, features, routing):
    def per_sample(item):
        net = nnx.merge(graph, params)
        x, _, _ = net.prefill(*item, every_row=True)
        return net.logits(x)

    return jax.lax.map(per_sample, (features, routing))


@pytest.mark.parametrize("path", find_goldens("golden_moai_tiny_*_decode.npz"))
def test_golden_decoding_gives_the_recorded_tokens(path):
    with np.load(path) as file:
        recorded = {name: file[name] for name in file.files}
    golden = read_golden(path.with_name(path.name.replace("_decode", "")))
    graph, params = nnx.split(golden.net(remat="none"))
    groups = sorted({name.split("/")[1] for name in recorded if name.startswith("in/")})
    rows = [(group, row) for group in groups for row in range(len(recorded[f"in/{group}/input_ids"]))]
    names = sorted({name.split("/")[0] for name in recorded} - {"in"})
    steps = recorded[f"{names[0]}/{groups[0]}/tokens_cache"].shape[1]
    length = max(recorded[f"in/{group}/input_ids"].shape[1] for group in groups) - 1

    def items(tail):
        """Inputs with `tail(group, row)` = (tokens, whether mixers process them) after the prompt."""
        batch = []
        for group, row in rows:
            arrays = {
                k.removeprefix(f"in/{group}/"): v[row] for k, v in recorded.items() if k.startswith(f"in/{group}/")
            }
            tokens, mixed = tail(group, row)
            tokens = np.asarray(tokens, int)
            inputs = text_inputs(
                golden.config,
                np.append(arrays["input_ids"], tokens),
                np.append(arrays["attention_mask"], np.ones(len(tokens), int)),
                np.append(arrays["lang_mask"], np.full(len(tokens), mixed)),
            )
            inputs = padded(inputs, length + len(tokens), 1)
            batch.append((inputs, jnp.asarray(arrays["pixel_values"].transpose(1, 2, 0)), arrays["aux_embeds"]))
        longest = max(len(auxiliary) for _, _, auxiliary in batch)
        assert all(len(auxiliary) == longest for _, _, auxiliary in batch)
        return stacked(batch)

    prompts = encode(graph, params, items(lambda group, row: ([], False)))
    for name in names:
        values = recorded.get(f"{name}/r")
        shape = (len(rows), golden.config.mixers, 6)
        routing = None if values is None else Routing(jnp.broadcast_to(jnp.asarray(values), shape))
        tokens, logits = decode(graph, params, prompts, routing, steps)
        uncached = encode(
            graph, params, items(lambda g, r, name=name: (recorded[f"{name}/{g}/tokens_nocache"][r], False))
        )
        uncached = all_logits(graph, params, uncached, routing)
        for i, (group, row) in enumerate(rows):
            for kind in ("cache", "nocache", "generate"):
                expected = recorded.get(f"{name}/{group}/tokens_{kind}")
                if expected is not None:
                    ended = np.cumsum(np.isin(expected[row], golden.config.stop_ids))
                    in_answer = ended - np.isin(expected[row], golden.config.stop_ids) == 0
                    np.testing.assert_array_equal(np.asarray(tokens[i])[in_answer], expected[row][in_answer])
            np.testing.assert_allclose(
                logits[i][in_answer], recorded[f"{name}/{group}/logits_cache"][row][in_answer], rtol=0, atol=LOGITS
            )
            expected = recorded[f"{name}/{group}/logits_nocache"][row]
            np.testing.assert_allclose(uncached[i][-steps - 1 : -1], expected, rtol=0, atol=LOGITS)
        mixed = encode(
            graph, params, items(lambda g, r, name=name: (recorded[f"{name}/{g}/tokens_growlang"][r][:-1], True))
        )
        mixed = all_logits(graph, params, mixed, routing)
        for i, (group, row) in enumerate(rows):
            expected = recorded[f"{name}/{group}/logits_growlang"][row][-1]
            np.testing.assert_allclose(mixed[i][-1], expected, rtol=0, atol=LOGITS)
