"""`r2t2 convert`: converts a PyTorch checkpoint into a model directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

GROUP = "r2t2.converters"


@dataclass(frozen=True)
class Convert:
    """Convert a PyTorch checkpoint into a model directory, which loads without PyTorch.

    Names and shapes are checked first, and all mismatches are listed. Weights keep their dtype and are streamed, so
    that memory does not grow with the model. The directory is written completely or not at all; after an interruption
    run the same command again.

    Example: r2t2 convert mova SRC DST
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """Model to convert: mova, moai, or an embedder (minilm, stella, gte_qwen2, nv_embed). The weights of nv_embed are
    for non-commercial use only (CC-BY-NC-4.0)."""
    source: Annotated[Positional[str], arg(metavar="SRC")]
    """Folder with config.json and safetensors or .bin weights; or a hub id (owner/name), with the extra `convert`."""
    destination: Annotated[Positional[Path], arg(metavar="DST")]
    """Model directory to create."""
    quiet: bool = False
    """Hide the progress bar."""
    vocab: Path | None = None
    """A vocab.txt, used instead of that of SRC. MoVA needs that of its text encoder, bert-large-uncased."""
    tokenizer: Path | None = None
    """Folder with tokenizer files (tokenizer.json, tokenizer.model, ...), used instead of those of SRC."""
    strict: bool = False
    """Refuse fields of config.json that the port does not know, instead of warning of them and recording them in
    model.json."""

    def run(self) -> None:
        """Convert the checkpoint and print a summary."""
        from r2t2_jax.plugins import find

        model = find(GROUP, self.model, "model to convert").convert(
            self.source,
            self.destination,
            progress=not self.quiet,
            strict=self.strict,
            tokenizer=self.tokenizer,
            vocabulary=self.vocab,
        )
        report = model["report"]
        print(
            f"Wrote {self.destination}: {report['mapped']} tensors became {len(model['parameters'])} parameters"
            f" ({', '.join(model['dtype'])}), {len(report['ignored'])} are known and not needed."
        )
