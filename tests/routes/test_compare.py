"""Comparison of recordings: numbers worked out by hand, intervals, pairs, refusals, and the two pages of heat maps."""

import base64
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.reporting.expert_page import map_page
from r2t2_jax.routes.compare import bootstrap_difference
from r2t2_jax.routes.expert_map import map_experts
from r2t2_jax.routes.recording import FORMAT, RecordingFacts, SampleRoutes, routes_table
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run

FACTS = RecordingFacts(FORMAT, ("layer 0", "layer 1"), ("a", "b", "c", "d"), 2, "all", True, False, 0, {})


def sample(name, chosen, source="set", kinds=None, tokens=None):
    """A sample whose tokens choose experts `chosen` in layer 0, and experts c and d in layer 1."""
    ids = np.asarray([[pair, (2, 3)] for pair in chosen], np.int16)
    places = np.arange(len(ids))
    tokens = places if tokens is None else np.asarray(tokens)
    weights = np.broadcast_to(np.asarray([0.75, 0.25], np.float16), ids.shape)
    return SampleRoutes(name, source, "x", "", tokens, places, kinds or ["text"] * len(ids), ids, weights)


def record(folder, samples, **changes):
    facts = replace(FACTS, samples=len(samples), **changes)
    with Run.open(folder, "routes record", {}, Plan([Part("set", len(samples), 50)])) as run:
        for batch in run.missing():
            run.append(batch, routes_table(samples))
        run.finish(facts.summary())
    return folder


def compared(capsys, *words):
    assert main(["experts", "compare", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def block(page):
    """The data of a page of heat maps."""
    return json.loads(zlib.decompress(base64.b64decode(re.search(r'id="data">([^<]+)<', page)[1])))


def test_pairs_of_samples_give_the_differences_worked_out_by_hand(tmp_path, capsys):
    first = record(tmp_path / "first", [sample(str(i), [(0, 1)] * 4) for i in range(8)])
    moved = [sample(str(i), [(0, 1), (0, 1), (0, 2), (0, 2)]) for i in range(7, -1, -1)]  # in another order
    second = record(tmp_path / "second", moved)
    result = compared(capsys, first, second, "--out", tmp_path / "out", "--permutations", "400")
    assert (result["paired"], result["units"], result["left_out"]) == (True, {"all tokens": [8, 8]}, 0)
    table = pq.read_table(tmp_path / "out" / "experts.parquet").to_pylist()
    rows = {row["expert"]: row for row in table if row["layer"] == "layer 0"}
    assert [rows[e]["usage_difference"] for e in "abcd"] == [0, -0.5, 0.5, 0]
    assert (rows["b"]["usage_low"], rows["b"]["usage_high"]) == (-0.5, -0.5)  # all pairs differ alike
    np.testing.assert_allclose(rows["b"]["usage_p"], 2 / 2**8, atol=0.01)
    assert [rows[e]["weight_difference"] for e in "abcd"] == [0, -0.125, 0.125, 0]
    assert result["tested"] == {"usage": 2, "weight": 2}
    layers = {row["layer"]: row for row in result["layers"]}
    assert (layers["layer 0"]["moved"], layers["layer 1"]["moved"]) == (0.25, 0)  # a quarter of the choices
    assert 0 < layers["layer 0"]["expected"] < 0.25
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "second minus first" in page and block(page)["views"][0]["values"]["usage_difference"][1] == -5000


def test_two_sets_are_compared_as_independent_samples(tmp_path, capsys):
    rng = np.random.default_rng(0)
    draw = lambda share: [(0, 1) if rng.random() < share else (0, 2) for _ in range(10)]  # noqa: E731
    first = record(tmp_path / "first", [sample(f"p{i}", draw(0.3), "one") for i in range(20)])
    second = record(tmp_path / "second", [sample(f"q{i}", draw(0.7), "other") for i in range(30)])
    result = compared(capsys, first, second)
    assert (result["paired"], result["units"]) == (False, {"all tokens": [20, 30]})
    (b,) = (row for row in result["entries"] if (row["layer"], row["expert"]) == ("layer 0", "b"))
    assert b["usage_low"] < 0.4 < b["usage_high"] and b["usage_low"] > 0.2
    assert main(["experts", "compare", str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "all tokens: 20 and 30 samples" in printed
    assert re.search(r"  layer 0, b: 0\.\d+ to 0\.\d+, \+0\.\d+ \(\+0\.\d+ to \+0\.\d+\), q = ", printed)


def test_the_interval_is_that_of_the_standard_error():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(200, 1)), rng.normal(size=(300, 1))
    low, high = bootstrap_difference(first, second, False, rng)
    error = np.sqrt(first.var() / 200 + second.var() / 300)
    np.testing.assert_allclose(high - low, 2 * 1.96 * error, rtol=0.1)


def test_equal_prompts_pair_recordings_of_other_files_and_show_the_shared_experts(tmp_path, capsys):
    prompts = {str(i): [5, 6, 7 + i] for i in range(4)}
    first = [sample(name, [(0, 1)] * 3, "a.jsonl", tokens=ids) for name, ids in prompts.items()]
    second = [sample(name, [(0, 1), (0, 2), (0, 2)], "b.jsonl", tokens=ids) for name, ids in prompts.items()]
    second.append(sample("9", [(0, 1)], "b.jsonl"))
    result = compared(capsys, record(tmp_path / "first", first), record(tmp_path / "second", second))
    assert (result["paired"], result["left_out"]) == (True, 1)
    assert [row["overlap"] for row in result["layers"]] == [pytest.approx(4 / 6), 1]


def test_groups_that_both_have_are_compared(tmp_path, capsys):
    kinds = ["image", "image", "text"]
    first = record(tmp_path / "first", [sample(str(i), [(0, 1)] * 3, kinds=kinds) for i in range(5)])
    second = record(tmp_path / "second", [sample(str(i), [(0, 1), (0, 1), (0, 2)], kinds=kinds) for i in range(5)])
    result = compared(capsys, first, second, "--by", "modality", "--rate", "0.2")
    assert {row["group"] for row in result["entries"]} == {"text"}
    assert list(result["units"]) == ["image", "text"]


def test_recordings_of_other_models_are_refused(tmp_path, capsys):
    samples = [sample(str(i), [(0, 1)]) for i in range(3)]
    first = record(tmp_path / "first", samples)
    others = {
        "have other layers (2 from 'layer 0' on, 2 from 'mixer0' on)": {"layers": ("mixer0", "mixer1")},
        "experts of other names": {"experts": ("p", "q", "r", "s")},
        "hold other tokens (--tokens all and prompt)": {"tokens": "prompt"},
    }
    for number, (message, changes) in enumerate(others.items()):
        other = record(tmp_path / f"other{number}", samples, **changes)
        assert main(["experts", "compare", str(first), str(other), "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    longer = record(tmp_path / "longer", samples, experts=("a", "b", "c", "d", "e"))
    assert main(["experts", "compare", str(first), str(longer)]) == 0  # an imported recording ends at its largest id
    single = record(tmp_path / "single", samples[:1])
    capsys.readouterr()
    assert main(["experts", "compare", str(first), str(single)]) == 2
    assert "have no groups with two or more samples in both" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_map_page_holds_all_numbers_and_shows_the_largest_without_scripts():
    samples = [sample(str(i), [(0, 1 + i % 2)] * 4) for i in range(12)]
    samples = [replace(each, category="<x>" if i % 2 else "y") for i, each in enumerate(samples)]
    maps = map_experts(samples, FACTS, ("category",), permutations=300)
    page = map_page("Experts of <r>", maps, FACTS, 0.05, 300)
    data = block(page)
    assert [view["name"] for view in data["views"]] == ["category: <x>", "category: y"]
    assert data["views"][0]["values"]["usage"] == [10_000, 0, 10_000, 0, 0, 0, 10_000, 10_000]
    (pair,) = (row for row in data["pairs"][0] if row[0] == 0)  # experts a and c of the first layer, half more often
    assert pair[:6] == [0, 0, 2, 10_000, 10_000, 5_000] and pair[6] < 500
    assert "<h1>Experts of &lt;r&gt;</h1>" in page and "category: &lt;x&gt;" in page
    assert page.count("data:image/png") == 2 and "http" not in re.sub(r'xmlns="[^"]*"', "", page)
    assert re.search(r"<td[^>]*>b</td>|<th[^>]*>b</th>", page.replace("\n", ""))
    assert len(page) < 40_000
