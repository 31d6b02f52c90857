"""The tables of docs/speed.md equal `benchmarks/results/speed.json`, and its numbers are consistent."""

import io
import json
from pathlib import Path

import pytest

from benchmarks import speed_worker, startup
from benchmarks.speed import PAGE, RESULTS, devices_table, page_tables

ROOT = Path(__file__).parents[2]
TEXT = PAGE.read_text(encoding="utf-8")
RECORDED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_tables_equal_the_recorded_numbers():
    assert f"<!-- results -->\n{page_tables(RECORDED)}<!-- /results -->\n" in TEXT


def test_the_table_of_process_starts_equals_the_recorded_numbers():
    recorded = json.loads(startup.RESULTS.read_text(encoding="utf-8")) if startup.RESULTS.exists() else None
    table = "" if recorded is None else startup.page_table(recorded)
    assert f"<!-- startup -->\n{table}<!-- /startup -->\n" in TEXT


def test_the_table_of_process_starts_names_its_origin():
    row = {"seconds": 0.25, "least": 0.21, "most": 0.3, "processor_seconds": 0.24}
    origin = {"command": "c", "machine": "m", "date": "d", "repeats": 7, "load_before": 0.1}
    text = startup.page_table({**origin, "processes": {"r2t2 --help": row}})
    assert "| `r2t2 --help` | 0.25 (0.21 to 0.30) | 0.24 |" in text
    assert "`c`, n = 7 processes each, m, d; load average before 0.1." in text


@pytest.mark.parametrize("cores", [0.1, 1.5])
def test_a_busy_machine_is_reported(cores):
    assert ("do not quote" in page_tables({**RECORDED, "busy_cores_before": cores})) == (cores > 1)


def test_times_lie_between_their_quartiles():
    by_threads = RECORDED["comparison"].values()
    by_code = [by_batch for codes in by_threads for name, by_batch in codes.items() if name != "product"]
    timings = [timing for by_batch in by_code for timing in by_batch.values()]
    assert len(timings) >= 12
    for timing in timings:
        assert 0 < timing["low"] <= timing["seconds_per_sample"] <= timing["high"]


def test_the_speed_up_over_devices():
    def seconds(value):
        return {"low": value, "seconds_per_sample": value, "high": value}

    table = devices_table({"1": seconds(0.012), "2": seconds(0.008), "4": seconds(0.008)}, cores=2)
    assert "| 2 | 8 (8 to 8) | 1.50 | 75 % |" in table
    assert "| 4 | 8 (8 to 8) | 1.50 | 75 % |" in table


def test_versions_run_in_the_order_of_the_requests(monkeypatch, capsys):
    ran = []

    def make_runs(batch):
        return {name: lambda name=name: ran.append((name, batch)) for name in ("batched", "compiled")}

    monkeypatch.setattr("sys.stdin", io.StringIO("batched 8\ncompiled 8\nbatched 8\nbatched 32\n"))
    assert speed_worker.run_on_request(make_runs) == [8, 32]
    assert ran == [("batched", 8), ("compiled", 8), ("batched", 8), ("batched", 32)]
    assert all(float(line) >= 0 for line in capsys.readouterr().out.splitlines())


def test_the_first_run_is_no_part_of_the_median():
    timing = speed_worker.summary(9.0, [4.0, 2.0, 3.0], samples=2)
    assert timing == {"seconds_per_sample": 1.5, "low": 1.25, "high": 1.75, "first_call_extra_seconds": 6.0}


def test_every_named_file_exists():
    for name in ("benchmarks/accelerator.py", "tests/ports/pocket/test_torch_pocket.py"):
        assert name in TEXT
        assert (ROOT / name).exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3_vl_moe:tiny,layers=last2", "qwen3_5_moe:tiny,layers=last2"])
def test_the_script_for_accelerators_measures_tiny_models(model, tmp_path, monkeypatch):
    from benchmarks import accelerator

    for name, value in {"RESULTS": tmp_path, "RUNS": 1, "STEPS": 2, "K": 2}.items():
        monkeypatch.setattr(accelerator, name, value)
    accelerator.main(model, max_vmap_size=1, width=64, pairs=(4,), gigabytes=1e-3)
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    expected = {
        "encode", "condition a reference", "answer under given weights", "atlas", "NGD, B x K = 1 x 2", "NGD, 4 pairs",
        "losses at 16 points, 4 references",
    }  # fmt: skip
    assert expected <= set(report["programs"])
    for timing in report["programs"].values():
        assert min(timing[name] for name in ("milliseconds", "TFLOP", "of_ceiling", "of_memory_rate")) >= 0
