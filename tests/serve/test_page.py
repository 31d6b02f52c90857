"""The page: what it shows of an answer; and, with Gradio, Chromium and Playwright, that it works in a browser."""

import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from r2t2_jax import answer
from r2t2_jax.cli.main import main
from r2t2_jax.serve import Settings
from r2t2_jax.serve.page import FILES, OWN, PageBuilder, heat_map, path_plots
from r2t2_jax.serve.server import bind, make_server, open_service, serve
from tests.reporting.browser import CHROMIUM
from tests.serve.live import SAMPLE, Live, until


@pytest.fixture
def builder(live: Live) -> PageBuilder:
    return PageBuilder(live.service)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(SAMPLE.image).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_an_answer_shows_both_answers_routing_neighbors_path_and_cost(
    builder: PageBuilder, live: Live, image: Path
) -> None:
    page = builder.ask(str(image), SAMPLE.question, "ngd", OWN)
    engine = live.service.engine
    expected: Any = answer(engine.port, SAMPLE.image, SAMPLE.question, bank=engine.bank, preset="toy")
    texts = re.findall(r'<div class="text">(.*?)</div>', page)
    assert texts == [expected.before, expected.after]
    assert page.count("<td") == 2 * expected.weights.size
    assert f"{100 * expected.weights[0, 0]:.1f}" in page
    assert page.count('class="bar"') == len(expected.neighbors) and expected.neighbors[0].question in page
    assert page.count("<svg") == 2 and page.count("<polyline") == 6
    assert f"{expected.evaluations} evaluations, preset toy" in page
    assert "http" not in page


def test_experts_are_boosted_and_masked(builder: PageBuilder, image: Path) -> None:
    number = ("left", "middle", "right").index(SAMPLE.experts[0])
    page = builder.ask(str(image), SAMPLE.question, "ngd", OWN, [number], 10.0, [(number + 1) % 3])
    assert re.findall(r'<div class="text">(.*?)</div>', page)[1] == SAMPLE.answers[0] and "after: steer" in page
    assert "layers" in builder.ask(str(image), SAMPLE.question, "ngd", OWN, [number], 1.0, [], "7-9")


def test_base_is_shown_without_neighbors_or_path(builder: PageBuilder, image: Path) -> None:
    page = builder.ask(str(image), SAMPLE.question, "base", OWN)
    before, after = re.findall(r'<div class="text">(.*?)</div>', page)
    assert before == after and "Neighbors" not in page and "Path by step" not in page


def test_what_is_wrong_is_shown_without_paths(builder: PageBuilder, image: Path) -> None:
    image.write_bytes(b"<script>alert(1)</script>")
    cases = {
        (str(image), SAMPLE.question): "the image cannot be read",
        (str(image.parent / "none.png"), SAMPLE.question): "the image cannot be read",
        (None, "  "): "the question is empty",
    }
    for (path, question), problem in cases.items():
        page = builder.ask(path, question, "ngd", OWN)
        assert problem in page and str(image.parent) not in page and "<script" not in page
    assert "unknown strategy" in builder.ask(None, "What is left?", "<b>magic</b>", OWN)
    assert "unknown preset" in builder.ask(None, "What is left?", "ngd", "a.json")
    assert "<b>" not in builder.ask(None, "What is left?", "<b>magic</b>", OWN)


def test_large_weights_are_pictures_and_few_layers_are_plotted() -> None:
    rng = np.random.default_rng(0)
    path = rng.dirichlet(np.ones(40), size=(5, 9))  # [P, L, E]
    assert heat_map(path[0]).startswith(b"\x89PNG")
    experts, layers = tuple(f"e{i}" for i in range(40)), tuple(f"l{i}" for i in range(9))
    prediction: Any = SimpleNamespace(path=path, experts=experts, layers=layers)
    plots = path_plots(prediction)
    assert len(plots) == 4 and all(len(plot["lines"]) == 6 and plot["steps"] == 4 for plot in plots)
    assert path_plots(SimpleNamespace(path=path[:1], experts=experts, layers=layers)) == []  # type: ignore[arg-type]


def check_names_of_files(url: str, image: Path) -> None:
    """Replies name no folder of the machine, and the names that they give can be read."""
    from gradio.utils import get_upload_folder

    with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
        page = client.get("/").text
        assert get_upload_folder() not in page and "/site-packages" not in page
        (name,) = client.post("gradio_api/upload", files={"files": image.read_bytes()}).json()
        assert name.startswith(FILES) and client.get(f"gradio_api/file={name}").content == image.read_bytes()
        (example, *_) = re.findall(rf"{FILES}/[^\"]+\.png", page)
        assert client.get(f"gradio_api/file={example}").content.startswith(b"\x89PNG")
        assert client.get(f"gradio_api/file={FILES}/../../etc/passwd").status_code in (403, 404)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Gradio's own dependencies
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_picture_is_uploaded_and_answered_in_a_browser_without_the_internet(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    from r2t2_jax.serve.app import create_app
    from r2t2_jax.serve.guard import Access
    from r2t2_jax.serve.page import mount_page

    assert main(["pocket", "scene", "--seed", "1", "--out", str(tmp_path / "scene.png")]) == 0
    service, warming = open_service(Settings("pocket:narrow", batch_size=1))
    bound, access = bind("127.0.0.1", 0), Access()
    app = create_app(service, access)
    mount_page(app, service, access)
    server = make_server(app)
    service.batcher.start(warming)
    thread = threading.Thread(target=serve, args=(server, service, bound))
    thread.start()
    until(lambda: server.started and service.batcher.ready)
    url, elsewhere, problems = f"http://127.0.0.1:{bound.getsockname()[1]}/", list[str](), list[str]()
    try:
        check_names_of_files(url, tmp_path / "scene.png")
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for width in (1280, 400):
                page = browser.new_page(viewport={"width": width, "height": 900})
                page.set_default_timeout(300_000)
                page.on("request", lambda request: elsewhere.append(request.url))
                page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
                page.goto(url)
                page.set_input_files("input[type=file]", str(tmp_path / "scene.png"))
                page.locator("tr", has_text="what pattern").first.click()  # an example
                page.fill("#question textarea", "what pattern is on the circle ?")
                page.wait_for_selector("img[src*='file=']")
                page.click("#ask")
                page.wait_for_selector("#answer .r2t2-answer")
                texts = page.locator("#answer .text").all_inner_texts()
                assert texts == ["checkered", "solid"]
                assert page.evaluate("document.documentElement.scrollWidth") == width
                page.screenshot(path=str(tmp_path / f"answer-{width}.png"), full_page=True)
                page.click("#steer button")
                page.locator("#mask label", has_text="texture").click()
                page.click("#ask")
                page.wait_for_selector("#answer :text('after: steer')")
                page.screenshot(path=str(tmp_path / f"page-{width}.png"), full_page=True)
                page.close()
            browser.close()
    finally:
        service.batcher.drain()
        server.should_exit = True
        thread.join()
        service.batcher.close()
    assert [address for address in elsewhere if not address.startswith((url, "data:", "blob:"))] == []
    assert problems == []
