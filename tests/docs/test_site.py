"""The pages of the site: links, headings, navigation, code blocks, and the generated parts of the reference."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import r2t2_jax
from r2t2_jax.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
FOLDERS = ("*.md", "docs/**/*.md", "ports/*/README.md", "benchmarks/reproduce/results/README.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in ROOT.glob(folder))


def load_hooks():
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = load_hooks()


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site form them."""
    prose = "".join(part for part, is_code in SITE.split_code(text) if not is_code)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", line) for line in re.findall(r"^#+ (.*)$", prose, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    prose = "".join(part for part, is_code in SITE.split_code(text) if not is_code)
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", prose):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.is_file(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors_of(path.read_text(encoding="utf-8")), f"{page}: {target}#{anchor}"


def test_the_navigation_has_every_page_once() -> None:
    entries = re.findall(r"^ +- .*: (\S+\.md)$", CONFIG.split("\nnav:\n")[1], re.MULTILINE)
    written = [SITE.place(page) for page in PAGES if not page.startswith("benchmarks/")]
    assert sorted(entries) == sorted(written)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_python_are_valid(page: str) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S):
        ast.parse(block)


def test_links_of_the_site_are_relative_to_its_pages() -> None:
    text = "[a](../README.md#x), [b](../ports/moai/README.md), [c](eval.md)\n```\n[d](../README.md)\n```\n"
    expected = "[a](index.md#x), [b](ports/moai.md), [c](eval.md)\n```\n[d](../README.md)\n```\n"
    assert SITE.rewrite_links("docs/runs.md", text) == expected
    assert SITE.rewrite_links("ports/mova/README.md", "[a](../../docs/atlas.md)") == "[a](../atlas.md)"
    assert SITE.rewrite_links("README.md", "![a](docs/images/demo.png)") == "![a](images/demo.png)"


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: r2t2_jax\.(\w+)$", page, re.MULTILINE)) == r2t2_jax.__all__


def test_the_reference_has_the_help_of_every_command() -> None:
    page = SITE.commands_page()
    assert re.findall(r"^## r2t2 (.+)$", page, re.MULTILINE) == list(COMMANDS)
    assert page.count("usage: r2t2") == len(COMMANDS) + 1
    assert "--answer-steps" in page and "\x1b" not in page


def test_the_reference_has_the_errors_of_the_code() -> None:
    source = 'def f(a):\n    raise R2T2Error(f"cannot read {a.path}: " + "give another")\n    raise ValueError("no")\n'
    assert list(SITE.errors_of(ast.parse(source))) == ["cannot read <path>: give another"]
    page = SITE.errors_page()
    assert "| `r2t2_jax/bank/" in page and page.count("\n| <code>") > 300
    assert SITE.cell("a|b <c> `d`") == "<code>a&#124;b &lt;c&gt; &#96;d&#96;</code>"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for name in ("material", "mkdocstrings"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "r2t2 bank build" in (tmp_path / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
