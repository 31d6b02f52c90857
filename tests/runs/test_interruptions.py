"""Properties: missing or damaged batches and interruptions at any point never change the numbers of a run."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.batch_files import read_batch, saved_batches
from r2t2_jax.runs.plan import Batch
from r2t2_jax.runs.run import Run
from tests.runs import worker

SETTINGS = {"power": 2.0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    worker.main(str(folder))
    return folder


def resumed(folder: Path) -> bytes:
    (folder / "summary.json").unlink(missing_ok=True)
    worker.main(str(folder))
    return (folder / "summary.json").read_bytes()


@given(st.sets(st.integers(0, len(worker.PLAN.batches) - 1)))
def test_missing_batches_are_computed_again(whole: Path, missing: set[int]) -> None:
    with TemporaryDirectory() as directory:
        folder = Path(shutil.copytree(whole, Path(directory) / "run"))
        for number in missing:
            saved_batches(folder)[number].unlink()
        assert resumed(folder) == (whole / "summary.json").read_bytes()


@given(st.integers(0, len(worker.PLAN.batches) - 2), st.floats(0, 1, exclude_max=True))
def test_a_truncated_batch_is_named_and_computed_again_after_its_deletion(
    whole: Path, number: int, share: float
) -> None:
    with TemporaryDirectory() as directory:
        folder = Path(shutil.copytree(whole, Path(directory) / "run"))
        path = saved_batches(folder)[number]
        with path.open("r+b") as file:
            file.truncate(int(share * path.stat().st_size))
        with pytest.raises(R2T2Error, match=f"{path.name} .* delete the file to compute its batch again"):
            resumed(folder)
        path.unlink()
        assert resumed(folder) == (whole / "summary.json").read_bytes()


def test_a_changed_value_is_detected_in_every_column(whole: Path, tmp_path: Path) -> None:
    """Pages have checksums."""
    original = saved_batches(whole)[0]
    group = pq.read_metadata(original).row_group(0)
    for i in range(group.num_columns):
        column, content = group.column(i), bytearray(original.read_bytes())
        start = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
        content[start + column.total_compressed_size - 1] ^= 1  # the last byte of the column's last page
        path = tmp_path / f"{i:05d}.parquet"
        path.write_bytes(content)
        with pytest.raises(R2T2Error, match=f"cannot read .*{path.name}"):
            read_batch(path)


@given(st.lists(st.integers(1, 6), max_size=6), st.integers(1, 3))
def test_failures_at_any_batches_lose_no_rows(whole: Path, gaps: list[int], threads: int) -> None:
    """Each process computes `gap` batches and then fails; with several threads others may still be saved."""
    computed: list[int] = []
    with TemporaryDirectory() as directory:
        folder = Path(directory) / "run"
        for gap in gaps:
            left = iter(range(gap))

            def work(batch: Batch, left: Iterator[int] = left) -> list[dict]:
                if next(left, None) is None:
                    raise ZeroDivisionError
                computed.append(batch.number)
                return worker.make_rows(batch, 2.0)

            try:
                with Run.open(folder, "work", SETTINGS, worker.PLAN) as run:
                    run.compute(work, threads=threads)
            except ZeroDivisionError:
                assert len(saved_batches(folder)) == len(computed)
        assert sorted(computed) == sorted(saved_batches(folder))  # no batch was computed twice
        assert resumed(folder) == (whole / "summary.json").read_bytes()
