"""Routes of other tools as recordings, and recordings as files of other tools (docs/routes.md).

These formats hold expert ids without combine weights. Serving engines leave out the last token, whose route they never
compute; it is read as a token without a route. They give layers without a gate, such as the first ones of DeepSeek's
models, the ids zero; such layers are left out, and the others keep their numbers.

Axis letters: T tokens, N layers, k chosen experts, B sequences.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.contract import TOKEN_KINDS, ReplayModel, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.formats import read_rows, write_rows
from r2t2_jax.routes.recording import FORMAT, NO_EXPERT, Recording, RecordingFacts, SampleRoutes, routes_table
from r2t2_jax.routes.replay import PackedRoutes, Replay, question_of
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.typed_files import read_bytes

FORMATS = ("vllm", "sglang", "maxtext", "verifiers")
BATCH = 50


def import_routes(
    path: Path,
    kind: str,
    out: Path,
    layers: int | None = None,
    top_k: int | None = None,
    replay: Replay | None = None,
    questions: Mapping[str, Sample] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recording:
    """Write the routes of a file as a recording: of ids, or with a model's weights of these ids.

    Args:
        path: the file.
        kind: one of `FORMATS`.
        out: folder of the recording.
        layers, top_k: sizes of the flat arrays of `sglang`, by default the model's; refused with other formats, which
            state them.
        replay: the model that weighs the experts; `None` for ids only.
        questions: with the categories of the samples, by id; `None` for no categories.
        settings: the command's options, with which it can be resumed.

    Raises:
        R2T2Error: the file cannot be read (with line and field), its sequences differ in layers or experts per token
            or do not fit the model, or the folder holds something else.
    """
    if kind == "sglang" and replay is not None and layers is None and top_k is None:
        layers, top_k = replay.shape
    if (kind == "sglang") != (layers is not None and top_k is not None):
        needed = "needs --layers and --top-k, since its arrays are flat" if kind == "sglang" else "states its sizes"
        raise R2T2Error(f"--format {kind} {needed}{'' if kind == 'sglang' else ': leave out --layers and --top-k'}")
    source = str(path)
    rows = list(read_rows(path, kind, layers, top_k))
    if not rows:
        raise R2T2Error(f"{path} holds no sequence")
    shapes = {row.sample.experts.shape[1:] for row in rows}
    if len(shapes) > 1:
        raise R2T2Error(f"{path}: sequences have routes of {sorted(shapes)} layers x experts; one model has one shape")
    rows, gated = _with_gate([_with_category(row, questions or {}) for row in rows])
    facts = _facts([row.sample for row in rows], gated)
    depends: dict[str, Any] = {"data": hashlib.sha256(read_bytes(path)).hexdigest()[:16]}
    if replay is not None:
        replay.check(rows, source, BATCH)
        model, port = replay.port.model, replay.port
        assert isinstance(model, ReplayModel)  # `check` refuses others
        facts = replace(facts, layers=model.gated_layers, experts=model.spec.experts, weights=True)
        depends |= {"models": {port.name: {"fingerprint": port.fingerprint}}, "versions": versions()}
    chosen = {"file": source, "format": kind, "layers": layers, "top_k": top_k} | dict(settings or {})
    plan = Plan([Part(path.name, len(rows), BATCH)])
    with Run.open(out, "routes import", chosen, plan, depends) as run:
        for batch in run.missing(compiles=False):
            part = rows[batch.start : batch.stop]
            run.append(batch, routes_table([row.sample for row in part] if replay is None else replay.weighed(part)))
        run.finish((facts if replay is None else _with_weights(facts, run, rows)).summary())
    return Recording.open(out)


def _with_category(row: PackedRoutes, questions: Mapping[str, Sample]) -> PackedRoutes:
    """The row with the category of its question, if that is known."""
    question = question_of(row.sample.id, questions)
    return row if question is None else replace(row, sample=replace(row.sample, category=question.category))


def _with_gate(rows: Sequence[PackedRoutes]) -> tuple[list[PackedRoutes], list[int]]:
    """The rows without the layers whose ids are all zero, and the numbers of the other layers."""
    routed = [row.sample.experts[(row.sample.experts != NO_EXPERT).all(axis=(1, 2))] for row in rows]
    used = np.any([ids.any(axis=(0, 2)) for ids in routed], axis=0)  # [N]
    if routed[0].shape[2] == 1 or used.all() or not used.any():
        return list(rows), list(range(len(used)))
    gated = np.flatnonzero(used)
    return [replace(row, sample=replace(row.sample, experts=row.sample.experts[:, gated])) for row in rows], [
        int(number) for number in gated
    ]


def _facts(samples: Sequence[SampleRoutes], layers: Sequence[int]) -> RecordingFacts:
    """The facts of a recording of ids; experts are counted by the largest id."""
    return RecordingFacts(
        FORMAT,
        layers=tuple(f"layer {i}" for i in layers),
        experts=tuple(f"expert {e}" for e in range(1 + max(int(sample.experts.max()) for sample in samples))),
        top_k=samples[0].experts.shape[2], tokens="all", weights=False, logits=False, samples=len(samples),
        kinds=dict(Counter(kind for sample in samples for kind in sample.kinds)),
    )  # fmt: skip


def _with_weights(facts: RecordingFacts, run: Run, rows: Sequence[PackedRoutes]) -> RecordingFacts:
    """The facts with the agreement of all tokens and the kinds of tokens, from the saved rows."""
    shares: list[list[float]] = []
    kinds = Counter[str]()
    for _, table in run.tables():
        shares += table["agreement"].to_pylist()
        kinds.update(table["kinds"].combine_chunks().flatten().to_pylist())
    counts = [(row.sample.experts != NO_EXPERT).all(axis=(1, 2)).sum() for row in rows]
    agreement = tuple(round(float(share), 6) for share in np.average(shares, axis=0, weights=counts))
    ordered = {kind: kinds[kind] for kind in TOKEN_KINDS if kinds[kind]}
    return replace(facts, agreement=agreement, kinds=ordered)


def export_routes(recording: Recording, kind: str, out: Path) -> int:
    """Write a recording's expert ids in the format of another tool; returns the number of sequences.

    Raises:
        R2T2Error: not all tokens were recorded, a sequence lacks token ids or routes that the format needs, or the file
            cannot be written.
    """
    if recording.facts.tokens != "all" or "sample" in recording.facts.kinds:
        why = "whole samples" if "sample" in recording.facts.kinds else f"--tokens {recording.facts.tokens}"
        raise R2T2Error(f"{recording.folder} holds routes of {why}; --format {kind} needs those of --tokens all")
    return write_rows((_with_all_layers(sample, recording.facts.layers) for sample in recording.samples()), kind, out)


def _with_all_layers(sample: SampleRoutes, names: Sequence[str]) -> SampleRoutes:
    """The sample with the ids zero in layers that an import left out: names are `layer 3`, `layer 4`."""
    numbers = [int(name[6:]) for name in names if re.fullmatch(r"layer \d{1,4}", name)]
    if len(numbers) < len(names) or numbers == list(range(len(names))):
        return sample
    whole = np.zeros((len(sample.experts), max(numbers) + 1, sample.experts.shape[2]), sample.experts.dtype)
    whole[:, numbers] = sample.experts
    whole[(sample.experts == NO_EXPERT).all(axis=(1, 2))] = NO_EXPERT
    return replace(sample, experts=whole)
