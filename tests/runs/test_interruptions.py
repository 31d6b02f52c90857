"""Properties: truncation, damage and interruptions at any point do not change the numbers of the resumed run."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2t2_jax.runs.batch_files import find_records, shard_paths
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


@given(st.floats(0, 1))
def test_a_shard_truncated_at_any_byte_is_completed(whole: Path, share: float) -> None:
    with TemporaryDirectory() as directory:
        folder = Path(shutil.copytree(whole, Path(directory) / "run"))
        (shard,) = shard_paths(folder)
        records = find_records(folder)
        size = int(share * shard.stat().st_size)
        with shard.open("r+b") as file:
            file.truncate(size)
        assert find_records(folder) == {n: record for n, record in records.items() if record.end <= size}
        assert resumed(folder) == (whole / "summary.json").read_bytes()


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_shard_damaged_at_any_byte_is_repaired(whole: Path, share: float, mask: int) -> None:
    with TemporaryDirectory() as directory:
        folder = Path(shutil.copytree(whole, Path(directory) / "run"))
        (shard,) = shard_paths(folder)
        content = bytearray(shard.read_bytes())
        at = int(share * len(content))
        content[at] ^= mask
        shard.write_bytes(content)
        assert all(record.end <= at for record in find_records(folder).values())
        assert resumed(folder) == (whole / "summary.json").read_bytes()


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
                assert len(find_records(folder)) == len(computed)
        assert sorted(computed) == sorted(find_records(folder))  # no batch was computed twice
        assert resumed(folder) == (whole / "summary.json").read_bytes()
