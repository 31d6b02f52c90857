"""The audit of alternative routes: draws, scores against a plain forward pass, planted effects, and what is printed."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ports.common.layers.moe import select
from ports.common.layers.moe_decoder import abstract
from ports.common.layers.routed_experts import RoutedRows
from ports.common.moe_lm.config import RoutingScope
from ports.common.moe_lm.features import LMAnswer, Prompt
from ports.common.moe_lm.model import RoutedLM
from ports.common.moe_lm.routes import alternative_experts
from ports.olmoe.config import tiny
from r2t2_jax.analysis.counterfactual import (
    Places,
    alternative_weights,
    audit_port,
    permuted_targets,
    summarize_places,
)
from r2t2_jax.cli.main import main
from r2t2_jax.evaluation import setup as opening
from r2t2_jax.reporting.diagnosis import audit_text, diagnosis_page
from r2t2_jax.routing import RoutingSpec
from tests.toy_port import make_samples, toy


def language_model(scope="last_prompt"):
    """A language model of two layers with random weights, and a prompt of five tokens behind one of padding."""
    config = replace(tiny(), layers=2)
    graph, shapes = abstract(config)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = jax.tree.map(lambda leaf: 0.3 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), shapes)
    model = RoutedLM(config, RoutingScope((0, 1), scope, config.experts), (1,), graph)
    mask = jnp.arange(6) > 0
    positions = jnp.broadcast_to(jnp.maximum(jnp.arange(6) - 1, 0), (3, 6))
    prompt = Prompt(jnp.asarray([0, 5, 6, 7, 8, 9]), mask, positions, jnp.zeros(6, bool), jnp.asarray(5))
    return model, params, prompt, LMAnswer(jnp.asarray([3, 4, 1]), jnp.ones(3, bool))


def test_drawn_sets_have_k_experts_and_differ_from_the_routers():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 6)) * [[[1]], [[30]], [[1]]], jnp.float32)
    choice = jax.vmap(lambda row: select(row, 2, True))(logits)  # the second router is sure
    drawn = np.asarray(alternative_experts(jax.random.key(1), choice, 50))
    assert drawn.shape == (3, 50, 2)
    for layer in range(3):
        sets = {frozenset(row.tolist()) for row in drawn[layer]}
        assert all(len(each) == 2 for each in sets)
        assert frozenset(np.asarray(choice.ids[layer, 0]).tolist()) not in sets
    best = np.argsort(-np.asarray(logits[1, 0]))
    assert {frozenset(row.tolist()) for row in drawn[1]} == {frozenset((int(best[0]), int(best[2])))}


@pytest.mark.slow  # compiles two whole models
def test_scores_are_those_of_a_plain_forward_pass_with_one_route_imposed():
    model, params, prompt, answer = language_model()
    targets = jnp.asarray([[3, 10], [4, 11], [1, 12]])
    key, alternatives = jax.random.key(3), 3
    scores = jax.jit(model.alternative_logprobs, static_argnums=5)(params, prompt, answer, targets, key, alternatives)
    net, k = model.decoder(params), model.config.top_k
    x = net.embed(jnp.concatenate([prompt.tokens, answer.tokens[:-1]]))
    positions = jnp.concatenate([prompt.positions, jnp.asarray([[5, 6]] * 3)], axis=1)
    valid = jnp.concatenate([prompt.mask, jnp.ones(2, bool)])

    @jax.jit
    def logprobs(ids):
        routed = RoutedRows(ids, None, "select", (0, 1), len(x))
        states, out = net.run(x, positions, valid, routed=routed)
        return jax.nn.log_softmax(net.logits(states)), out.choice

    free = jnp.full((2, len(x), k), -1)
    own, choice = logprobs(free)
    keys = jax.random.split(key, 3)
    for place in range(3):
        row = 5 + place
        np.testing.assert_allclose(scores.own[place], own[row][targets[place]], atol=2e-5)
        assert scores.own_token[place] == own[row].argmax()
        drawn = alternative_experts(keys[place], jax.tree.map(lambda leaf, row=row: leaf[:, row : row + 1], choice), 3)
        for layer in range(2):
            for m in range(alternatives):
                imposed, _ = logprobs(free.at[layer, row].set(drawn[layer, m]))
                expected = imposed[row][targets[place]]
                np.testing.assert_allclose(scores.alternatives[place, layer, m], expected, atol=2e-5)
                assert scores.tokens[place, layer, m] == imposed[row].argmax()


def test_alternative_weights_mix_the_same_experts_and_groups_keep_their_sums():
    spec = RoutingSpec(("a", "b", "c", "d", "e"), 2, groups=((0, 1, 2), (3, 4)))
    weights = jnp.asarray([[0.5, 0.3, 0.2, 0.6, 0.4], [0.5, 0.5, 0.0, 1.0, 0.0]])
    drawn = np.asarray(alternative_weights(spec, weights, jnp.ones((2, 5), bool), jax.random.key(0), 20))
    assert drawn.shape == (2, 20, 5)
    np.testing.assert_allclose(drawn[..., :3].sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(drawn[..., 3:].sum(-1), 1, atol=1e-6)
    assert ((drawn == 0) == np.broadcast_to((np.asarray(weights) == 0)[:, None], drawn.shape)).all()
    assert np.ptp(drawn[0, :, 0]) > 0.3
    np.testing.assert_array_equal(drawn[1, :, 3], 1)  # a single expert has no alternative


def places(rng, effect, questions=60, targets=9):
    """Two places of each question, of which one is fragile; in layer 1 alternatives favor true targets by `effect`."""
    count = 2 * questions
    wins = rng.binomial(8, 0.5, size=(count, 3, targets)) / 8
    wins[:, 1, 0] = rng.binomial(8, 0.5 + effect, size=count) / 8
    fragile = np.arange(count) % 2 == 0
    valid = rng.random((count, targets)) < 0.8
    valid[:, :2] = True
    return Places(np.repeat(np.arange(questions), 2), wins, wins > 0.9, valid, fragile, fragile)


def test_a_planted_layer_is_reported_and_layers_without_an_effect_are_not():
    rng = np.random.default_rng(0)
    layers = ("first", "second", "third")
    audit = summarize_places(places(rng, 0.2), layers, "token", 8, rng)
    assert (audit.verdict, [each.layer for each in audit.helping]) == ("better", ["second"])
    assert (audit.places, audit.fragile, audit.questions) == (120, 60, 60)
    second = audit.layers[1]
    np.testing.assert_allclose((second.share, second.permuted), (0.7, 0.5), atol=0.06)
    assert second.excess.low < 0.2 < second.excess.high
    false = [summarize_places(places(rng, 0), layers, "token", 8, rng).verdict for _ in range(20)]
    assert false.count("better") <= 4
    text = audit_text(audit)
    assert "Better routes exist in 1 of 3 layers (second)" in text
    assert max(map(len, text.splitlines())) <= 80
    few = summarize_places(places(rng, 0.2, questions=5), layers, "token", 8, rng)
    assert few.verdict == "few" and "5 questions with a fragile token are too few" in audit_text(few)
    page = diagnosis_page("a model", None, audit)
    assert "<h1>a model</h1>" in page and "second" in page


def test_permuted_targets_have_another_label_of_the_category():
    samples = [replace(each, category="xxyyz"[i]) for i, each in enumerate(make_samples(5, seed=0, hinted=0))]
    labels = ["a", "b", "a", "a", "c"]
    chosen = permuted_targets(samples, labels, np.arange(5), np.random.default_rng(0))
    assert set(chosen[0]) == {1} and set(chosen[1]) == {0}
    assert set(chosen[2]) <= {1, 4}  # no other label in its category
    assert set(chosen[4]) <= {0, 1, 2, 3}


def test_diagnose_prints_writes_and_judges_the_audit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "load", lambda _: toy())
    monkeypatch.setattr(opening, "load_dataset", lambda _, split, n=None, seed=0: make_samples(n, seed, hinted=0.1))
    out, html = tmp_path / "audit.json", tmp_path / "audit.html"
    options = ["diagnose", "--model", "toy", "--data", "narrow", "--limit", "40", "--audit-only"]
    code = main([*options, "--out", str(out), "--html", str(html)])
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert code == (0 if record["audit"]["verdict"] == "better" else 1)
    assert printed.startswith("toy on narrow: 40 questions\n\nAudit of alternative routes: 8 of equal compute")
    assert record["audit"]["unit"] == "answer" and "verdict" not in record
    assert len(record["audit"]["layers"]) == len(toy().model.spec.layer_names)
    assert "Alternative routes" in html.read_text()
    assert main([*options, "--bank", str(tmp_path)]) == 2
    assert "--audit-only needs alternatives and no references: leave out --bank" in capsys.readouterr().err
    assert main([*options, "--alternatives", "0"]) == 2
    assert "leave out --alternatives 0" in capsys.readouterr().err
    for unused in (["--preset", "paper"], ["--metric", "vqa"], ["--beams", "3"], ["--allow-leakage"]):
        assert main([*options, *unused]) == 2
        assert f"leave out {unused[0]}\n" in capsys.readouterr().err


def test_a_model_that_uses_all_experts_has_no_alternatives():
    model, *_ = language_model()
    dense = replace(model, config=replace(model.config, top_k=model.config.experts))
    audit = audit_port(replace(toy(), name="dense", model=dense), [])
    assert "uses all" in audit.missing and audit.to_record() == {"missing": audit.missing}
    text = " ".join(audit_text(audit).split())
    assert text == f"No audit of alternative routes: {audit.missing}."


@pytest.mark.slow
def test_re_routing_is_seen_to_help_the_model_that_it_helps():
    from r2t2_jax.evaluation.setup import open_question_sets
    from r2t2_jax.plugins import load

    samples, _ = open_question_sets(("pocket",), None, 100, 0, "")
    assert audit_port(load("pocket:narrow"), samples).verdict == "better"
    sparse = audit_port(load("pocket:sparse"), samples)
    assert (sparse.verdict, sparse.unit, len(sparse.layers)) == ("none", "token", 4)
