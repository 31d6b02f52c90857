"""`r2t2 bank ...`: files and output of the commands, and their errors."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.cli.main import main
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.scann import ScannIndex
from r2t2_jax.runs.batch_files import saved_batches
from tests.toy_port import make_samples

RELEASED = Path(os.environ.get("R2T2_SAMPLES", "../shared/samples")) / "r2t2" / "reference.json"


def output(capsys: pytest.CaptureFixture[str]) -> str:
    """The standard output on one line."""
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two .jsonl files of questions for the toy port, with their images in a separate folder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    for seed, name in enumerate(("one", "two")):
        lines = []
        for i, sample in enumerate(make_samples(12, seed, hinted=0.7)):
            Image.fromarray(sample.image).save(folder / "images" / f"{name}{i}.png")
            lines.append({"image": f"{name}{i}.png", "question": sample.question, "answer": sample.answers[0]})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_bank_from_files_can_be_inspected_indexed_and_searched(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, out = [str(photos / f"{name}.jsonl") for name in ("one", "two")], tmp_path / "bank"
    build = ["bank", "build", "--model", "tests.toy_port:toy", "--dataset", *files, "--images", str(photos / "images")]
    build += ["--embedder", "hashed_words", "--batch-size", "8", "--out", str(out)]
    assert main(build) == 0
    text = output(capsys)
    bank = ReferenceBank.open(out)
    assert f"Wrote a bank of 24 references to {out}." in text
    assert [source.name for source in bank.sources] == files
    assert {record["source"] for record in bank.records} == set(files)
    assert f"{int(bank.right[:12].sum())} answered correctly" in text
    assert main(build) == 0  # already complete: the same output, nothing is computed
    assert output(capsys) == text

    assert (
        main(["bank", "inspect", str(out), "--verify", "--against", files[0], "--html", str(tmp_path / "a.html")]) == 2
    )
    assert "cannot read image" in capsys.readouterr().err  # images of a .jsonl file are expected next to it
    copied = photos / "images" / "one.jsonl"
    copied.write_text((photos / "one.jsonl").read_text())
    assert main(["bank", "inspect", str(out), "--verify", "--against", str(copied)]) == 1
    text = output(capsys)
    assert "All files match their checksums." in text
    assert "12 of 12 questions are in the bank with the same image and question: one-1, one-2" in text
    assert main(["bank", "inspect", str(out), "--html", str(tmp_path / "page.html")]) == 0
    assert '<th scope="row">middle</th>' in (tmp_path / "page.html").read_text()

    # The bank has another embedder than the port, which an atlas does not need.
    atlas = ["bank", "atlas", str(out), "--model", "tests.toy_port:toy", "--points", "4", "--k", "3"]
    assert main(atlas) == 0
    assert f"Wrote an atlas of 24 references at 4 points to {out}/atlas." in output(capsys)
    made = (out / "atlas" / "losses.npy").read_bytes()
    assert main(["bank", "inspect", str(out), "--html", str(tmp_path / "page.html")]) == 0
    assert "The loss atlas holds 24 references at 4 routing points." in output(capsys)
    assert "<h3>Best routing by source</h3>" in (tmp_path / "page.html").read_text()
    assert main(atlas) == 0  # again, replacing the first
    assert (out / "atlas" / "losses.npy").read_bytes() == made
    assert main([*atlas[:4], "tests.toy_port:stranger"]) == 2
    assert "stranger" in capsys.readouterr().err

    right = bank.only_correct()
    assert isinstance(right.index(), ExactIndex)
    pytest.importorskip("scann")
    assert main(["bank", "index", str(out), "--kind", "scann", "--min-recall", "0.9"]) == 0
    assert "Recall at 5 of held-out references: 1.000" in output(capsys)
    assert isinstance(ReferenceBank.open(out).only_correct().index(), ScannIndex)
    assert isinstance(right.take(np.arange(3)).index(), ExactIndex)  # the index has other rows


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["inspect", "FOLDER"], "is not a bank: it has no bank.json"),
        (["index", "FOLDER"], "is not a bank"),
        (["import", "FOLDER/none.json", "--out", "FOLDER/bank"], "cannot read .*none.json"),
        (["build", "--model", "pocket", "--dataset", "none", "--out", "FOLDER/bank"], "unknown dataset 'none'"),
        (["build", "--model", "none", "--dataset", "pocket", "--out", "FOLDER/bank"], "unknown port 'none'"),
        (
            ["build", "--model", "pocket", "--dataset", "pocket", "--keep", "0", "--out", "FOLDER/bank"],
            "--keep 0: it must be at least 1",
        ),
        (
            ["build", "--model", "pocket", "--dataset", "pocket", "pocket", "--samples", "5", "--out", "FOLDER/bank"],
            "named twice",
        ),
        (
            ["build", "--model", "pocket", "--dataset", "pocket", "--embedder", "word2vec", "--out", "FOLDER/bank"],
            "unknown embedder 'word2vec'",
        ),
        (
            [
                "build",
                "--model",
                "pocket",
                "--dataset",
                "pocket",
                "--samples",
                "5",
                "--metric",
                "x",
                "--out",
                "FOLDER/b",
            ],
            "unknown metric 'x'",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bank", *(word.replace("FOLDER", str(tmp_path)) for word in arguments)]) == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"r2t2: .*{cause}", text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not RELEASED.exists(), reason="the released file is not here")
def test_the_released_references_are_reported_as_independent_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "bank")
    assert main(["bank", "import", str(RELEASED), "--out", out, "--embedder", "hashed_words"]) == 0
    assert "3,887 references, 3,887 answered correctly" in output(capsys)
    assert main(["bank", "inspect", out]) == 0
    text = output(capsys)
    assert "The routing weights cannot be distinguished from independent draws" in text
    assert re.search(r"R\^2 = -0\.(19|20|21) at k = 5, p = 0\.\d+ \(999 permutations", text)


@pytest.mark.slow
def test_kills_of_a_pocket_build_change_nothing(tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        options = ["--model", "pocket:narrow", "--dataset", "pocket", "--samples", "160", "--batch-size", "8"]
        return [sys.executable, "-m", "r2t2_jax.cli.main", "bank", "build", *options, "--out", str(tmp_path / name)]

    subprocess.run(command("whole"), check=True, capture_output=True)
    rng = random.Random(0)
    for _ in range(3):
        before = len(saved_batches(tmp_path / "killed"))
        with subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while len(saved_batches(tmp_path / "killed")) <= before + rng.randrange(4) and process.poll() is None:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
        assert not (tmp_path / "killed" / "bank.json").exists()
    subprocess.run(command("killed"), check=True, capture_output=True)
    for name in ("bank.json", "records.parquet", "embeddings.npy", "routing.npy", "summary.json", "run.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


@pytest.mark.slow
def test_kills_of_a_pocket_atlas_change_nothing(tmp_path: Path) -> None:
    options = ["--model", "pocket:narrow", "--dataset", "pocket", "--samples", "120"]
    assert main(["bank", "build", *options, "--out", str(tmp_path / "whole")]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    def command(name: str) -> list[str]:
        options = ["--model", "pocket:narrow", "--batch-size", "8", "--points", "6"]
        return [sys.executable, "-m", "r2t2_jax.cli.main", "bank", "atlas", str(tmp_path / name), *options]

    subprocess.run(command("whole"), check=True, capture_output=True)
    work = tmp_path / "killed" / "atlas-in-progress"
    for batches in (3, 11, 19):  # of 15 batches that choose and 15 that tabulate
        with subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while len(saved_batches(work)) < batches:
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
        assert not (tmp_path / "killed" / "atlas").exists()
    subprocess.run(command("killed"), check=True, capture_output=True)
    for path in (tmp_path / "whole" / "atlas").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / "atlas" / path.name).read_bytes(), path.name
