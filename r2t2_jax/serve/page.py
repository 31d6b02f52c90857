"""The page at `/`: an image and a question, answered before and after re-routing (Gradio).

Axis letters: L routed layers, E experts, P points of a path.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from jaxtyping import Float, UInt8
from PIL import Image

from r2t2_jax.contract import Port, Sample, Turn
from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error, missing_extra
from r2t2_jax.evaluation.setup import reference_set
from r2t2_jax.inference import Prediction
from r2t2_jax.reporting.images import as_png
from r2t2_jax.reporting.page import render_template
from r2t2_jax.reporting.style import SERIES
from r2t2_jax.serve.app import Service
from r2t2_jax.serve.engine import AnsweredQuestion
from r2t2_jax.serve.guard import Access, FolderAlias
from r2t2_jax.serve.schemas import MAX_PROMPT, ApiError, Rerouting

TITLE = "Re-routing"
FILES = "/files-of-the-page"  # how clients see the folder of uploads and examples
MAX_CELLS = (12, 16)  # layers and experts of a heat map with numbers; larger ones are pictures
LINES, PLOTS = 6, 4  # experts of a plot of the path, and plots
WIDTH, HEIGHT = 240, 90  # of a plot
SCENES = 3  # images of the examples
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
footer { display: none !important; }
"""


def mount_page(app: FastAPI, service: Service, access: Access) -> None:
    """Add the page to the application.

    Raises:
        R2T2Error: Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if "gradio" not in sys.modules and "GRADIO_TEMP_DIR" not in os.environ:  # Gradio reads it when it is imported
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="r2t2-page-")
        atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    try:
        import gradio
        from gradio.utils import get_upload_folder
    except ImportError as error:
        raise missing_extra("the page of r2t2 serve (--no-page leaves it out)", "gradio", "serve") from error
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gradio.mount_gradio_app(
        app,
        PageBuilder(service).blocks(),
        path="/",
        auth=(lambda user, key: access.accepts(key)) if access.key else None,
        auth_message="Give any name, and the API key of this server as the password.",
        max_file_size=service.reader.max_bytes,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=theme,
        css=CSS,
    )
    mounted: Any = app.routes[-1]
    mounted.app = FolderAlias(mounted.app, get_upload_folder(), FILES)


@dataclass
class PageBuilder:
    """The blocks of the page over a service."""

    service: Service
    images: ReferenceImages = field(init=False)

    def __post_init__(self) -> None:
        self.images = ReferenceImages(self.service.engine.port)

    def blocks(self) -> Any:
        """The page as Gradio blocks."""
        with tempfile.TemporaryDirectory(prefix="r2t2-examples-") as folder:  # Gradio copies its files
            return self._blocks(self._examples(Path(folder)))

    def _blocks(self, examples: list[list[str]]) -> Any:
        import gradio

        engine = self.service.engine
        title = f"{TITLE}: {self.service.name}"
        with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
            gradio.Markdown(f"## {TITLE}: `{self.service.name}`\nAsk about an image, and see what re-routing changes.")
            with gradio.Row():
                with gradio.Column(scale=1, min_width=300):
                    sources: Any = ["upload", "clipboard"]
                    image = gradio.Image(label="Image", type="filepath", image_mode=None, sources=sources, height=260)
                    question = gradio.Textbox(label="Question", lines=2, max_length=MAX_PROMPT, elem_id="question")
                    with gradio.Row():
                        strategy = gradio.Dropdown(list(engine.strategies), value=engine.strategy, label="Strategy")
                        preset = gradio.Dropdown([OWN, *engine.presets], value=OWN, label="Preset")
                    with gradio.Accordion("Steer experts in place of the strategy", open=False, elem_id="steer"):
                        experts: Any = list(enumerate_names(engine.port.model.spec.experts))
                        boosted = gradio.CheckboxGroup(experts, label="Boost", elem_id="boost")
                        strength = gradio.Slider(0, 10, value=2, step=0.5, label="Boost by, logits")
                        masked = gradio.CheckboxGroup(experts, label="Mask", elem_id="mask")
                        layers = gradio.Textbox("all", label="Layers: all, last5, 0-3", max_length=200)
                    button = gradio.Button("Ask", variant="primary", elem_id="ask")
                with gradio.Column(scale=2, min_width=320):
                    output = gradio.HTML("", elem_id="answer")
            if examples:
                gradio.Examples(examples, [image, question], cache_examples=False, examples_per_page=6)
            inputs = [image, question, strategy, preset, boosted, strength, masked, layers]
            for event in (button.click, question.submit):
                event(self.ask, inputs, output, api_visibility="private")
        page.queue(max_size=64, default_concurrency_limit=4)
        return page

    def ask(
        self,
        image: str | None,
        question: str,
        strategy: str,
        preset: str,
        boosted: Sequence[int] = (),
        strength: float = 0.0,
        masked: Sequence[int] = (),
        layers: str = "all",
    ) -> str:
        """The answers as HTML; an error as a line.

        Args:
            image: path of the uploaded file.
            question: about it.
            strategy, preset: `OWN` for the server's preset.
            boosted, strength: positions of experts whose logits are raised, and by how much.
            masked: positions of experts that must not be chosen.
            layers: of the steering, as in a steering file.
        """
        rerouting = Rerouting(strategy=strategy, preset=None if preset == OWN else preset)
        rules: list[dict[str, Any]] = []
        if masked:
            rules.append({"layers": layers, "mask": list(masked)})
        if boosted:
            rules.append({"layers": layers, "boost": list(boosted), "lambda": float(strength)})
        if rules:
            rerouting = Rerouting(steer={"steering": 1, "rules": rules})
        try:
            return self._answer(image, question, rerouting)
        except ApiError as error:
            return render_template("serve_answer.html.j2", problem=str(error))

    def _answer(self, image: str | None, question: str, rerouting: Rerouting) -> str:
        service = self.service
        with service.batcher.place(), service.reader.memory.account() as account:
            choice = service.engine.choose(rerouting)
            pixels = [] if image is None else [service.reader.decode(_content(image), "image", account)]
            prepared = service.engine.prepare(choice, [Turn("user", (*pixels, (question or "")[:MAX_PROMPT]))])
            answered = service.batcher.submit(replace(prepared, before=True)).result()
        return self.render(answered)

    def render(self, answered: AnsweredQuestion) -> str:
        """An answer as HTML."""
        prediction = answered.prediction
        return render_template(
            "serve_answer.html.j2",
            problem="",
            prediction=prediction,
            before=prediction.before if prediction.strategy != "base" else prediction.after,
            notes=_notes(answered),
            maps=[
                ("before", heat_map(prediction.router_weights)),
                ("after", heat_map(prediction.weights)),
            ],
            numbers=_has_numbers(prediction),
            neighbors=[(each, self.images.png(each.id)) for each in prediction.neighbors],
            plots=path_plots(prediction),
            losses=[float(loss) for loss in prediction.losses if np.isfinite(loss)],
        )

    def _examples(self, folder: Path) -> list[list[str]]:
        """Images and questions of the set that is registered with the port, if it has scenes for demonstrations."""
        rows = []
        for seed in range(1, SCENES + 1):
            try:
                samples = load_dataset(reference_set(self.service.engine.port), "scene", 4, seed)
            except R2T2Error:
                return []
            file = folder / f"scene-{seed}.png"
            Image.fromarray(samples[0].pixels()).save(file)
            rows += [[str(file), sample.question] for sample in samples]
        return rows


OWN = "own"  # the server's settings


def enumerate_names(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Names with their positions, as choices of Gradio."""
    return ((name, i) for i, name in enumerate(names))


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        raise ApiError(400, "the image cannot be read; upload it again", "image") from None


def _notes(answered: AnsweredQuestion) -> list[str]:
    prediction = answered.prediction
    notes = list(answered.notes)
    if prediction.used_fallback:
        notes.append("No neighbor had any weight: the router's own weights were kept.")
    if prediction.is_reference:
        notes.append("This question about this image is a reference: the bank holds its answer.")
    return notes


def _has_numbers(prediction: Prediction) -> bool:
    layers, experts = prediction.weights.shape
    return layers <= MAX_CELLS[0] and experts <= MAX_CELLS[1]


def heat_map(weights: Float[np.ndarray, "L E"]) -> bytes:
    """A picture of the weights, a row per layer: white for 0, blue for the largest weight."""
    share = np.clip(weights / max(float(weights.max()), 1e-9), 0, 1)[..., None]
    pixels = (255 * (1 - share) + np.array([0, 114, 178]) * share).round().astype(np.uint8)
    scale = max(1, 480 // pixels.shape[1])
    return as_png(pixels.repeat(scale, axis=0).repeat(scale, axis=1))


def path_plots(prediction: Prediction) -> list[Mapping[str, Any]]:
    """Lines of the experts' weights by step, for the layers that move most; empty without steps."""
    path = np.asarray(prediction.path, np.float64)  # [P, L, E]
    if len(path) < 2:
        return []
    moved = np.abs(path[-1] - path[0]).sum(axis=-1)
    plots = list[Mapping[str, Any]]()
    for layer in sorted(np.argsort(-moved, kind="stable")[:PLOTS].tolist()):
        weights = path[:, layer]
        chosen = np.argsort(-weights.max(axis=0), kind="stable")[:LINES].tolist()
        x = np.linspace(0, WIDTH, len(weights)).round(1)
        y = HEIGHT * (1 - weights.clip(0, 1))  # [P, E]
        lines = [
            {
                "expert": prediction.experts[expert],
                "color": SERIES[i % len(SERIES)],
                "points": " ".join(f"{a},{b:.1f}" for a, b in zip(x, y[:, expert], strict=True)),
            }
            for i, expert in enumerate(chosen)
        ]
        plots.append({"layer": prediction.layers[layer], "lines": lines, "steps": len(weights) - 1})
    return plots


class ReferenceImages:
    """The images of a port's registered references, which are loaded in the background."""

    def __init__(self, port: Port) -> None:
        self._by_id: dict[str, UInt8[np.ndarray, "height width 3"]] = {}
        threading.Thread(target=self._load, args=(port,), name="r2t2-images", daemon=True).start()

    def _load(self, port: Port) -> None:
        with contextlib.suppress(R2T2Error):
            samples: Sequence[Sample] = load_dataset(reference_set(port), "reference")
            self._by_id = {sample.id: sample.image for sample in samples if sample.image is not None}

    def png(self, name: str) -> bytes | None:
        """The image of a reference; `None` if it is not known."""
        image = self._by_id.get(name)
        return None if image is None else as_png(image)
