"""`r2t2 cost`: what every method costs a case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


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

    def run(self) -> None:
        """Count, print and, where asked, write."""
        from rich.console import Console

        from r2t2_jax.cli.outputs import check_writable
        from r2t2_jax.evaluation.ledger import Scale, ledger, ledger_record
        from r2t2_jax.loading import load_shapes
        from r2t2_jax.reporting.ledger import ledger_lines, ledger_markdown, ledger_table, paper_lines, rung_lines
        from r2t2_jax.runs.files import publish_json

        scale = Scale(self.k, self.steps, self.points, self.references, embedding=self.embedding)
        if self.out:
            check_writable(self.out)
        found = ledger(load_shapes(self.model, self.question_tokens, self.answer_tokens), scale)
        if self.out:
            publish_json(self.out, ledger_record(found))
        if self.markdown:
            print(ledger_markdown(found))
            return
        console = Console()
        console.print(ledger_table(found))
        for title, lines in (("", ledger_lines(found)), ("ngd:", rung_lines(found)), ("the paper:", paper_lines())):
            for line in filter(None, (title, *lines)):
                console.print(line, highlight=False)
        if self.out:
            console.print(f"Wrote {self.out}.", soft_wrap=True)
