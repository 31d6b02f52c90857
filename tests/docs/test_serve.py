"""docs/serve.md: its numbers are the recorded ones, its limits those of the code, and its examples parse."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "serving.json"


def test_the_results_are_those_recorded() -> None:
    number = r" ([\d.]+) \|"
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = re.findall(rf"^\| `(\w+)` \|{6 * number}$", PAGE, re.MULTILINE)
    names = {"per_second": 1, "p50_ms": 1, "p99_ms": 1, "bare_per_second": 1, "ratio": 2}
    expected = [
        (row["strategy"], str(row["clients"]), *(f"{row[name]:.{digits}f}" for name, digits in names.items()))
        for row in recorded["rows"]
    ]
    assert rows == expected
    assert f"{recorded['machine']}, {recorded['date']}" in PAGE and f"n = {recorded['requests']}" in PAGE
    assert f"load of the machine was {recorded['load']} on {recorded['cores']} cores" in PAGE


def test_the_limits_are_those_of_the_code() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from r2t2_jax.serve import guard, images, schemas

    for number in (guard.MAX_BODY >> 20, images.MAX_ENCODED >> 20, guard.MAX_HEADERS >> 10):
        assert re.search(rf"\b{number} [MK]iB", PAGE)
    assert f"{images.MAX_PIXELS:,} pixels" in PAGE and images.MAX_DECODED == 1 << 30
    assert f"{schemas.MAX_PROMPT:,} characters" in PAGE and f"{guard.BODY_SECONDS:.0f} s" in PAGE
    assert all(f"`{name}`" in PAGE for name in schemas.RETURNS)


def test_the_container_runs_without_privileges_and_with_a_key() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    user = next(i for i, line in enumerate(lines) if line.startswith("USER "))
    start = next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT "))
    assert user < start and lines[user] != "USER root" and "--api-key-file" in lines[start + 1]
    assert not any(re.match(r"(ADD|RUN .*(sudo|chmod 777)) ", line) for line in lines)
