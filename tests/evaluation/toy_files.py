"""Questions for the toy port as files, and a bank of it: what `r2t2 eval` takes."""

import json
from pathlib import Path

from PIL import Image

from r2t2_jax.cli.main import main
from tests.toy_port import make_samples

MODEL = "tests.toy_port:toy"


def write_questions(path: Path, n: int, seed: int, hinted: float = 0.4) -> Path:
    """Write a .jsonl file and its images."""
    lines = []
    for sample in make_samples(n, seed, hinted):
        image = f"{path.stem}-{sample.id}.png"
        Image.fromarray(sample.image).save(path.parent / image)
        lines.append(
            {
                "id": sample.id,
                "image": image,
                "question": sample.question,
                "answer": sample.answers[0],
                "category": sample.category,
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_all(folder: Path, tests: int = 30) -> Path:
    """Two benchmarks, `one.jsonl` and `two.jsonl`, and `bank`, of other questions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_questions(folder / "one.jsonl", tests, seed=1)
    write_questions(folder / "two.jsonl", 7, seed=2)
    references = write_questions(folder / "references.jsonl", 40, seed=3)
    build = ["bank", "build", "--model", MODEL, "--dataset", str(references), "--out", str(folder / "bank")]
    assert main([*build, "--batch-size", "20"]) == 0
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """Of `r2t2 eval` on both benchmarks."""
    options = {
        "model": MODEL,
        "bank": folder / "bank",
        "benchmark": f"{folder / 'one.jsonl'},{folder / 'two.jsonl'}",
        "strategy": "ngd,kernel_regression,random_neighbors",
        "preset": "toy",
        "batch-size": 4,
        "out": out,
    }
    return ["eval", *(word for name, value in options.items() for word in (f"--{name}", str(value))), *more]
