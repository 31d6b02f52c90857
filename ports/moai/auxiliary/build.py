"""Builds the auxiliary records of a question set in one folder, each image once; an interrupted build resumes.

The folder is a run (`r2t2_jax/runs`); when it is complete it also contains `records.parquet` and `maps/`, which
`CachedRecords` reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ports.moai.auxiliary.providers import PROVIDERS
from ports.moai.auxiliary.providers.protocol import Provider
from ports.moai.auxiliary.providers.scene_graphs import SceneGraphFile
from ports.moai.auxiliary.record import MAPS, PARTS, TABLE, AuxRecord, image_key, to_row
from ports.moai.config import MoAIConfig
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import atomic_write, remove_drafts
from r2t2_jax.runs.folder import SUMMARY, read_json
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Run

COMMAND, BATCH_SIZE = "aux build", 8


def load_providers(names: Sequence[str], scene_graphs: Path | None, size: int) -> list[Provider]:
    """The named providers, and the file of scene graphs if one is given.

    Args:
        names: keys of `PROVIDERS`.
        scene_graphs: a JSONL file.
        size: side of the images that the model processes, in pixels.

    Raises:
        R2T2Error: a name is unknown, no provider is named, or a required package is not installed.
    """
    unknown = sorted(set(names) - set(PROVIDERS))
    if unknown:
        raise R2T2Error(f"unknown auxiliary models {', '.join(unknown)}; choose one of {', '.join(PROVIDERS)}")
    graphs: list[Provider] = [SceneGraphFile.read(scene_graphs)] if scene_graphs else []
    if not names and not graphs:
        raise R2T2Error(f"no auxiliary model is named; name one of {', '.join(PROVIDERS)}, or a file of scene graphs")
    return [*graphs, *(PROVIDERS[name](size) for name in names)]


def build_records(
    out: Path,
    samples: Sequence[Sample],
    providers: Sequence[Provider],
    settings: Mapping[str, Any],
    max_hours: float | None = None,
) -> dict[str, Any]:
    """Run every provider on every image of the samples.

    Args:
        out: the folder, created if it does not exist; an interrupted build in it is resumed.
        samples: of a question set; an image that several samples share is processed once.
        providers: run in this order on each image.
        settings: recorded in `run.json`.
        max_hours: time limit of this call.

    Returns:
        The number of images, and for each part the number of images that have it.

    Raises:
        R2T2Error: the folder contains another run, or a provider fails.
        RunInterrupted: a signal or `max_hours` ended the build; completed batches are saved.
    """
    images = {image_key(sample.image): sample for sample in reversed(samples)}  # the first sample with this image
    keys = sorted(images)
    plan = Plan([Part("records", len(keys), BATCH_SIZE, "records")])
    depends = {"providers": [provider.fingerprint for provider in providers], "images": _digest(keys)}

    def work(batch: Batch) -> list[dict[str, Any]]:
        rows = []
        for key in keys[batch.start : batch.stop]:
            record = AuxRecord(key, images[key].id)
            for provider in providers:
                record = provider(images[key].image, record)
            rows.append(to_row(record))
        return rows

    with Run.open(out, COMMAND, settings, plan, depends, max_hours) as run:
        if not run.complete:
            run.compute(work, title="auxiliary records")
            run.finish(_publish(run, out))
    return read_json(out / SUMMARY)


def _publish(run: Run, out: Path) -> dict[str, Any]:
    """Write the maps, then the table that refers to them; returns the summary."""
    import pyarrow.parquet as pq

    table = run.table("records")
    (out / MAPS).mkdir(exist_ok=True)
    remove_drafts(out / MAPS)
    for key, packed in zip(table["key"].to_pylist(), table["map"].to_pylist(), strict=True):
        if packed is not None:
            atomic_write(out / MAPS / f"{key}.png", partial(_write, packed), clean=False)
    atomic_write(out / TABLE, lambda draft: pq.write_table(table.drop_columns(["map"]), draft))
    return {"images": len(table)} | {name: len(table) - table[name].null_count for name in PARTS}


def _write(content: bytes, draft: Path) -> None:
    draft.write_bytes(content)


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:16]


def command(
    out: Path,
    samples: Sequence[Sample],
    models: Sequence[str],
    scene_graphs: Path | None,
    settings: Mapping[str, Any],
    max_hours: float | None,
) -> dict[str, Any]:
    """The implementation of `r2t2 aux build`, registered in the entry-point group `r2t2.auxiliary`."""
    providers = load_providers(models, scene_graphs, MoAIConfig.full_7b().image_size)
    return build_records(out, samples, providers, settings, max_hours)
