"""The tables of docs/sparse.md equal `benchmarks/results/sparse.json`, which was measured on the shipped weights."""

import json

from benchmarks.sparse import PAGE, RESULTS, page
from ports.pocket.sparse import read_sparse

RECORDED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_has_the_recorded_tables_of_the_shipped_weights():
    assert f"<!-- results -->\n{page(RECORDED)}<!-- /results -->\n" in PAGE.read_text(encoding="utf-8")
    assert RECORDED["weights"].startswith(f"pocket:sparse@{read_sparse().fingerprint}")
    assert all(row["n"] >= 100 for name in ("fixed", "tuning") for row in RECORDED[name])
