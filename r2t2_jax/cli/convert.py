"""`r2t2 convert`: a PyTorch checkpoint becomes a model directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

GROUP = "r2t2.converters"


@dataclass(frozen=True)
class Convert:
    """Convert a PyTorch checkpoint into a model directory, which loads without PyTorch.

    Names and shapes are checked first, and all that does not fit is told at once. Weights keep their dtype and are
    streamed, so that memory does not grow with the model. The directory appears whole or not at all; an interrupted
    conversion is simply run again.

    Example: r2t2 convert mova SRC DST
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """What is converted: mova, moai, or an embedder (minilm, stella, gte_qwen2, nv_embed). The weights of nv_embed are
    for non-commercial use only (CC-BY-NC-4.0)."""
    source: Annotated[Positional[str], arg(metavar="SRC")]
    """Folder with config.json and safetensors or .bin weights; or a hub id (owner/name), with the extra `convert`."""
    destination: Annotated[Positional[Path], arg(metavar="DST")]
    """The model directory to make."""
    quiet: bool = False
    """Show no progress bar."""

    def run(self) -> None:
        """Convert, and say what was mapped."""
        from r2t2_jax.plugins import find

        model = find(GROUP, self.model, "model to convert").convert(
            self.source, self.destination, progress=not self.quiet
        )
        report = model["report"]
        print(
            f"Wrote {self.destination}: {report['mapped']} tensors became {len(model['parameters'])} parameters"
            f" ({', '.join(model['dtype'])}), {len(report['ignored'])} are known and not needed."
        )
