"""What docs/runs.md shows runs."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "runs.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found, marker
    return found[1]


def test_a_run_is_made_and_read_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for _ in range(2):  # the second time nothing is missing
        exec(block("make"), names)
        exec(block("read"), names)
    saved = names["saved"]
    assert saved.summary == {"sum": sum(i * i for i in range(1000))}
    assert saved.rows["case"].to_pylist() == list(range(1000))
    files = {path.name for path in saved.folder.iterdir()}
    assert files == {"run.json", "shard-00000.rows", "timings.jsonl", "summary.json"}
    assert all(f"`{name}`" in PAGE for name in files)
