"""`r2t2 cost`: what every method costs a case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from collections.abc import Mapping

    from r2t2_jax.costs.ladder import Ledger


@dataclass(frozen=True)
class Cost:
    """Tell what every method costs a case: evaluations, FLOPs, memory. No weights are needed and nothing is allocated.

    The numbers are closed forms that equal a count over the traced programs. Neighbourhood gradient descent is shown
    rung by rung, from the literal one to the cheapest that gives the same gradient; the atlas with what it costs before
    the first case. Beside it stands Table 4 of the paper.

    Example: r2t2 cost moai:7b
    """

    model: tyro.conf.Positional[str]
    """The model: pocket, moai:7b, mova:8b, a model directory, or module:attribute of your own."""
    k: int = 5
    """Neighbours."""
    steps: int = 10
    """Steps of descent."""
    points: int = 16
    """Points of the loss atlas."""
    references: int = 5000
    """References over which the atlas's making is spread."""
    embedding: int = 4096
    """Numbers of a question's embedding, stored with every reference."""
    question_tokens: int | None = None
    """Length of the question; without it the model's usual one."""
    answer_tokens: int | None = None
    """Length of the answer; without it the model's usual one."""
    markdown: bool = False
    """Print the table as Markdown, and nothing else."""
    out: Path | None = None
    """JSON file for the numbers, FLOPs and bytes."""
    figure: Path | None = None
    """PNG file for a figure of the costs."""
    run_folder: Path | None = None
    """Complete run of this model: the figure then shows accuracy against cost."""

    def run(self) -> None:
        """Count, print and, where asked, write and draw."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.costs.ladder import Scale, ledger, ledger_record
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.plugins import load_shapes
        from r2t2_jax.reporting.costs import ledger_markdown
        from r2t2_jax.runs.atomic_io import publish_json

        if self.run_folder and not self.figure:
            raise R2T2Error("a run says how accurate the methods are, which the figure shows: name one with --figure")
        scale = Scale(self.k, self.steps, self.points, self.references, embedding=self.embedding)
        for path in filter(None, (self.out, self.figure)):
            check_writable(path)
        shapes = load_shapes(self.model, self.question_tokens, self.answer_tokens)
        accuracies = self._accuracies(shapes.name)
        found = ledger(shapes, scale)
        if self.out:
            publish_json(self.out, ledger_record(found))
        if self.figure:
            self._draw(found, accuracies)
        if self.markdown:
            print(ledger_markdown(found))
        else:
            self._print(found)

    def _accuracies(self, model: str) -> dict[str, float] | None:
        """By strategy, as the run has them."""
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.results import read_results
        from r2t2_jax.runs.reading import open_run

        if self.run_folder is None:
            return None
        results = {result.name: result for result in read_results(open_run(self.run_folder))}
        if model not in results:
            raise R2T2Error(f"the run in {self.run_folder} is of {', '.join(results)}; {model} is not among them")
        return {name: row["accuracy"] for name, row in results[model].summary["strategies"].items()}

    def _draw(self, found: Ledger, accuracies: Mapping[str, float] | None) -> None:
        from r2t2_jax.reporting.figures.cost import ledger_picture
        from r2t2_jax.reporting.style import render_figure, shared_style

        assert self.figure is not None
        with shared_style():
            self.figure.write_bytes(render_figure(ledger_picture(found, accuracies)).png)

    def _print(self, found: Ledger) -> None:
        from rich.console import Console

        from r2t2_jax.reporting.costs import ledger_lines, ledger_table, paper_lines, rung_lines

        console = Console()
        console.print(ledger_table(found))
        for title, lines in (("", ledger_lines(found)), ("ngd:", rung_lines(found)), ("the paper:", paper_lines())):
            for line in filter(None, (title, *lines)):
                console.print(line, highlight=False)
        for path in filter(None, (self.out, self.figure)):
            console.print(f"Wrote {path}.", soft_wrap=True)


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

        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.costs.memory import Memory, fit
        from r2t2_jax.methods import find_preset, strategy
        from r2t2_jax.plugins import load_shapes
        from r2t2_jax.reporting.costs import fit_lines, footprint_record, memory_table
        from r2t2_jax.runs.atomic_io import publish_json
        from r2t2_jax.runtime.memory import format_size, parse_size

        available, preset = parse_size(self.memory), find_preset(self.preset)
        if self.out:
            check_writable(self.out)
        shapes = load_shapes(self.model, self.question_tokens, self.answer_tokens)
        console = Console()
        with console.status("") as status:
            memory = Memory(shapes, strategy("ngd", preset), status.update)
            found = fit(memory, available, preset.neighborhood.k)
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
