"""Expert maps: numbers worked out by hand, differences that exist, and none where labels mean nothing."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.expert_map import map_experts, permutation_test
from r2t2_jax.routes.recording import FORMAT, RecordingFacts, SampleRoutes
from r2t2_jax.routes.show import map_lines, write_map

FACTS = RecordingFacts(FORMAT, ("layer 0",), ("a", "b", "c", "d"), 2, "all", True, False, 2, {})


def sample(name, category, ids, kinds=None, weights=(0.75, 0.25)):
    ids = np.asarray(ids, np.int16)[:, None]  # [T, 1, 2]
    kinds = kinds or ["text"] * len(ids)
    spread = np.broadcast_to(np.asarray(weights, np.float16), ids.shape)
    places = np.arange(len(ids))
    return SampleRoutes(name, "set", category, "", places, places, kinds, ids, spread)


def entry(factor_map, group, expert):
    (row,) = (row for row in factor_map.entries if (row["group"], row["expert"]) == (group, expert))
    return row


def test_usage_weight_and_pairs_are_those_worked_out_by_hand():
    samples = [
        sample("1", "color", [(0, 1), (0, 2), (-1, -1)]),  # the last token has no route
        sample("2", "shape", [(1, 0), (3, 0), (3, 0), (3, 0)]),
    ]
    (by_category,) = map_experts(samples, FACTS, ("category",), permutations=50)
    color, shape = (entry(by_category, group, "a") for group in ("color", "shape"))
    assert (color["usage"], color["weight"], color["units"], color["tokens"]) == (1, 0.75, 1, 2)
    assert (shape["usage"], shape["weight"], shape["tokens"]) == (1, 0.25, 4)
    assert color["usage_difference"] == 0 and color["usage_q"] == 1  # serves both groups alike: no difference
    assert color["weight_difference"] == 0.25 and shape["weight_difference"] == -0.25
    assert entry(by_category, "shape", "d")["usage"] == 0.75
    assert by_category.tested == {"usage": 2 * 3, "weight": 2 * 4}
    pair = by_category.pairs[-2:]
    assert [(row["expert"], row["other"], row["share"]) for row in pair] == [("a", "d", 0.75), ("a", "b", 0.25)]
    assert pair[0]["lift"] == 1  # expert a serves every token
    assert [row["share_difference"] for row in pair] == [0.375, -0.125]  # shares 0 and 0.75, 0.5 and 0.25


def test_pairs_that_serve_one_group_together_are_found_and_others_are_not():
    samples = [sample(str(i), "xy"[i % 2], [(0, 1), (2, 3)] if i % 2 else [(0, 2), (1, 3)]) for i in range(12)]
    (by_category,) = map_experts(iter(samples), FACTS, ("category",), permutations=400)
    assert by_category.tested["usage"] == 0  # all experts serve half of all tokens
    assert {(row["group"], row["expert"] + row["other"]) for row in by_category.pairs} == {
        ("x", "ac"), ("x", "bd"), ("y", "ab"), ("y", "cd")
    }  # fmt: skip
    for row in by_category.pairs:
        assert (row["share"], row["share_difference"]) == (0.5, 0.25)
        assert row["share_p"] <= row["share_q"] <= 0.05
    together = [sample(str(i), "xy"[i % 2], [(0, 1), (2, 3)]) for i in range(12)]
    (alike,) = map_experts(together, FACTS, ("category",), permutations=20)
    assert {(row["share_difference"], row["share_q"]) for row in alike.pairs} == {(0, 1)}


def test_the_smallest_p_value_is_that_of_all_orders():
    values, labels = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 0, 1, 1])
    difference, p = permutation_test(values, labels, None, 3000, np.random.default_rng(0))
    np.testing.assert_allclose(difference, [[-0.5], [0.5]])
    np.testing.assert_allclose(p, 2 / 6, atol=0.03)  # two of six orders are as extreme


def test_modalities_are_compared_within_samples():
    labels, strata = np.tile([0, 1], 8), np.repeat(np.arange(8), 2)
    values = 10.0 * strata[:, None] + labels[:, None]  # samples differ much, modalities by one in each
    difference, p = permutation_test(values, labels, strata, 2000, np.random.default_rng(0))
    np.testing.assert_allclose(difference, [[-0.5], [0.5]])
    np.testing.assert_allclose(p, 2 / 2**8, atol=0.006)
    _, pooled = permutation_test(values, labels, None, 500, np.random.default_rng(0))
    assert (pooled > 0.5).all()


def test_a_map_by_modality_compares_the_tokens_of_each_sample():
    samples = []
    for i in range(8):  # the share of expert a is i / 10 in text and one tenth more in images
        ids = [(0 if place < i + image else 1, 2) for image in (0, 1) for place in range(10)]
        samples.append(sample(str(i), "", ids, ["text"] * 10 + ["image"] * 10))
    (by_modality,) = map_experts(samples, FACTS, ("modality",), permutations=2000)
    image = entry(by_modality, "image", "a")
    np.testing.assert_allclose((image["usage_difference"], image["usage_p"]), (0.05, 2 / 2**8), atol=0.006)


def test_q_values_are_those_of_benjamini_and_hochberg():
    (drawn_map,) = map_experts(drawn(np.random.default_rng(2), 0.05), FACTS, ("category",), permutations=200)
    p, q = (np.array([row[f"usage_{name}"] for row in drawn_map.entries]) for name in "pq")
    order = np.argsort(p)
    by_rank = p[order] * len(p) / np.arange(1, len(p) + 1)
    np.testing.assert_allclose(q[order], np.minimum(1, np.minimum.accumulate(by_rank[::-1])[::-1]))
    assert (q > p).any()


def drawn(rng, effect):
    samples = []
    for i in range(40):
        category = "xy"[i % 2]
        chances = np.array([0.4, 0.2, 0.2, 0.2]) + (effect if category == "x" else -effect) * np.array([0, 1, -1, 0])
        samples.append(sample(str(i), category, [rng.choice(4, 2, replace=False, p=chances) for _ in range(12)]))
    return samples


def test_a_specialist_is_reported_and_labels_without_meaning_are_not():
    rng = np.random.default_rng(1)
    (effect,) = map_experts(drawn(rng, 0.15), FACTS, ("category",), permutations=400)
    significant = {(row["group"], row["expert"]) for row in effect.entries if row["usage_q"] <= 0.05}
    assert significant == {("x", "b"), ("x", "c"), ("y", "b"), ("y", "c")}
    assert entry(effect, "x", "b")["usage_difference"] > 0 > entry(effect, "x", "c")["usage_difference"]
    (line, *details) = map_lines(effect, 400, 0.05)
    assert line.startswith("category, usage: 4 of 8 differences have q <= 0.05")
    assert any("layer 0, b: usage" in detail for detail in details)
    false = [map_experts(drawn(rng, 0.0), FACTS, ("category",), permutations=100)[0].significant for _ in range(20)]
    assert sum(each["usage"] > 0 for each in false) <= 4


def test_a_rate_of_zero_is_refused(tmp_path, capsys):
    assert main(["experts", "map", str(tmp_path), "--rate", "0", "--out", str(tmp_path / "map")]) == 2
    assert capsys.readouterr().err.strip() == "r2t2: --rate 0.0: it must be above 0"


def test_factors_with_one_group_are_left_out_or_refused(tmp_path, capsys):
    samples = [sample(str(i), "xy"[i % 2], [(0, 1), (2, 3)], ["text", "answer"]) for i in range(6)]
    maps = map_experts(samples, FACTS, (), permutations=20)
    assert [each.factor for each in maps] == ["category", "modality"]
    with pytest.raises(R2T2Error, match="--by source: all recorded tokens have the source 'set'; a map compares"):
        map_experts(samples, FACTS, ("source",))
    with pytest.raises(R2T2Error, match=r"all recorded tokens have one category, one .*; a map compares at least two"):
        map_experts([sample("0", "x", [(0, 1), (2, 3)], ["text", "text"])], FACTS, ())
    write_map(tmp_path / "map", maps)
    table = pq.read_table(tmp_path / "map" / "experts.parquet")
    assert len(table) == 2 * 4 + 2 * 4
    with (tmp_path / "map" / "experts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["expert"] for row in rows] == table["expert"].to_pylist()
    (tmp_path / "map" / "notes.txt").write_text("mine")
    with pytest.raises(R2T2Error, match=r"holds 'notes.txt', which is not part of an expert map"):
        write_map(tmp_path / "map", maps)
    for command in (["map", "no recording"], ["compare", "no recording", "other"]):  # before a recording is read
        assert main(["experts", *command, "--out", str(tmp_path / "map")]) == 2
        assert "which is not part of" in capsys.readouterr().err
