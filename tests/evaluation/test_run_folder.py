"""The run's folder appears whole or not at all."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.run_folder import check_folder, write_folder

ROWS = [{"id": "1", "path": [[0.5, 0.5], [0.25, 0.75]]}, {"id": "2", "path": [[1.0, 0.0]]}]


def test_what_is_written_reads_back_and_replaces_an_earlier_run(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    for n in (1, 2):
        check_folder(out)
        write_folder(out, {"seed": 3}, ROWS, {"n": n})
    assert sorted(path.name for path in out.iterdir()) == ["rows.parquet", "run.json", "summary.json"]
    assert json.loads((out / "summary.json").read_text()) == {"n": 2}
    assert json.loads((out / "run.json").read_text()) == {"seed": 3}
    assert pq.read_table(out / "rows.parquet").to_pylist() == ROWS
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_a_failure_leaves_nothing_and_keeps_the_earlier_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_folder(out, {}, ROWS, {"accuracy": float("nan")})
    assert list(tmp_path.iterdir()) == []
    write_folder(out, {}, ROWS, {"n": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_folder(out, {}, ROWS, {"accuracy": float("nan")})
    assert json.loads((out / "summary.json").read_text()) == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(R2T2Error, match=f"cannot write {out}"):
            check_folder(out)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(R2T2Error, match=r"holds 'chapter\.tex', which is no part of a run"):
        check_folder(tmp_path / "thesis")
