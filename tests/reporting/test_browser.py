"""The report in headless Chromium, if it is installed: an empty console, and nothing wider than the window."""

from pathlib import Path

import pytest

from r2t2_jax.reporting.report import write_report
from tests.reporting.browser import CHROMIUM, PageCheck, check_page
from tests.reporting.example_run import B, make_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("browser"), ("toy:left",)))


@pytest.mark.parametrize("width", [400, 1280])
def test_the_report_fits_the_window_and_shows_one_strategy_and_all_cases(report: Path, width: int) -> None:
    assert check_page(report, width) == PageCheck(width, broken=0, wide=0, views=1, cases=B, console=[])


def test_the_check_detects_wide_text_broken_images_and_console_errors(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    image = '<img src="data:image/png;base64,AA">'
    page.write_text(f'<p style="width:900px">wide</p>{image}<script>console.error("no")</script>')
    check = check_page(page, 400)
    assert check.width > 400
    assert check.broken == 1
    assert len(check.console) == 1
