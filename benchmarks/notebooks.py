"""Executes the notebooks of `examples/notebooks/`: `python -m benchmarks.notebooks`.

Each notebook is a jupytext pair: NAME.py has the cells, NAME.ipynb the same cells with their outputs. Without options
the cells of the .py files are executed, in an empty folder, and the .ipynb files are written again. `--check` writes
nothing: it exits with 1 if a cell raises or the .ipynb file has other cells, and prints outputs that differ from the
kept ones in a text, or in a number by more than `TOLERANCE`: processors round differently. The picture of the cell
with the tag `picture` is also written to `docs/images/`, for docs/examples.md. Needs the extra `notebooks`.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from itertools import zip_longest
from math import isclose
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "notebooks"
TOLERANCE = 0.05  # of numbers in texts: relative, and in units of their last decimal
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
ZERO = 1e-6  # numbers that differ by less are equal
MESSAGE = re.compile(r"^r2t2: .*\n", re.MULTILINE)
LONGEST = 900  # seconds of a cell, on a machine with other work


def pair(name: str) -> tuple[Path, Path]:
    """The two files of a notebook: its cells, and its cells with outputs."""
    return FOLDER / f"{name}.py", FOLDER / f"{name}.ipynb"


def names() -> list[str]:
    """All notebooks."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def read_cells(name: str) -> Any:
    """The notebook that the .py file describes, without outputs and with the same cell ids every time."""
    import jupytext

    notebook = jupytext.read(pair(name)[0])
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(name: str) -> Any:
    """The notebook with its outputs, executed in an empty folder and with an empty cache of references.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    from nbclient import NotebookClient

    notebook = read_cells(name)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        client = NotebookClient(
            notebook, timeout=LONGEST, record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = kept(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def kept(outputs: list[Any]) -> list[Any]:
    """The outputs of a cell as the notebook keeps them: a stream in one piece, and of standard error only messages."""
    pieces: list[Any] = []
    for output in outputs:
        if pieces and output.output_type == "stream" and pieces[-1].get("name") == output.name:
            pieces[-1].text += output.text
        else:
            pieces.append(output)
    for piece in pieces:
        if piece.get("name") == "stderr":
            piece.text = "".join(MESSAGE.findall(piece.text))
    return [piece for piece in pieces if piece.output_type != "stream" or piece.text]


def picture(notebook: Any) -> bytes:
    """The PNG file of the cell with the tag `picture`."""
    (cell,) = [cell for cell in notebook.cells if "picture" in cell.metadata.get("tags", [])]
    (data,) = [output.data for output in cell.outputs if "image/png" in output.get("data", {})]
    return base64.b64decode(data["image/png"])


def picture_path(name: str) -> Path:
    """The file that shows a notebook on the page of examples."""
    return ROOT / "docs" / "images" / f"notebook_{name}.png"


def texts(cell: Any) -> str:
    """All texts of the outputs of a cell; a picture is the name of its type."""
    parts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        image = next((kind for kind in sorted(data) if kind.startswith("image/")), "")
        parts.append(image or output.get("text") or data.get("text/plain", ""))
    return "\n".join(parts)


def same(first: str, second: str) -> bool:
    """Whether two texts are equal but for numbers, and these close."""
    if NUMBER.sub("0", first).split() != NUMBER.sub("0", second).split():
        return False
    pairs = zip(NUMBER.findall(first), NUMBER.findall(second), strict=True)
    return all(isclose(*map(value, each), rel_tol=TOLERANCE, abs_tol=unit(each[0])) for each in pairs)


def value(number: str) -> float:
    """The number that a text stands for."""
    return float(number.replace(",", ""))


def unit(number: str) -> float:
    """One unit of the last decimal of a number with decimals; `ZERO` for other numbers."""
    decimals = 0 if "e" in number else len(number.partition(".")[2])
    return 10.0**-decimals if decimals else ZERO


def other_sources(first: Any, second: Any) -> list[str]:
    """A text for every cell of two notebooks with other sources."""

    def source(cell: Any) -> Any:
        return None if cell is None else (cell.cell_type, cell.source, cell.metadata.get("tags"))

    pairs = enumerate(zip_longest(first.cells, second.cells))
    return [f"cell {number}: the sources differ" for number, cells in pairs if source(cells[0]) != source(cells[1])]


def other_outputs(first: Any, second: Any) -> list[str]:
    """A text for every cell of two notebooks with other outputs."""
    return [
        f"cell {number}: kept\n{texts(kept_cell)}\nexecuted\n{texts(executed)}"
        for number, (kept_cell, executed) in enumerate(zip(first.cells, second.cells, strict=False))
        if not same(texts(kept_cell), texts(executed))
    ]


@dataclass(frozen=True)
class Notebooks:
    """Execute the notebooks, and write their outputs or compare them with the kept ones."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Notebooks. Default: all."""
    check: bool = False
    """Write nothing, and compare."""

    def run(self) -> int:
        """Execute; returns 1 if a notebook has other cells than its .py file."""
        import nbformat

        failed = 0
        for name in self.names or names():
            executed, path = execute(name), pair(name)[1]
            if not self.check:
                nbformat.write(executed, path)
                picture_path(name).write_bytes(picture(executed))
                print(f"Wrote {path.name}.")
                continue
            saved = nbformat.read(path, as_version=4)
            sources, outputs = other_sources(saved, executed), other_outputs(saved, executed)
            failed += bool(sources)
            verdict = "runs, with other outputs" if sources + outputs else "runs, with the kept outputs"
            print("\n".join([f"{name}: {verdict}", *sources, *outputs]), flush=True)
        return int(failed > 0)


if __name__ == "__main__":
    sys.exit(tyro.cli(Notebooks).run())
