"""`r2t2 diagnose`: whether re-routing will help a model. `r2t2 check`: whether a port keeps the contract."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from r2t2_jax.cli.output import print_json
from r2t2_jax.cli.parsing import Sets, recorded_sets

NOT_AUDITED = ("bank", "preset", "embedder", "metric", "worthwhile", "allow_leakage", "beams", "max_new_tokens")
HOST_CHECKS = ("prepare", "answer_ids", "embed")  # of `r2t2 check`, which depend on the questions


@dataclass(frozen=True)
class Diagnose:
    """Test whether re-routing will help a model: the largest possible gain, the gain of ngd, the gain of equal weights.

    On labeled questions it compares the router with equal weights, with descent on near and on random references, and
    with the best routing for the labels. Statistical tests answer five questions and lead to a verdict. An audit then
    compares the router's routes with alternatives of equal compute, layer by layer; --audit-only does nothing else, and
    needs no references. docs/diagnose.md explains how to read both.

    Exit code: 0 if re-routing helps (with --audit-only: if a layer has better routes), 1 if it does not or there are
    too few samples to decide.

    Example: r2t2 diagnose --model pocket:narrow --data pocket --limit 100
    """

    model: str
    """The model: a port such as pocket:narrow, or module:attribute of your own."""
    data: Sets
    """Labeled questions: names of prepared sets, or .jsonl files. Also --tasks, --benchmark, --dataset."""
    bank: Path | None = None
    """Bank directory. Default: the references registered with the model are collected."""
    embedder: str = ""
    """Embedder of the questions; must be the bank's (minilm:DIR, hashed_words). Default: the model's own."""
    split: str | None = None
    """Split of the questions. Default: validation, or all lines of a .jsonl file."""
    limit: int = 100
    """Number of questions of each set. Also --samples."""
    preset: str | None = None
    """Settings of every row: a name, or a file that r2t2 tune wrote. Default: the model's own, else the paper's."""
    metric: str | None = None
    """Metric of the answers. Default: the set's official metric."""
    beams: int = 1
    """Beams of the search for an answer, for models that have one; 1 is greedy, 3 the setting of the published MoAI."""
    max_new_tokens: int | None = None
    """Longest answer in tokens. Default: the number of the set's published evaluation."""
    worthwhile: float = 0.05
    """The smallest gain worth having, as a share of all answers."""
    seed: int = 0
    """Seed of the choice of questions and of the random references."""
    allow_leakage: bool = False
    """Accept questions that are also references: by id and question, or by image and question under any id."""
    alternatives: int = 8
    """Alternative routes per token and layer in the audit; 0 leaves the audit out."""
    audit_only: bool = False
    """Only the audit: can re-routing help this model at all, and in which layers?"""
    out: Path | None = None
    """JSON file to write the numbers of the diagnosis to."""
    html: Path | None = None
    """HTML file to write the diagnosis to."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        """Measure, print the diagnosis and, with `--out` and `--html`, write it."""
        from r2t2_jax.analysis.counterfactual import audit_port
        from r2t2_jax.analysis.diagnose import port_evidence
        from r2t2_jax.analysis.diagnosis import check_enough, diagnose_evidence
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.evaluation.encode import encode_questions
        from r2t2_jax.evaluation.question_sets import with_longest_answer
        from r2t2_jax.evaluation.setup import open_bank, open_port, open_question_sets, with_decoding
        from r2t2_jax.methods import find_preset, own_preset
        from r2t2_jax.reporting.diagnosis import audit_text, diagnosis_page, diagnosis_text
        from r2t2_jax.runs.atomic_io import atomic_write, publish_json
        from r2t2_jax.runs.fingerprint import versions
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        for path in filter(None, (self.out, self.html)):
            check_writable(path)
        if self.audit_only:
            self._check_used()
        if self.bank is not None:
            ReferenceBank.open(self.bank)  # refused before a model is loaded
        enable_compilation_cache()
        loaded = open_port(self.model, self.embedder, self.preset)
        port = with_longest_answer(with_decoding(loaded, self.beams), self.data, self.max_new_tokens)
        name = self.preset or own_preset(port.name, port.presets)
        preset = find_preset(name, port.presets)
        samples, metric = open_question_sets(self.data, self.split, self.limit, self.seed, self.metric or "")
        check_enough(len(samples))
        sets = ", ".join(self.data)
        title = f"{port.name} on {sets}: {len(samples):,} questions"
        facts: dict[str, Any] = {"model": port.fingerprint}
        diagnosis = None
        if not self.audit_only:
            metrics = dict.fromkeys(self.data, metric)
            bank = open_bank(port, self.bank, metrics, samples, allow_leakage=self.allow_leakage)
            evidence = port_evidence(port, bank, encode_questions(port, samples), preset, metric, self.seed)
            diagnosis = diagnose_evidence(evidence, self.worthwhile)
            title += f", {len(bank):,} references, preset {name}"
            facts |= {"references": len(bank), "preset": preset.to_mapping()}
            if not self.json:
                print(f"{title}\n\n{diagnosis_text(diagnosis)}")
        audit = audit_port(port, samples, self.alternatives, self.seed) if self.alternatives else None
        if audit is not None and not self.json:
            print(f"\n{audit_text(audit)}" if diagnosis else f"{title}\n\n{audit_text(audit)}")
        numbers = {} if diagnosis is None else diagnosis.to_record()
        numbers |= {} if audit is None else {"audit": audit.to_record()}
        if self.json:
            print_json({"data": sets, "questions": len(samples), **facts, **numbers})
        if self.out:
            paths = {key: path and str(path) for key, path in vars(self).items() if key in ("bank", "out", "html")}
            options = {key: value for key, value in asdict(self).items() if key != "json"}
            settings = options | paths | {"data": recorded_sets(self.data)}
            record = {"command": "diagnose", "settings": settings, "versions": versions(), **facts}
            publish_json(self.out, record | numbers)
            if not self.json:
                print(f"\nWrote {self.out}.")
        if self.html:
            page = diagnosis_page(title, diagnosis, audit)
            atomic_write(self.html, lambda draft: draft.write_text(page, encoding="utf-8", newline="\n"))
            if not self.json:
                print(f"\nWrote {self.html}.")
        helps = audit is not None and audit.verdict == "better" if diagnosis is None else diagnosis.helps
        return 0 if helps else 1

    def _check_used(self) -> None:
        """Refuse options that the audit does not read."""
        from r2t2_jax.errors import R2T2Error

        unused = [
            each for each in fields(self) if each.name in NOT_AUDITED and getattr(self, each.name) != each.default
        ]
        wrong = [f"--{each.name.replace('_', '-')}" for each in unused]
        wrong += [] if self.alternatives else ["--alternatives 0"]
        if wrong:
            raise R2T2Error(f"--audit-only needs alternatives and no references: leave out {', '.join(wrong)}")


@dataclass(frozen=True)
class CheckPort:
    """Check a port of your own: methods, shapes, the loss, decoding, and independence of the batch.

    It asks a few questions, without references. The loss must be one number that changes with the routing weights;
    routing weights must be [layers, experts] of one sample; embeddings must be unit vectors; a generated answer,
    decoded and read again, must keep its loss; and a sample must give the same result alone as in a batch. The checks
    that run no model are done for every port of your own before its first questions are encoded.

    Exit code: 0 if all checks pass, 1 if one fails.

    Example: r2t2 check pocket:narrow --data pocket
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: a port such as pocket:narrow, or module:attribute of your own, also in the current folder."""
    data: Sets = ()
    """Questions: names of prepared sets, or .jsonl files. Default: three with random images, or with none."""
    split: str | None = None
    """Split of the questions. Default: validation, or all lines of a .jsonl file."""
    limit: int = 3
    """Number of questions."""
    json: bool = False
    """Print the checks as JSON."""

    def run(self) -> int:
        """Check, and print a line for each check."""
        from r2t2_jax.evaluation.setup import open_questions
        from r2t2_jax.plugins import load
        from r2t2_jax.validation.port import built_in_samples, run_checks

        port = load(self.model)
        if self.data:
            samples = [sample for name in self.data for sample in open_questions(name, self.split, self.limit, seed=0)]
            checks = run_checks(port, samples)
        else:
            checks = run_checks(port, built_in_samples(image=True))
            if checks[-1].problem and checks[-1].name in HOST_CHECKS:
                without = run_checks(port, built_in_samples(image=False))
                checks = checks if without[-1].name in HOST_CHECKS else without
        if self.json:
            print_json({"model": port.name, "passed": not checks[-1].problem, "checks": checks})
            return int(bool(checks[-1].problem))
        for check in checks:
            print(f"{'FAILED' if check.problem else 'ok':<8}{check.name:<17}{check.problem or check.result}")
        failed = bool(checks[-1].problem)
        if failed and not self.data and checks[-1].name in HOST_CHECKS:
            print("The questions are built in; give questions of your own with --data FILE.jsonl.")
        print(f"{port.name}: {'a check failed; the others depend on it' if failed else 'all checks passed'}")
        return int(failed)
