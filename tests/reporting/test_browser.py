"""The report in headless Chromium, where there is one: nothing on the console, nothing wider than the window."""

from pathlib import Path

import pytest

from r2t2_jax.reporting.report import write_report
from tests.reporting.browser import CHROMIUM, Seen, look
from tests.reporting.example_run import make_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("seen"), ("toy:left",)))


@pytest.mark.parametrize("width", [400, 1280])
def test_the_report_fits_the_window_and_shows_every_picture(report: Path, width: int) -> None:
    assert look(report, width) == Seen(width, broken=0, wide=0, console=[])


def test_what_is_looked_for_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    image = '<img src="data:image/png;base64,AA">'
    page.write_text(f'<p style="width:900px">wide</p>{image}<script>console.error("no")</script>')
    seen = look(page, 400)
    assert seen.width > 400
    assert seen.broken == 1
    assert len(seen.console) == 1
