"""docs/convert.md on tiny checkpoints in the released layouts: from the folders to a table, command by command."""

import json
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2t2_jax.cli.main import COMMANDS, main
from r2t2_jax.cli.parsing import parse
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.metrics import METRICS
from r2t2_jax.runs.reading import open_run
from tests.datasets.official import OFFICIAL, jpg, put
from tests.ports import released

FOLDER = Path(__file__).parents[2] / "docs"
SETS = ("vqav2", "aokvqa", "mmbench", "gqa", "scienceqa")
STRATEGIES = ["base", "kernel_regression", "ngd"]
QUESTIONS = 7  # of each set of references: more than the paper's five neighbors


def commands(page: str) -> list[list[str]]:
    """The lines of the page's code blocks that call r2t2, without the first word."""
    blocks = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("r2t2 ") and "..." not in line]


CONVERT = commands((FOLDER / "convert.md").read_text(encoding="utf-8"))
REPRODUCE = commands((FOLDER / "reproduce.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("words", [*CONVERT, *REPRODUCE], ids=" ".join)
def test_every_command_line_parses(words: list[str]) -> None:
    parse(COMMANDS, words)


def multiply(file: Path, change: Callable[[Any, int], Any]) -> None:
    """Repeat the records of an official JSON file, changed by their number."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for name, rows in content.items() if isinstance(content, dict) else [("", content)]:
        if isinstance(rows, list):
            repeated = [change(row, number) for number in range(QUESTIONS) for row in rows[:1]]
            content = content | {name: repeated} if name else repeated
    put(file, content)


def write_files(folder: Path) -> None:
    """Official files of every set; those of the references have several questions on several images."""
    for name in SETS:
        OFFICIAL[name](folder / name)

    def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
        texts = {"question": f"What is number {number}?"} if "question" in row else {}
        key = {"question_id": f"id{number}" if isinstance(row["question_id"], str) else number}
        return row | texts | key | {"image_id": number}

    for number in range(QUESTIONS):
        color = ["red", "green", "blue", "white", "black", "gray", "pink"][number]
        put(folder / f"vqav2/val2014/COCO_val2014_{number:012d}.jpg", jpg(color))
        put(folder / f"aokvqa/coco/val2017/{number:012d}.jpg", jpg(color))
    multiply(folder / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", numbered)
    multiply(folder / "vqav2/v2_mscoco_val2014_annotations.json", numbered)
    multiply(folder / "aokvqa/aokvqa_v1p0_val.json", numbered)


class FakeModel:
    """An auxiliary model that finds one thing in every image."""

    def __init__(self, part: str) -> None:
        self.part, self.fingerprint = part, f"fake {part}"

    def __call__(self, image: np.ndarray, record: Any) -> Any:
        import dataclasses

        from ports.moai.auxiliary.record import Detection, Segment, TextLine

        size = 28  # of the tiny model's images
        parts = {
            "segments": {"segments": (Segment(1, 3),), "map": np.ones((size, size), np.uint8)},
            "detections": {"detections": (Detection(0.9, 5, (0.0, 1.0, 9.0, 8.0)),)},
            "lines": {"lines": (TextLine("a", 0.9),)},
        }
        return dataclasses.replace(record, **parts[self.part])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:MoAI runs without auxiliary inputs")
def test_a_researcher_gets_a_table_from_the_released_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ports.moai.auxiliary import build

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("R2T2_DATA", str(tmp_path / "data"))
    released.write_moai(Path("MoAI-7B"))
    released.write_mova(Path("llama3-mova-8b"), Path("bert-large-uncased/vocab.txt"))
    released.write_nv(Path("NV-Embed-v2"))
    write_files(Path("files"))
    for name, part in (("segments", "segments"), ("detections", "detections"), ("ocr", "lines")):
        monkeypatch.setitem(build.PROVIDERS, name, lambda size, part=part: FakeModel(part))
    printed = {}
    for words in CONVERT:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            if words[:2] == ["bank", "build"]:  # random weights answer nothing correctly
                for name in ("vqav2", "aokvqa"):
                    patch.setitem(METRICS, DATASETS[name].metric, lambda prediction, sample: 1.0)
            assert main(words) == 0, (words, capsys.readouterr().err)
        assert not caught, [str(warning.message) for warning in caught]
        printed[" ".join(words[:2])] = capsys.readouterr().out
    assert "Added records of 1 images to aux_records; it has 8" in printed["aux build"]
    described = json.loads(Path("models/mova/model.json").read_text())
    assert described["config"]["high_mean"] == [0.5, 0.4, 0.3] and described["dtype"] == ["bfloat16"]
    assert described["unknown_fields"] == {} and not [file for file in described["inputs"] if "experts" in file]
    for model, name in (("moai", "moai:models/moai,aux=aux_records"), ("mova", "mova:models/mova")):
        run = open_run(Path("out") / model)
        assert [entry["benchmark"] for entry in run.summary["models"].values()] == ["mmbench", "gqa", "scienceqa"]
        assert all(list(entry["strategies"]) == STRATEGIES for entry in run.summary["models"].values())
        assert name.replace("_", r"\_") in printed["results out/moai"]
        rows = run.rows.to_pylist()
        assert len(rows) == len({(row["benchmark"], row["strategy"], row["id"]) for row in rows})
        assert all(np.isfinite(row["weights"]).all() for row in rows)
        assert all(len(row["neighbors"]) == 5 for row in rows if row["strategy"] == "ngd")
    assert printed["results out/moai"].count(r"\begin{tabular}") == 3 and Path("out/moai/report.html").is_file()

    # Without the records, MoAI warns once, and its bank does not fit.
    evaluate = ["eval", "--benchmark", "gqa", "--strategy", "base", "--embedder", "nv_embed:embedders/nv_embed"]
    assert main([*evaluate, "--model", "models/moai", "--bank", "banks/moai", "--out", "out/none"]) == 2
    error = capsys.readouterr().err
    assert error.count("MoAI runs without auxiliary inputs") == 1
    assert "aux=none': build it again" in error and not Path("out/none").exists()
