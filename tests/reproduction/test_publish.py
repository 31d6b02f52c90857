"""Findings are written from a run's tables, and claims that the numbers refute are reported."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reproduce.numbers import Numbers
from benchmarks.reproduce.publish import CLAIM, NUMBER, TEMPLATE, findings, wrapped
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reproduction.spec import load_tables


def row(name: str, accuracy: float, gain: float) -> dict[str, Any]:
    return {
        "name": name,
        "paper": 80.67,
        "accuracy": accuracy,
        "ci95": [accuracy - 0.05, accuracy + 0.05],
        "gain": {"points": gain, "ci95": [gain - 1, gain + 1]},
        "wrong_to_right": 7,
        "right_to_wrong": 2,
        "evaluations_per_sample": 102,
        "used_fallback": 0,
    }


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    trend = {"verdict": "partly", "shown": 2, "reversed": 0, "open": 1}
    rows = [row("base", 0.5, 0.0), row("logit, sgd, 0.1", 0.75, 25.0), {"name": "absent", "not_run": "no weights"}]
    part = {
        "n": 1200,
        "rows": rows,
        "trend": trend,
        "numbers": {"literal": 144.53, "families": {"ngd": {"size": 0.625}}},
    }
    (tmp_path / "table6.json").write_text(json.dumps({"models": {"pocket:narrow": {"own": part}}}))
    return Numbers(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("narrow/table6/own/logit, sgd, 0.1 accuracy", "75.0 %"),
        ("narrow/table6/own/logit, sgd, 0.1 interval", "75.0 % (70.0 to 80.0)"),
        ("narrow/table6/own/logit, sgd, 0.1 gain", "+25.0 points (+24.0 to +26.0)"),
        ("pocket:narrow/table6/own/base flips", "7 / 2"),
        ("narrow/table6/own/base paper", "80.7"),
        ("narrow/table6/own n", "1,200"),
        ("narrow/table6/own trend", "the paper's ordering holds in part (2 of 3 pairs shown, 0 reversed)"),
        ("narrow/table6/own numbers.literal", "144.5"),
        ("narrow/table6/own numbers.families.ngd.size%", "62.5 %"),
    ],
)
def test_numbers_by_name(numbers: Numbers, name: str, text: str) -> None:
    assert numbers.text(name) == text


@pytest.mark.parametrize(
    "name",
    [
        "narrow/table6/own/cubic accuracy",
        "narrow/table6/own/absent accuracy",
        "narrow/table6/paper/base accuracy",
        "narrow/table6/own/base color",
        "narrow/table6/own numbers.nothing",
        "nonsense",
    ],
)
def test_an_unknown_number_is_refused(numbers: Numbers, name: str) -> None:
    with pytest.raises(R2T2Error):
        numbers.text(name)


def test_claims_are_checked_and_removed(numbers: Numbers) -> None:
    right = "narrow/table6/own/logit, sgd, 0.1 accuracy > narrow/table6/own/base accuracy"
    wrong = "narrow/table6/own/base gain.low > 10"
    claims = f"<!-- claim: {right} --><!-- claim: {wrong} -->"
    template = f"From `{{{{command}}}}`: {{{{narrow/table6/own/base accuracy}}}}.{claims}\n"
    page, refuted = findings(numbers, template, "r2t2 reproduce all", "here")
    assert page == "From `r2t2 reproduce all`: 50.0 %.\n"
    assert refuted == [wrong]


def test_paragraphs_are_wrapped_and_other_blocks_are_kept() -> None:
    words = "one two " * 20
    page = f"# A title\n\n{words}\n\n```\na  b\n```\n\n1. {words}\n2. two\n   lines\n\n| {words} |\n"
    title, paragraph, code, items, table = wrapped(page).split("\n\n")
    assert (title, code, table) == ("# A title", "```\na  b\n```", f"| {words} |\n")
    assert paragraph.splitlines() == ["one two " * 14 + "one two", "one two " * 4 + "one two"]
    assert [line[:3] for line in items.splitlines()] == ["1. ", "   ", "2. "]
    assert items.endswith("2. two lines")


def test_the_template_refers_to_existing_tables_and_rows() -> None:
    template = TEMPLATE.read_text(encoding="utf-8")
    names = [name for name in NUMBER.findall(template) if name not in ("command", "where")]
    for claim in CLAIM.findall(template):
        names += [side for side in re.split(r" (?:>=|<=|>|<|=) ", claim) if "/" in side]
    assert len(names) > 50
    for name in names:
        model, table, setting, *rest = name.rpartition(" ")[0].split("/")
        assert model in ("narrow", "balanced")
        assert setting in load_tables()[table].settings
        assert not rest or "/".join(rest) in {"base", *(row.name for row in load_tables()[table].rows)}, name
