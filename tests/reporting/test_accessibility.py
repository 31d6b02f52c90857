"""Every page that a command writes, checked with axe-core in Chromium: light and dark, on a screen and on a phone.

The test needs playwright, axe-playwright-python, which brings axe-core, and an installed Chromium.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.reporting import report
from tests.cli.test_json import expert_map, recordings
from tests.evaluation.toy_files import MODEL, arguments, write_all
from tests.reporting.browser import CHROMIUM
from tests.reporting.example_run import make_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
SCREENS = [(400, "light"), (400, "dark"), (1280, "light"), (1280, "dark")]
PAGES = ("answer", "bank", "compare", "demo", "diagnosis", "eval", "map", "packed", "questions", "tune")
REFUSED = ("serious", "critical")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages by name."""
    return write_pages(tmp_path_factory.mktemp("pages"))


def write_pages(folder: Path) -> dict[str, Path]:
    """Run every command that writes a page."""
    paths = {name: folder / f"{name}.html" for name in PAGES}
    files, data = write_all(folder / "files"), ["--data", str(folder / "files" / "one.jsonl")]
    bank, model = str(files / "bank"), ["--model", MODEL]

    def run(*words: str) -> None:
        assert main([*words, "-q"]) in (0, 1)

    (folder / "example").mkdir()
    example = make_run(folder / "example", ("toy:left",))
    run("report", str(example), "--out", str(paths["demo"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "PAGE_BYTES", 1000)
        run("report", str(example), "--out", str(paths["packed"]))
    run(*arguments(files, folder / "evaluation"))
    run("report", str(folder / "evaluation"), "--out", str(paths["eval"]))
    run("bank", "atlas", bank, *model, "--points", "4")
    run("bank", "inspect", bank, "--against", str(files / "one.jsonl"), "--html", str(paths["bank"]))
    run("tune", *model, *data, "--bank", bank, "--budget", "2", "--out", str(folder / "tuning"))
    run("report", str(folder / "tuning"), "--out", str(paths["tune"]))
    run("diagnose", *model, *data, "--bank", bank, "--html", str(paths["diagnosis"]))
    question = json.loads((files / "one.jsonl").read_text().splitlines()[0])
    words = ["--image", str(files / question["image"]), "--question", question["question"], "--bank", bank]
    run("answer", *model, *words, "--html", str(paths["answer"]))
    run("datasets", "show", str(files / "one.jsonl"), "--limit", "12", "--out", str(paths["questions"]))
    first, second = recordings(folder)
    run("experts", "compare", first, second, "--permutations", "20", "--out", str(folder / "compared"))
    paths["compare"] = folder / "compared" / "compare.html"
    paths["map"] = Path(expert_map(folder)) / "map.html"
    return paths


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_serious_violation_and_fits_the_window(name: str, pages: dict[str, Path], browser: Any) -> None:
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).parent / "axe.min.js"
    for width, scheme in SCREENS:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, problems = context.new_page(), []
        page.set_default_timeout(120_000)
        page.on("console", lambda message, problems=problems: problems.append(message.text))
        page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
        page.goto(pages[name].as_uri())
        if name in ("demo", "packed", "eval"):
            page.wait_for_selector(".cases .open")
            page.locator(".cases .open").first.click()
            strategies = page.locator(".views > .controls select").first
            strategies.select_option(strategies.locator("option").last.get_attribute("value"))
            page.wait_for_selector(".view:not([hidden]) .matrix")
        page.add_script_tag(path=str(axe))
        violations = page.evaluate("async () => (await axe.run()).violations")
        refused = [
            f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
            for each in violations
            if each["impact"] in REFUSED
            for node in each["nodes"][:3]
        ]
        assert not refused, (width, scheme, refused)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)
        assert not problems
        context.close()


def test_tables_sort_by_keyboard_and_filter(pages: dict[str, Path], browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(pages["bank"].as_uri())
    table = page.locator("table.stack").nth(1)  # experts
    names = table.locator("tbody th")
    before = names.all_inner_texts()
    assert len(before) >= 3
    for order, expected in (("ascending", sorted(before)), ("descending", sorted(before, reverse=True))):
        table.locator("thead button").first.focus()
        page.keyboard.press("Enter")
        assert table.locator("thead th").first.get_attribute("aria-sort") == order
        assert names.all_inner_texts() == expected
    page.goto(pages["demo"].as_uri())
    methods = page.locator("table.methods").first
    methods.locator("thead button").nth(1).click()  # accuracy, the largest first in each group
    for body in methods.locator("tbody").all():
        shares = [float(text) for text in body.locator("td[data-label='accuracy, %']").all_inner_texts()]
        assert shares == sorted(shares, reverse=True)
    page.close()
