"""The examples of README.md run, and its numbers are the recorded ones."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo_results import SPARSE_RESULTS, page_results, readme_results

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    match = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert match, f"README.md has no block marked {marker!r}"
    return match[1]


def test_a_model_of_your_own_is_rerouted_to_the_right_expert() -> None:
    names: dict[str, Any] = {}
    exec(block("own model"), names)
    weights = np.asarray(names["result"].weights)[:, 0]  # [B, E]
    topic = np.asarray(names["topic"])[40:]
    np.testing.assert_array_equal(weights.argmax(axis=1), topic.argmax(axis=1))
    assert (weights * topic).sum(axis=1).mean() > 0.8
    assert names["result"].preset == "simplex"


def test_the_results_are_those_recorded() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))
    sparse = json.loads(SPARSE_RESULTS.read_text(encoding="utf-8"))
    assert f"<!-- results -->\n{readme_results(recorded, sparse)}<!-- /results -->" in README
    page = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    assert f"<!-- results -->\n{page_results(recorded)}<!-- /results -->" in page
    ngd = recorded["summary"]["models"]["pocket:narrow"]["strategies"]["ngd"]
    row = next(line for line in README.splitlines() if line.startswith("| `pocket:narrow` | "))
    assert f"{100 * ngd['accuracy']:.1f} % (" in row.split(" | ")[3]
    assert "| `pocket:sparse` | " in README


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", README)
    assert len(links) > 10
    assert not [name for name in links if not (ROOT / name).exists()]


def test_the_commands_are_complete_and_ci_runs_the_second() -> None:
    assert block("test command").count("\n") == 1
    assert "test command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in (block("demo command"), block("test command")):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")
