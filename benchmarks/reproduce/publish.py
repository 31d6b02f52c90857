"""Put a finished `r2t2 reproduce all` into the repository: `python -m benchmarks.reproduce.publish out/reproduce`.

Every table goes to `benchmarks/reproduce/results/` as Markdown, CSV and JSON, the report's figures beside them, with an
overview. `docs/findings.md` is written anew from `findings.template.md`: its numbers are looked up in the tables
(`numbers.py`), and every sentence that rests on a comparison carries it as a claim. A claim that the numbers do not
bear out stops the publication and is shown, so that no sentence outlives its evidence.
"""

from __future__ import annotations

import datetime
import re
import shutil
import sys
import textwrap
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
CLAIM = re.compile(r" ?<!-- claim: (.+?) -->")
MARK = r"(?:\d+\.|-) "  # of a list's item
ITEM = re.compile(rf"^(?={MARK})", re.MULTILINE)
KEPT = ("#", "```", "|")  # blocks whose lines mean something
WIDTH = 120
FIGURES = ("flow", "experts", "cost", "surrogate", "similarity", "families")


def main(run: tyro.conf.Positional[Path], machine: str = "2 CPU cores", date: str = "") -> None:
    """Copy the tables and write the findings.

    Args:
        run: folder of a complete run.
        machine: on which it ran, in words.
        date: of the run; today by default.
    """
    saved = open_run(run)
    where = f"{machine}, {date or datetime.date.today().isoformat()}"
    text, refuted = findings(Numbers(run), TEMPLATE.read_text(encoding="utf-8"), command_of(saved), where)
    if refuted:
        sys.exit("These claims do not hold; write their sentences anew:\n" + "\n".join(f"  {one}" for one in refuted))
    copy_tables(saved)
    (RESULTS / "README.md").write_text(overview(saved, where), encoding="utf-8")
    FINDINGS.write_text(text, encoding="utf-8")


def command_of(saved: SavedRun) -> str:
    """As it was typed."""
    settings = saved.settings
    rest = [f"--samples {settings['samples']}"] if settings.get("samples") else []
    return " ".join(["r2t2 reproduce", settings["table"], f"--model {settings['model']}", *rest, "--out out/reproduce"])


def findings(numbers: Numbers, template: str, command: str, where: str) -> tuple[str, list[str]]:
    """The page, and the claims which the numbers do not bear out.

    Raises:
        R2T2Error: the template asks for a number that is not there.
    """
    refuted = [claim for claim in CLAIM.findall(template) if not numbers.holds(claim)]
    page = CLAIM.sub("", template).replace("{{command}}", command).replace("{{where}}", where)
    return filled(NUMBER.sub(lambda found: numbers.text(found[1]), page)), refuted


def filled(page: str) -> str:
    """The page with the lines of its paragraphs and list items filled: numbers are not as long as their names."""
    blocks = page.strip("\n").split("\n\n")
    return "\n\n".join(one if one.startswith(KEPT) else _fill(one) for one in blocks) + "\n"


def _fill(block: str) -> str:
    lines = []
    for item in ITEM.split(block):
        mark = re.match(MARK, item)
        indent = " " * len(mark[0]) if mark else ""
        words = " ".join(item.split())
        lines += textwrap.wrap(words, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def copy_tables(saved: SavedRun) -> None:
    """Tables and figures of the run, in place of earlier ones."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()
    for name in saved.summary["tables"]:
        shutil.copy(saved.folder / f"{name}.json", RESULTS)
        shutil.copy(saved.folder / f"{name}.csv", RESULTS)
        (RESULTS / f"{name}.md").write_text(markdown(read_table(saved.folder, name)), encoding="utf-8")
    for picture in sorted((saved.folder / "report").glob("*.png")):
        if picture.stem.rpartition("-")[2] in FIGURES:
            shutil.copy(picture, RESULTS)


def overview(saved: SavedRun, where: str) -> str:
    """What each table asks, and what became of the paper's ordering."""
    columns = ["table", "of the paper", "what", "model, settings", "n", "the paper's ordering"]
    lines = []
    for name in saved.summary["tables"]:
        table = read_table(saved.folder, name)
        for model, settings in table["models"].items():
            for setting, part in settings.items():
                found = part["trend"]
                told = VERDICTS[found["verdict"]] if found else "–"
                shows = ", ".join(table["shows"]) or "–"
                link = f"[{name}]({name}.md)"
                lines.append([link, shows, table["title"], f"{model}, {setting}", f"{part['n']:,}", told])
    head = "# The paper's tables on the pocket model\n\n"
    made = f"Made by `{command_of(saved)}` and `python -m benchmarks.reproduce.publish out/reproduce`; {where}.\n\n"
    return f"{head}{made}{markdown_table(columns, lines, align_right=True)}\n"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except R2T2Error as problem:
        sys.exit(str(problem))
