"""Everything that this program publishes, as functions that write version 0 or 1 of it into a folder, and a process
that is killed at its n-th rename or fsync while it writes version 1.
"""

import dataclasses
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from ports.common.checkpoint.convert import Converter
from r2t2_jax.bank import storage
from r2t2_jax.bank.atlas import Atlas, save_atlas
from r2t2_jax.bank.manifest import Fingerprints, Manifest
from r2t2_jax.bank.records import as_table
from r2t2_jax.reporting import lmms_eval_logs, report
from r2t2_jax.routes import exchange, show
from r2t2_jax.routes.expert_map import FactorMap
from r2t2_jax.routes.recording import RecordingFacts, SampleRoutes
from r2t2_jax.runs import atomic_io
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.steering import files
from tests.ports.common.toy_model import CONVERTER, toy_tensors, write_source

TARGET = "target"


def write_file(folder: Path, version: int) -> None:
    atomic_io.publish_json(folder / TARGET, {"version": version})


def write_bank(folder: Path, version: int) -> None:
    storage.write_bank(folder / TARGET, *bank_rows(version))


def write_atlas(folder: Path, version: int) -> None:
    points = np.full((2, 1, 3), version, np.float32)
    losses = np.full((4, 2), version, np.uint8)
    save_atlas(Atlas(points, losses, None, "toy@1", ("a", "b", "c"), tuple("0123")), folder / TARGET, {"seed": version})


def write_report(folder: Path, version: int) -> None:
    files = {f"toy-{name}.csv": f"version\n{version}\n".encode() for name in ("methods", "accuracy")}
    saved = dataclasses.make_dataclass("Saved", ["run"])({"command": "eval"})
    rendered = f"<p>{version}", files
    with patch.multiple(report, open_run=lambda run: saved, render_report=lambda saved, folder, png: rendered):
        report.write_report(folder, folder / f"{TARGET}.html")


def write_export(folder: Path, version: int) -> None:
    if version and not (folder / TARGET).exists():  # an earlier export is never replaced
        files = {"a/results.json": "{}", "a/samples.jsonl": "{}\n"}
        saved = dataclasses.make_dataclass("Saved", ["run", "folder", "summary"])({"command": "eval"}, folder, {})
        written = {"models_of": lambda summary, where: {}, "_files": lambda saved, models: iter(files.items())}
        with patch.multiple(lmms_eval_logs, **written):
            lmms_eval_logs.export_lmms_eval(saved, folder / TARGET)


def write_model(folder: Path, version: int) -> None:
    if version and not (folder / TARGET).exists():  # an earlier model is never replaced
        source = folder.parent / "source"
        if not source.exists():
            write_source(source, toy_tensors())
        converter: Converter = CONVERTER
        converter.convert(str(source), folder / TARGET, progress=False)


def write_run(folder: Path, version: int) -> None:
    """A bank that a run builds in its own folder; the rows are the same in both versions."""
    if not version:
        return
    out = folder / TARGET
    with Run.open(out, "bank build", {}, Plan([Part("a", samples=1, batch=1)])) as run:
        if run.complete:
            return
        for batch in run.missing():
            run.append(batch, [{"id": "a"}])
        draft = out / f"{atomic_io.DRAFT}bank"
        storage.write_files(draft, *bank_rows(1))
        storage.install(draft, out)
        run.finish({"rows": 12})


def write_map(folder: Path, version: int) -> None:
    """Maps are written as comparisons are."""
    entry = {"factor": "category", "group": f"{version}", "layer": "0", "expert": "a", "usage": float(version)}
    numbers = ("share", "lift", "share_difference", "share_p", "share_q")
    pair = entry | {"other": "b"} | dict.fromkeys(numbers, 0.5)
    factor_map = FactorMap("category", (f"{version}",), [entry], [pair], {}, {})
    show.write_map(folder / TARGET, [factor_map], f"<p>{version}")


def write_steering(folder: Path, version: int) -> None:
    files.write_steering(folder / TARGET, [{"mask": [version]}], f"version {version}")


def write_exported(folder: Path, version: int) -> None:
    """The expert ids of a recording in the format of another tool."""
    recording: Any = SimpleNamespace(facts=facts(), samples=lambda: iter(recorded_samples(version)))
    exchange.export_routes(recording, "vllm", folder / TARGET)


def write_recording(folder: Path, version: int) -> None:
    """A recording, imported as one is recorded; the rows are the same in both versions."""
    if version:
        source = folder.parent / "responses.jsonl"
        if not source.exists():
            recording: Any = SimpleNamespace(facts=facts(), samples=lambda: iter(recorded_samples(0)))
            exchange.export_routes(recording, "vllm", source)
        exchange.import_routes(source, "vllm", folder / TARGET)


def facts() -> RecordingFacts:
    """Of `recorded_samples`."""
    return RecordingFacts(1, ("0", "1"), ("a", "b", "c"), 2, "all", True, False, 2, {"text": 4, "answer": 2})


def recorded_samples(seed: int, changes: Mapping[str, Any] | None = None) -> list[SampleRoutes]:
    """Two samples of three tokens; `changes` replaces fields of the first."""
    experts = np.array([[[0, 1], [1, 2]], [[2, 0], [0, 1]], [[1, 0], [2, 1]]], np.int16)  # [T, N, k]
    weights, kinds = np.full(experts.shape, 0.5, np.float16), ("text", "text", "answer")
    first = SampleRoutes("0", "set", "size", "red", seed + np.arange(3), np.arange(3), kinds, experts, weights)
    second = dataclasses.replace(first, id="1", category="color", experts=experts[::-1])
    return [dataclasses.replace(first, **(changes or {})), second]


def bank_rows(seed: int, rows: int = 12) -> tuple[Manifest, list[storage.BankRows]]:
    """The content of a small bank."""
    rng = np.random.default_rng(seed)
    arrays = {
        "embeddings.npy": rng.normal(size=(rows, 5)).astype(np.float32),
        "routing.npy": rng.dirichlet(np.ones(3), (rows, 2)).astype(np.float32),
        "features/00.npy": rng.normal(size=(rows, 40)).astype(np.float32),
    }
    records = as_table([{"id": f"{seed}-{i}", "question": f"how many {i}?"} for i in range(rows)], np.ones(rows, bool))
    manifest = Manifest(Fingerprints("toy@1", "words@1", "plain@1"), rows, rows, 5, (2, 3))
    half = rows // 2
    parts = [
        storage.BankRows(records.slice(part.start, half), {name: array[part] for name, array in arrays.items()})
        for part in (slice(0, half), slice(half, rows))
    ]
    return manifest, parts


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "file": write_file,
    "bank": write_bank,
    "atlas": write_atlas,
    "report": write_report,
    "export": write_export,
    "map": write_map,
    "steering": write_steering,
    "exported": write_exported,
    "run": write_run,
    "recording": write_recording,
    "model": write_model,
}


def write_and_die(name: str, folder: str, last: int, exchange: bool) -> None:
    """Write version 1 and be killed before the rename, exchange, removal or fsync number `last`, counted from 1."""
    calls = 0

    def counted(function: Callable) -> Callable:
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for module, function in ((os, "fsync"), (os, "rename"), (os, "replace"), (atomic_io, "remove")):
        setattr(module, function, counted(getattr(module, function)))
    atomic_io._exchange_names = counted(atomic_io._exchange_names) if exchange else lambda first, second: False
    WRITERS[name](Path(folder), 1)
