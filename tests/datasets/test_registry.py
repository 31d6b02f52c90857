"""Datasets by name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(R2T2Error, match=r"unknown dataset 'imagenet'; known: .*pocket"):
        load_dataset("imagenet")


def test_the_error_for_a_list_in_json_has_the_command_that_makes_lines_of_it(tmp_path: Path) -> None:
    rows = [{"question": "what ?", "answer": f"{number}"} for number in range(3)]
    (tmp_path / "llava.json").write_text(json.dumps(rows, indent=1))
    with pytest.raises(R2T2Error, match=r"llava\.json: questions are read from \.jsonl files") as error:
        load_dataset(str(tmp_path / "llava.json"))
    program, source, target = re.search(r'python -c "(.*)" < (\S+) > (\S+)$', str(error.value)).groups()
    with open(source) as read, open(target, "w") as written:
        subprocess.run([sys.executable, "-c", program], stdin=read, stdout=written, check=True)
    assert [sample.answers for sample in load_dataset(target)] == [("0",), ("1",), ("2",)]
    with pytest.raises(R2T2Error, match=r"one object per line \(docs/datasets\.md\)$"):
        load_dataset("table.csv")


def test_an_unknown_dataset_is_answered_with_those_that_can_be_loaded():
    with pytest.raises(
        R2T2Error, match=r"unknown dataset 'pockets'; did you mean 'pocket'\? known: pocket, .*easy_vqa"
    ):
        load_dataset("pockets")
    with pytest.raises(R2T2Error, match=r"unknown dataset 'nothing'; known: pocket, ") as error:
        load_dataset("nothing")
    assert str(error.value).count("jsonl") == 1 and str(error.value).endswith(", and .jsonl files")
