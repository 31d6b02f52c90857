"""The notebooks: both files of a pair have the same cells, outputs are kept, and what pages show of them is theirs.

`.ci/run` executes them (`python -m benchmarks.notebooks --check`).
"""

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import notebooks
from benchmarks.notebooks import ROOT, names, other_sources, pair, picture, picture_path, same

ADDRESS = "github.com/OWNER/r2t2-jax"
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")


def read(name: str) -> Any:
    return pytest.importorskip("nbformat").read(pair(name)[1], as_version=4)


def without_outputs(notebook: Any) -> Any:
    for cell in notebook.cells:
        cell.pop("outputs", None)
    return notebook


def test_every_notebook_is_a_pair() -> None:
    assert len(names()) >= 4
    assert names() == sorted(path.stem for path in notebooks.FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", names())
def test_both_files_have_the_same_cells(name: str) -> None:
    pytest.importorskip("jupytext")
    assert other_sources(without_outputs(read(name)), notebooks.read_cells(name)) == []


@pytest.mark.parametrize("name", names())
def test_all_outputs_are_kept_and_none_is_an_error(name: str) -> None:
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    executed = [cell for cell in cells if "skip-execution" not in cell.metadata.get("tags", [])]
    assert [cell.execution_count for cell in executed] == list(range(1, len(executed) + 1))
    assert all(output.output_type != "error" for cell in executed for output in cell.outputs)
    assert sum("image/png" in output.get("data", {}) for cell in executed for output in cell.outputs) >= 1


@pytest.mark.parametrize("name", names())
def test_a_notebook_names_no_path_of_the_machine_that_executed_it(name: str) -> None:
    text = pair(name)[1].read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.\-/])/(tmp|home|root|work|usr|var)\b", text)
    assert set(json.loads(text)["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("name", names())
def test_a_notebook_opens_in_colab_and_installs_the_package_there(name: str) -> None:
    text = pair(name)[0].read_text(encoding="utf-8")
    path = pair(name)[1].relative_to(ROOT).as_posix()
    assert f"](https://colab.research.google.com/{ADDRESS.replace('.com', '')}/blob/main/{path})" in text
    assert PAGE.count(f"](https://colab.research.google.com/{ADDRESS.replace('.com', '')}/blob/main/{path})") == 1
    assert f'# %pip install -q "r2t2-jax @ git+https://{ADDRESS}"' in text
    badge = re.search(r"\[!\[Open in Colab\]\((.*?)\)\]", text)
    assert badge and (notebooks.FOLDER / badge[1]).is_file()


@pytest.mark.parametrize("name", names())
def test_the_page_of_examples_links_a_notebook_and_shows_its_picture(name: str) -> None:
    assert f"(../examples/notebooks/{name}.ipynb)" in PAGE and f"(images/{picture_path(name).name})" in PAGE
    assert picture(read(name)) == picture_path(name).read_bytes()


def test_the_page_links_every_script() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        assert f"(../examples/{path.name})" in PAGE, path.name


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("accuracy 0.745 of 200", "accuracy 0.750 of 200", True),
        ("accuracy 0.745 of 200", "accuracy 0.845 of 200", False),
        ("58 of 1,000 right", "59 of 1,000 right", True),
        ("2 answers changed", "3 answers changed", False),
        ("loss 2.9e-14", "loss 1.1e-13", True),
        ("the answer is solid", "the answer is striped", False),
        ("a  table\nwith lines", "a table\nwith lines", True),
    ],
)
def test_outputs_are_equal_if_their_words_are_and_their_numbers_are_close(first: str, second: str, equal: bool) -> None:
    assert same(first, second) == equal


def test_a_stream_is_kept_in_one_piece_and_without_progress() -> None:
    def stream(name: str, text: str) -> Any:
        return Output(output_type="stream", name=name, text=text)

    outputs = [stream("stdout", "a\n"), stream("stdout", "b\n"), stream("stderr", "load ...\nr2t2: preset simplex\n")]
    outputs += [stream("stderr", "12 %\n"), Output(output_type="execute_result", data={"text/plain": "1"})]
    pieces = notebooks.kept(outputs)
    assert [piece.get("text") for piece in pieces] == ["a\nb\n", "r2t2: preset simplex\n", None]


class Output(SimpleNamespace):
    """An output of a cell, with attributes that can also be read as items."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def test_a_changed_source_is_a_difference() -> None:
    def notebook(source: str) -> Any:
        cell = Output(cell_type="code", source=source, metadata={})
        return SimpleNamespace(cells=[cell])

    assert other_sources(notebook("a"), notebook("a")) == []
    assert other_sources(notebook("a"), notebook("b")) == ["cell 0: the sources differ"]
