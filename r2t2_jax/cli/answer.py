"""`r2t2 answer`: one question, before and after re-routing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """Ask one question about an image: the router's answer, the re-routed one, and the references that led to it.

    Example: r2t2 pocket scene --out scene.png && r2t2 answer --model pocket:narrow --image scene.png --question "what
    is printed on the circle ?"
    """

    model: str
    """The model: a port such as pocket:narrow, or module:attribute of your own."""
    image: Path
    """The image."""
    question: str
    """What to ask about it."""
    strategy: str | None = None
    """How to re-route; ngd by default. A wrong name is answered with all of them."""
    preset: str | None = None
    """The strategy's numbers: a name, or a file that r2t2 tune wrote. Without it the model's own, else the paper's."""
    bank: Path | None = None
    """Bank directory. Without it the references registered with the model are collected."""
    embedder: str = ""
    """What finds like questions: the bank's embedder (minilm:DIR, hashed_words). Without it the model's own."""
    routing: str | None = None
    """Answer with these weights instead of a strategy's: JSON [layers][experts] or [experts], or @FILE with it."""
    html: Path | None = None
    """HTML file for the same as a page."""

    def run(self) -> None:
        """Answer, print and, where asked, write the page."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.evaluation.setup import open_port
        from r2t2_jax.inference import Prediction, answer
        from r2t2_jax.reporting.answer_report import as_page

        if self.html:
            check_writable(self.html)
        answered = answer(
            open_port(self.model, self.embedder),
            self.image,
            self.question,
            strategy=self.strategy,
            preset=self.preset,
            bank=self.bank,
            routing=None if self.routing is None else read_routing(self.routing),
        )
        assert isinstance(answered, Prediction)  # one question, one answer
        print(answered)
        if self.html:
            from r2t2_jax.runs.atomic_io import atomic_write

            atomic_write(self.html, lambda draft: draft.write_text(as_page(answered), encoding="utf-8"))
            print(f"Wrote {self.html}.")


def read_routing(text: str) -> Any:
    """JSON, or the JSON in the file after an `@`.

    Raises:
        R2T2Error: the file cannot be read, or it is no JSON.
    """
    from r2t2_jax.errors import R2T2Error

    try:
        content = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        return json.loads(content)
    except (OSError, UnicodeDecodeError) as error:
        raise R2T2Error(f"cannot read the routing weights {text[1:]}: {error}") from error
    except ValueError as error:
        raise R2T2Error(f"--routing is no JSON ({error}); give [[...], ...] or @FILE") from error
