"""`r2t2 diagnose`: whether re-routing will help a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Diagnose:
    """Tell whether re-routing will help a model: what could be gained, what can be, and what equal weights gain.

    On labelled questions it compares the router with equal weights, with descent on near and on random references, and
    with the best routing that the labels lead to. Five questions are answered from stated tests, then comes a verdict;
    docs/diagnose.md tells how to read it.

    Exit code: 0 if re-routing helps, 1 if it does not or the samples do not tell.

    Example: r2t2 diagnose --model pocket:narrow --data pocket --limit 100
    """

    model: str
    """The model: a port such as pocket:narrow, or module:attribute of your own."""
    data: str
    """Labelled questions: a registered set or a .jsonl file."""
    bank: Path | None = None
    """Bank directory. Without it the references registered with the model are collected."""
    embedder: str = ""
    """What finds like questions: the bank's embedder (minilm:DIR, hashed_words). Without it the model's own."""
    split: str | None = None
    """Split of the questions; without it validation, or all lines of a .jsonl file."""
    limit: int = 100
    """How many questions to ask."""
    preset: str | None = None
    """Settings of every row: a name, or a file that r2t2 tune wrote. Without it the model's own, else the paper's."""
    metric: str | None = None
    """What counts as a right answer. Without it the set's official metric."""
    worthwhile: float = 0.05
    """The smallest gain worth having, as a share of all answers."""
    seed: int = 0
    """Draws questions and random references."""
    out: Path | None = None
    """JSON file for the numbers behind the words."""

    def run(self) -> int:
        """Measure, print the diagnosis and, where asked, write it."""
        from r2t2_jax.analysis.diagnose import port_evidence
        from r2t2_jax.analysis.diagnosis import check_enough, diagnose_evidence
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.evaluation.encode import encode_questions
        from r2t2_jax.evaluation.setup import metric_for, open_bank, open_port, open_questions
        from r2t2_jax.method.presets import find_preset, own_preset
        from r2t2_jax.reporting.diagnosis import diagnosis_text
        from r2t2_jax.runs.atomic_io import publish_json
        from r2t2_jax.runs.fingerprint import versions

        if self.out:
            check_writable(self.out)
        port, metric = open_port(self.model, self.embedder), metric_for(self.data, self.metric or "")
        name = self.preset or own_preset(port.name, port.presets)
        preset = find_preset(name, port.presets)
        samples = open_questions(self.data, self.split, self.limit, self.seed)
        check_enough(len(samples))
        bank = open_bank(port, self.bank, metric, samples)
        evidence = port_evidence(port, bank, encode_questions(port, samples), preset, metric, self.seed)
        diagnosis = diagnose_evidence(evidence, self.worthwhile)
        print(f"{port.name} on {self.data}: {len(samples):,} questions, {len(bank):,} references, preset {name}\n")
        print(diagnosis_text(diagnosis))
        if self.out:
            settings = asdict(self) | {"bank": self.bank and str(self.bank), "out": str(self.out)}
            beside = {"model": port.fingerprint, "references": len(bank), "preset": preset.to_mapping()}
            record = {"command": "diagnose", "settings": settings, "versions": versions(), **beside}
            publish_json(self.out, record | diagnosis.to_record())
            print(f"\nWrote {self.out}.")
        return 0 if diagnosis.helps else 1
