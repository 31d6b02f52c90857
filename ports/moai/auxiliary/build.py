"""Auxiliary records of a question set: every image once, resumable, into one folder.

The folder is a run (`r2t2_jax/runs`); when it is complete it also holds `records.parquet` and `maps/`, which
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
from ports.moai.auxiliary.providers.scene_graphs import SceneGraphs
from ports.moai.auxiliary.record import MAPS, PARTS, TABLE, AuxRecord, image_key, to_row
from ports.moai.config import MoAIConfig
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import atomic_write
from r2t2_jax.runs.folder import SUMMARY, read_json
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Run

COMMAND, IMAGES_A_BATCH = "aux build", 8


def load_providers(names: Sequence[str], scene_graphs: Path | None, size: int) -> list[Provider]:
    """The named models, and the file of scene graphs if there is one.

    Raises:
        R2T2Error: a name is unknown, or what it needs is not installed.
    """
    unknown = sorted(set(names) - set(PROVIDERS))
    if unknown:
        raise R2T2Error(f"unknown auxiliary models {', '.join(unknown)}; choose of {', '.join(PROVIDERS)}")
    graphs: list[Provider] = [SceneGraphs.read(scene_graphs)] if scene_graphs else []
    if not names and not graphs:
        raise R2T2Error(f"no auxiliary model is named; choose of {', '.join(PROVIDERS)}, or give scene graphs")
    return [*graphs, *(PROVIDERS[name](size) for name in names)]


def build_records(
    out: Path,
    samples: Sequence[Sample],
    providers: Sequence[Provider],
    settings: Mapping[str, Any],
    max_hours: float | None = None,
) -> dict[str, Any]:
    """Ask every provider about every image that the samples show.

    Args:
        out: the folder, made if need be; an interrupted build in it goes on.
        samples: of a question set; an image that several share is asked about once.
        providers: whom to ask.
        settings: for `run.json`: what the records depend on beside the providers.
        max_hours: how long to go on from here.

    Returns:
        How many images there are, and how many have each part.

    Raises:
        R2T2Error: the folder holds something else, or a provider fails.
        Stopped: a signal or `max_hours` ended it; what was done is saved.
    """
    images = {image_key(sample.image): sample for sample in reversed(samples)}  # the first that shows it
    keys = sorted(images)
    plan = Plan([Part("records", len(keys), IMAGES_A_BATCH, "records")])
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
    """Maps first, then the table that names them."""
    import pyarrow.parquet as pq

    table = run.table("records")
    (out / MAPS).mkdir(exist_ok=True)
    for key, packed in zip(table["key"].to_pylist(), table["map"].to_pylist(), strict=True):
        if packed is not None:
            atomic_write(out / MAPS / f"{key}.png", partial(_write, packed))
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
    """What `r2t2 aux build` runs, found through the entry-point group `r2t2.auxiliary`."""
    providers = load_providers(models, scene_graphs, MoAIConfig.full_7b().image_size)
    return build_records(out, samples, providers, settings, max_hours)
