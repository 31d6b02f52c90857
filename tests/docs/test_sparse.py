"""The tables of docs/sparse.md equal `benchmarks/results/sparse.json`, which was measured on the shipped weights."""

import json
import re
from types import SimpleNamespace

import pytest

from benchmarks.sparse import PAGE, RESULTS, check_model, page
from ports.pocket.sparse import read_sparse
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import PAPER
from r2t2_jax.methods import find_preset, method_of, preset_of

ROOT = PAGE.parents[1]
INTERVAL = re.compile(r"[+−]?\d[\d.]* \([+−]?[\d.]+ to [+−]?[\d.]+\)")
RECORDED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_has_the_recorded_tables_of_the_shipped_weights():
    assert f"<!-- results -->\n{page(RECORDED)}<!-- /results -->\n" in PAGE.read_text(encoding="utf-8")
    assert RECORDED["weights"] == read_sparse().fingerprint
    names = {table["table"] for run in RECORDED["runs"] for table in run["tables"]}
    assert names == {f"c3po_{name}" for name in ("methods", "atlas", "layers", "core", "references", "scope")}


def test_the_intervals_in_the_findings_and_in_the_readme_are_those_of_the_page():
    section = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8").partition("## On a trained sparse model\n")[2]
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- /results -->\n")[2]
    text = section.partition("\n## ")[0] + readme.partition("\n## ")[0]
    intervals = INTERVAL.findall(" ".join(text.split()))
    recorded = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert len(intervals) > 10
    assert not [each for each in intervals if each not in recorded]


def test_the_shipped_settings_are_those_chosen_on_validation_questions():
    shipped = find_preset("pocket", read_sparse().presets)
    chosen = preset_of(RECORDED["tuning"]["settings"], base=PAPER)
    assert method_of("ngd", shipped) == method_of("ngd", chosen) != method_of("ngd", PAPER)
    assert RECORDED["tuning"]["base"]["n"] >= 100


def test_a_run_of_other_weights_is_refused():
    run = SimpleNamespace(folder="out/old")
    check_model(f"pocket:sparse@{read_sparse().fingerprint}:float32", run)
    with pytest.raises(R2T2Error, match="out/old is a run of pocket:sparse@00000000"):
        check_model("pocket:sparse@00000000:float32", run)
