"""`r2t2 answer`: one question, before and after re-routing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2t2_jax.cli.output import print_json


@dataclass(frozen=True)
class Answer:
    """Answer one question about an image with the router's own weights and after re-routing, and show its references.

    Example: r2t2 pocket scene --out scene.png && r2t2 answer --model pocket:narrow --image scene.png --question "what
    is printed on the circle ?"
    """

    model: str
    """The model: a port such as pocket:narrow, or module:attribute of your own."""
    question: str
    """The question about the image."""
    image: Path | None = None
    """The image; leave it out for a model that reads text only."""
    strategy: str | None = None
    """Strategy; r2t2 strategies lists them. Default: ngd."""
    preset: str | None = None
    """Settings of the strategy: a name, or a file from r2t2 tune. Default: the model's own, else the paper's."""
    bank: Path | None = None
    """Bank directory. Default: the references registered with the model are collected once and kept in the cache."""
    embedder: str = ""
    """Embedder of the questions; must be the bank's (minilm:DIR, hashed_words). Default: the model's own."""
    routing: str | None = None
    """Routing weights to answer with instead of a strategy: JSON [layers][experts] or [experts], or @FILE with JSON."""
    steer: Path | None = None
    """Steering file to answer with instead of a strategy: experts to select, mask, boost or weigh."""
    beams: int = 1
    """Beams of the search for an answer, for models that have one; 1 is greedy, 3 the setting of the published MoAI."""
    max_new_tokens: int | None = None
    """Longest answer in tokens. Default: the model's."""
    html: Path | None = None
    """HTML file to write the same content to."""

    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> None:
        """Answer, print and, with `--html`, write the page."""
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        enable_compilation_cache(least_seconds=0.0)

        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.datasets.images import encoded_image
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.evaluation.setup import open_port, with_decoding
        from r2t2_jax.inference import answer, check_alternatives
        from r2t2_jax.methods import method_of
        from r2t2_jax.reporting.answer_report import as_page, as_text
        from r2t2_jax.steering.files import read_steering
        from r2t2_jax.validation.strategies import check_strategies

        if self.html:
            check_writable(self.html)
        check_alternatives(self.strategy, self.preset, self.bank, self.routing, self.steer)
        routing = None if self.routing is None else read_routing(self.routing)
        steering = None if self.steer is None else read_steering(self.steer)
        if not self.question.strip():
            raise R2T2Error("--question is empty: ask something")
        if self.image is not None:
            encoded_image(self.image, "cannot answer")
        bank = None if self.bank is None else ReferenceBank.open(self.bank)
        if self.strategy is not None:
            check_strategies({self.strategy: method_of(self.strategy)}, (), bank, model=self.model)
        prediction = answer(
            with_decoding(open_port(self.model, self.embedder, self.preset), self.beams),
            self.image,
            self.question,
            strategy=self.strategy,
            preset=self.preset,
            bank=self.bank,
            routing=routing,
            steering=steering,
            max_new_tokens=self.max_new_tokens,
        )
        if self.json:
            left_out = ("image", "path", "losses")
            print_json({name: value for name, value in vars(prediction).items() if name not in left_out})
        else:
            print(as_text(prediction))
        if self.html:
            from r2t2_jax.runs.atomic_io import atomic_write

            atomic_write(self.html, lambda draft: draft.write_text(as_page(prediction), encoding="utf-8", newline="\n"))
            if not self.json:
                print(f"Wrote {self.html}.")


def read_routing(text: str) -> Any:
    """The value of a JSON text, or of the JSON file after an `@`.

    Raises:
        R2T2Error: the file cannot be read, or the text is not JSON or holds no lists of numbers.
    """
    from r2t2_jax.errors import R2T2Error
    from r2t2_jax.runtime.typed_files import read_text
    from r2t2_jax.runtime.typed_json import parse_json

    if text.startswith("@"):
        try:
            text, where = read_text(Path(text[1:])), text[1:]
        except R2T2Error as error:
            raise R2T2Error(f"cannot read the routing weights {text[1:]}: {error}") from error
    else:
        where = "--routing"
    try:
        weights = parse_json(text, where, lines=where != "--routing").content
    except R2T2Error as error:
        raise R2T2Error(f"--routing is not JSON ({error}); give [[...], ...] or @FILE") from error
    if not _is_weights(weights):
        raise R2T2Error(
            "--routing holds no routing weights: give numbers by expert, [0.5, 0.5], or by layer and expert, "
            "[[0.5, 0.5], ...]"
        )
    return weights


def _is_weights(weights: Any) -> bool:
    rows = weights if isinstance(weights, list) and weights and isinstance(weights[0], list) else [weights]
    return all(
        isinstance(row, list) and row and all(isinstance(x, int | float) and not isinstance(x, bool) for x in row)
        for row in rows
    )
