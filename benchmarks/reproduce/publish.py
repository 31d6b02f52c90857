"""Publishes a finished `r2t2 reproduce all`: `python -m benchmarks.reproduce.publish out/reproduce`.

Every table goes to `benchmarks/reproduce/results/` as Markdown, CSV and JSON, with the report's figures and an
overview. `docs/findings.md` is written from `findings.template.md`: its numbers are looked up in the tables
(`numbers.py`), and every sentence that rests on a comparison has it as a claim. A claim that the numbers refute stops
the publication and is printed, so that every sentence of the page agrees with the numbers.
"""

from __future__ import annotations

import datetime
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import tyro

from benchmarks.reproduce.numbers import Numbers
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.tables import markdown_table
from r2t2_jax.reproduction.export import VERDICTS, markdown, read_table
from r2t2_jax.runs.reading import SavedRun, open_run

HERE = Path(__file__).parent
RESULTS, TEMPLATE = HERE / "results", HERE / "findings.template.md"
FINDINGS = HERE.parent.parent / "docs" / "findings.md"
NUMBER = re.compile(r"\{\{(.+?)\}\}")
NOTE = re.compile(r"\A<!-- Template .*? -->\n")  # for readers of the template
CLAIM = re.compile(r" ?<!-- claim: (.+?) -->")
MARK = r"(?:\d+\.|-) "  # of a list item
ITEM = re.compile(rf"^(?={MARK})", re.MULTILINE)
UNWRAPPED = ("#", "```", "|")  # first characters of blocks that are not paragraphs
WIDTH = 120
FIGURES = ("flow", "experts", "cost", "surrogate", "similarity", "families")


def main(run: tyro.conf.Positional[Path], machine: str = "2 CPU cores", date: str = "") -> None:
    """Copy the tables and write the findings.

    Args:
        run: folder of a complete run.
        machine: description of the machine of the run.
        date: date of the run; today by default.
    """
    saved = open_run(run)
    where = f"{machine}, {date or datetime.date.today().isoformat()}"
    text, refuted = findings(Numbers(run), TEMPLATE.read_text(encoding="utf-8"), command_of(saved), where)
    if refuted:
        sys.exit("These claims are false; rewrite their sentences:\n" + "\n".join(f"  {claim}" for claim in refuted))
    copy_tables(saved)
    page = overview(RESULTS, saved.summary["tables"], command_of(saved), where)
    (RESULTS / "README.md").write_text(page, encoding="utf-8")
    FINDINGS.write_text(text, encoding="utf-8")


def command_of(saved: SavedRun) -> str:
    """The command line of the run."""
    settings = saved.settings
    limit = [f"--limit {settings['limit']}"] if settings.get("limit") else []
    return " ".join(
        ["r2t2 reproduce", settings["table"], f"--model {settings['model']}", *limit, "--out out/reproduce"]
    )


def findings(numbers: Numbers, template: str, command: str, where: str) -> tuple[str, list[str]]:
    """The page, and the claims that the numbers refute.

    Raises:
        R2T2Error: the template refers to an unknown number.
    """
    refuted = [claim for claim in CLAIM.findall(template) if not numbers.holds(claim)]
    page = CLAIM.sub("", NOTE.sub("", template)).replace("{{command}}", command).replace("{{where}}", where)
    return wrapped(NUMBER.sub(lambda match: numbers.text(match[1]), page)), refuted


def wrapped(page: str) -> str:
    """The page with its paragraphs and list items wrapped, because numbers and their names differ in length."""
    blocks = page.strip("\n").split("\n\n")
    return "\n\n".join(block if block.startswith(UNWRAPPED) else _wrap(block) for block in blocks) + "\n"


def _wrap(block: str) -> str:
    lines = []
    for item in ITEM.split(block):
        mark = re.match(MARK, item)
        indent = " " * len(mark[0]) if mark else ""
        words = " ".join(item.split())
        lines += textwrap.wrap(words, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def copy_tables(saved: SavedRun) -> None:
    """Copy tables and figures of the run, and delete earlier ones."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()
    for name in saved.summary["tables"]:
        shutil.copy(saved.folder / f"{name}.json", RESULTS)
        shutil.copy(saved.folder / f"{name}.csv", RESULTS)
        (RESULTS / f"{name}.md").write_text(markdown(read_table(saved.folder, name)), encoding="utf-8")
    for figure in sorted((saved.folder / "report").glob("*.png")):
        if figure.stem.rpartition("-")[2] in FIGURES:
            shutil.copy(figure, RESULTS)


def overview(folder: Path, names: Sequence[str], command: str, where: str) -> str:
    """A Markdown page that lists the tables with the verdict on the paper's ordering."""
    columns = ["table", "of the paper", "title", "model, settings", "n", "the paper's ordering"]
    lines = []
    for name in names:
        table = read_table(folder, name)
        for model, settings in table["models"].items():
            for setting, part in settings.items():
                trend = part["trend"]
                verdict = VERDICTS[trend["verdict"]] if trend else "–"
                shows = ", ".join(table["shows"]) or "–"
                link = f"[{name}]({name}.md)"
                lines.append([link, shows, table["title"], f"{model}, {setting}", f"{part['n']:,}", verdict])
    head = "# The paper's tables on the pocket model\n\n"
    source = f"Generated by `{command}` and `python -m benchmarks.reproduce.publish out/reproduce`; {where}.\n\n"
    return f"{head}{source}{markdown_table(columns, lines, align_right=True)}\n"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except R2T2Error as error:
        sys.exit(str(error))
