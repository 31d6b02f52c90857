"""The examples of docs/runs.md run."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "runs.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    match = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert match, marker
    return match[1]


def test_the_examples_create_and_read_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for _ in range(2):  # the second time no batch is missing
        exec(block("make"), names)
        exec(block("read"), names)
    saved = names["saved"]
    assert saved.summary == {"sum": sum(i * i for i in range(1000))}
    assert saved.rows["sample"].to_pylist() == list(range(1000))
    files = {path.name for path in saved.folder.iterdir()}
    assert files == {"run.json", "batches", "timings.jsonl", "summary.json"}
    assert all(f"`{name}`" in PAGE for name in files)
