"""docs/rivals.md names every rival and its file, and its table equals the recorded numbers."""

import json
import re
from pathlib import Path

from benchmarks.rivals import PAGE, RESULTS, page_table
from r2t2_jax.methods import BASELINES
from r2t2_jax.rivals.table import RIVALS

ROOT = Path(__file__).parents[2]
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_rival_is_named() -> None:
    assert not [name for name in (*RIVALS, *BASELINES) if f"`{name}`" not in TEXT]


def test_every_named_file_exists() -> None:
    files = re.findall(r"`((?:rivals|method)/[\w/]+\.py)`", TEXT)
    assert len(files) > 10
    assert not [name for name in files if not (ROOT / "r2t2_jax" / name).exists()]


def test_the_papers_of_the_rivals_are_cited() -> None:
    papers = {*re.findall(r"\b\d{4}\.\d{5}\b", TEXT), "2502.20395", "2504.07964"}
    cited = re.findall(r"arXiv:([\d.]+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert len(papers) > 18 and papers <= {*cited} and len({*cited}) == len(cited)


def test_the_table_equals_the_recorded_numbers() -> None:
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert f"<!-- results -->\n{page_table(recorded)}<!-- /results -->\n" in TEXT
    for gate in recorded["gates"].values():
        assert gate["n"] >= 300
        assert set(RIVALS) <= set(gate["strategies"])
        assert {*gate["strategies"], *gate["refused"]} >= set(BASELINES)
