"""`r2t2 aux build`: what other vision models say about the images of a question set, for MoAI."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

GROUP = "r2t2.auxiliary"


@dataclass(frozen=True)
class AuxBuild:
    """Look at every image of a question set with the auxiliary models of MoAI, and store what they find.

    Killed or stopped at any point, the same command goes on where it was. MoAI then takes the folder:
    moai:DIR,aux=FOLDER. The models need the extra `aux`, and fetch their weights when first used.

    Example: r2t2 aux build --dataset questions.jsonl --out out/aux
    """

    dataset: str
    """Question set: a prepared one by name (r2t2 datasets list), or a .jsonl file."""
    out: Path
    """Folder for the records."""
    models: tuple[str, ...] = ("segments", "detections", "ocr")
    """Which models to ask: segments (Mask2Former), detections (OWLv2), ocr (RapidOCR)."""
    scene_graphs: Path | None = None
    """A .jsonl file of scene graphs, made elsewhere: ports/moai/README.md has its format."""
    split: str = ""
    """Split of the questions. Without it the set's first."""
    samples: int | None = None
    """How many questions to choose. Without it the set's own number."""
    seed: int = 0
    """Chooses the questions."""
    port: str = "moai"
    """For which port."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Build, and say which parts were found of how many images."""
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.plugins import find

        build = find(GROUP, self.port, "port with auxiliary models")
        samples = load_dataset(self.dataset, self.split, self.samples, self.seed)
        given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if name not in ("out", "max_hours") and value is not None
        }
        found = build(self.out, samples, self.models, self.scene_graphs, settings, self.max_hours)
        parts = ", ".join(f"{name} {count:,}" for name, count in found.items() if name != "images")
        print(f"Wrote records of {found['images']:,} images to {self.out}; asked for: {parts}.")
