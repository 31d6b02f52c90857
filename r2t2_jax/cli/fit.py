"""`r2t2 fit`: the largest neighbourhood and batch that fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FitMemory:
    """Tell the largest k and the largest batch that fit in memory, from the compiled program; no weights are needed.

    It compiles neighbourhood gradient descent at the model's full shapes for the device at hand, without allocating
    anything, and shows what takes the memory: parameters, the neighbours' features, the samples' own, activations (a ~
    marks those estimated between compiled sizes). The bank's embeddings and what encoding takes before re-routing are
    not counted; leave a tenth for the allocator.

    Example: r2t2 fit --model pocket --memory 24GB
    """

    model: str
    """The model: pocket, moai, mova:8b, a model directory, or module:attribute of your own."""
    memory: str
    """What the device has: 24GB, 80GiB, 512MB."""
    preset: str = "paper"
    """Settings of the descent: a name, or a file that r2t2 tune wrote."""
    question_tokens: int | None = None
    """Length of the question; without it the model's usual one."""
    answer_tokens: int | None = None
    """Length of the answer; without it the model's usual one."""
    out: Path | None = None
    """JSON file for the numbers, in bytes."""

    def run(self) -> None:
        """Compile, print what fits and, where asked, write it."""
        import jax
        from rich.console import Console

        from r2t2_jax.cli.outputs import check_writable
        from r2t2_jax.evaluation.fitting import Memory, fit
        from r2t2_jax.loading import load_shapes
        from r2t2_jax.presets import find_preset
        from r2t2_jax.reporting.memory import fit_lines, footprint_record, memory_table
        from r2t2_jax.runs.files import publish_json
        from r2t2_jax.sizes import format_size, parse_size
        from r2t2_jax.strategies import strategy

        available, preset = parse_size(self.memory), find_preset(self.preset)
        if self.out:
            check_writable(self.out)
        shapes = load_shapes(self.model, self.question_tokens, self.answer_tokens)
        console = Console()
        with console.status("") as status:
            memory = Memory(shapes, strategy("ngd", preset), status.update)
            found = fit(memory, available, preset.k)
        title = f"{shapes.name} in {format_size(available)}, compiled for {jax.default_backend()}"
        console.print(memory_table(title, found))
        for line in fit_lines(found):
            console.print(line, highlight=False)
        if self.out:
            record = {
                "model": shapes.name,
                "backend": jax.default_backend(),
                "jax": jax.__version__,
                "memory": available,
                "preset": preset.to_mapping(),
                "largest_k": footprint_record(found.most_neighbors),
                "largest_batch": footprint_record(found.most_samples),
                "examples": [footprint_record(footprint) for footprint in found.examples],
            }
            publish_json(self.out, record)
            console.print(f"Wrote {self.out}.", soft_wrap=True)
