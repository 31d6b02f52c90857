"""`r2t2 pocket scene`: an image and questions to try the embedded model with.

The scene comes from the registered set "pocket", whose split "scene" is n questions on one drawing: this package
imports no port.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PocketScene:
    """Draw a scene for the pocket model and print questions about it with their answers.

    The image is 96 x 96 pixels, as the model sees it. Another seed draws another scene.

    Example: r2t2 pocket scene --seed 1 --out scene.png
    """

    seed: int = 0
    """Draws the scene and its questions."""
    questions: int = 8
    """How many questions to print, the eight families in turn."""
    out: Path = Path("scene.png")
    """PNG file for the image."""

    def run(self) -> None:
        """Draw, write and print."""
        from r2t2_jax.cli.outputs import check_writable
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.pictures import as_png
        from r2t2_jax.runs.files import publish

        if self.out.suffix.lower() != ".png":
            raise R2T2Error(f"the image is a PNG file, so {self.out} must end in .png")
        check_writable(self.out)
        samples = load_dataset("pocket", "scene", self.questions, self.seed)
        publish(self.out, lambda draft: draft.write_bytes(as_png(samples[0].image)))
        print(f"Wrote {self.out}. Questions to try, with their answers:\n")
        width = max(len(sample.question) for sample in samples)
        for sample in samples:
            print(f"  {sample.question:{width}}  {sample.answers[0]}")
