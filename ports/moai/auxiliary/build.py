"""Builds a store of auxiliary records by image, which grows with every build; an interrupted build resumes.

A store is a folder:

    store.json         which provider made each part of the records
    records.parquet    one row per image, by the digest of its pixels
    maps/KEY.png       segment maps
    build/             a build in progress (`r2t2_jax/runs`), whose rows the next build moves into the store

`CachedRecords` reads stores. A build computes the parts that the images of its question sets lack. The providers of a
part are the same for all records of a store, so that its fingerprint says what made the records and not which images
are in it.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ports.moai.auxiliary.providers import PROVIDERS
from ports.moai.auxiliary.providers.protocol import Provider
from ports.moai.auxiliary.providers.scene_graphs import SceneGraphFile
from ports.moai.auxiliary.record import (
    MAPS,
    PARTS,
    SCHEMA,
    STORE,
    TABLE,
    AuxRecord,
    CachedRecords,
    from_row,
    image_key,
    read_makers,
    to_row,
)
from ports.moai.config import MoAIConfig
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import atomic_write, is_draft, publish_json, remove, remove_drafts
from r2t2_jax.runs.batch_files import BATCHES, read_batch, saved_batches
from r2t2_jax.runs.folder import LOCK, RUN, SUMMARY, TIMINGS, FolderLock, check_folder
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Run

COMMAND, BATCH_SIZE, BUILD = "aux build", 8, "build"
Providers = Mapping[str, Provider]  # by the part of the records that each makes


class _Build(Run):
    """A run in a folder inside the store."""

    @property
    def resume(self) -> str:
        """The command that resumes this build."""
        path, store = shlex.quote(str(self.folder / RUN)), shlex.quote(str(self.folder.parent))
        return f"r2t2 {COMMAND} --config {path} --out {store}"


def load_providers(names: Sequence[str], scene_graphs: Path | None, size: int) -> dict[str, Provider]:
    """The named providers by part, and the file of scene graphs if one is given.

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
    graphs: dict[str, Provider] = {"scene": SceneGraphFile.read(scene_graphs)} if scene_graphs else {}
    if not names and not graphs:
        raise R2T2Error(f"no auxiliary model is named; name one of {', '.join(PROVIDERS)}, or a file of scene graphs")
    parts = {name: "lines" if name == "ocr" else name for name in names}
    return graphs | {parts[name]: PROVIDERS[name](size) for name in names}


def build_records(
    out: Path,
    samples: Sequence[Sample],
    providers: Providers,
    settings: Mapping[str, Any],
    max_hours: float | None = None,
) -> dict[str, Any]:
    """Run every provider on every image of the samples for which the store has no such part yet.

    Args:
        out: the store, created if it does not exist.
        samples: of any question sets; an image that several samples share is processed once.
        providers: run in this order on each image.
        settings: recorded in `run.json` of the build.
        max_hours: time limit of this call.

    Returns:
        `added`, the number of images that were processed; `images`, their number in the store; and for each part the
        number of images in the store that have it.

    Raises:
        R2T2Error: the folder is no store, other providers made its records, or a provider fails.
        RunInterrupted: a signal or `max_hours` ended the build; completed batches are saved.
    """
    _check_store(out)
    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out)
    try:
        makers = _check_makers(out, providers)
        rows = _absorb(out, makers)
        images = {
            image_key(sample.pixels()): sample for sample in reversed(samples)
        }  # the first sample with this image
        _check_scenes(out, providers, rows, images)
        keys = [key for key in sorted(images) if any(rows.get(key, {}).get(part) is None for part in providers)]
        if keys:
            _compute(out, keys, images, providers, rows, settings, max_hours)
            rows = _absorb(out, makers | {part: provider.fingerprint for part, provider in providers.items()})
    finally:
        lock.release()
        with suppress(OSError):  # it holds a store
            out.rmdir()
    counts = {part: sum(row[part] is not None for row in rows.values()) for part in PARTS}
    return {"added": len(keys), "images": len(rows), **counts}


def _compute(
    out: Path,
    keys: Sequence[str],
    images: Mapping[str, Sample],
    providers: Providers,
    rows: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    max_hours: float | None,
) -> None:
    plan = Plan([Part("records", len(keys), BATCH_SIZE, "records")])
    makers = {part: provider.fingerprint for part, provider in providers.items()}
    depends = {"providers": makers, "images": hashlib.sha256("".join(keys).encode()).hexdigest()[:16]}
    store = CachedRecords((out,), rows, makers)

    def work(batch: Batch) -> list[dict[str, Any]]:
        computed = []
        for key in keys[batch.start : batch.stop]:
            record = store.read(key) if key in rows else AuxRecord(key, images[key].id)
            for part, provider in providers.items():
                if getattr(record, part) is None:
                    record = provider(images[key].pixels(), record)
            computed.append(to_row(record))
        return computed

    with _Build.open(out / BUILD, COMMAND, settings, plan, depends, max_hours) as run:
        run.compute(work, title="auxiliary records", compiles=False)
        run.finish({"images": len(keys)})


def _absorb(out: Path, makers: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Move the rows of saved batches into the store and remove the build; returns all rows of the store by key.

    A folder that an earlier version made is itself a run; it becomes a store in the same way.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stored = CachedRecords.open(out).rows if (out / TABLE).exists() else {}
    rows = {key: dict(row) for key, row in stored.items()}
    if (out / MAPS).exists():
        remove_drafts(out / MAPS)
    builds = [folder for folder in (out, out / BUILD) if (folder / BATCHES).is_dir()]
    for folder in builds:
        (out / MAPS).mkdir(exist_ok=True)
        for path in saved_batches(folder).values():
            for row in read_batch(path).to_pylist():
                packed = row.pop("map")
                if packed is not None:
                    atomic_write(out / MAPS / f"{row['key']}.png", partial(_write, packed), clean=False)
                rows[row["key"]] = row | {"folder": out}
    if builds:
        schema = pa.schema([(name, pa.string()) for name in ("key", "id", *PARTS)])
        table = pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema)
        publish_json(out / STORE, {"schema": SCHEMA, "made_by": dict(sorted(makers.items()))})
        atomic_write(out / TABLE, lambda draft: pq.write_table(table, draft))
    for name in (RUN, SUMMARY, TIMINGS):
        remove(out / name)
    for folder in (out / BATCHES, out / BUILD):
        if folder.exists():
            shutil.rmtree(folder)
    return rows


def _write(content: bytes, draft: Path) -> None:
    draft.write_bytes(content)


def _check_store(out: Path) -> None:
    """Refuse a folder with files that are neither a store's nor, in the former layout, a run's."""
    if out.exists() and not out.is_dir():
        raise R2T2Error(f"{out} is a file; choose a folder")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    ours = {STORE, TABLE, MAPS, BUILD, LOCK, RUN, SUMMARY, TIMINGS, BATCHES}
    other = sorted(name for name in names - ours if not is_draft(name))
    if BUILD in names:
        check_folder(out / BUILD, COMMAND)
    if RUN in names:
        check_folder(out, COMMAND)
    elif STORE not in names:
        other += sorted(names & ({SUMMARY, TIMINGS, BATCHES, TABLE} | (set() if BUILD in names else {MAPS})))
    if other and not (STORE in names or {RUN, TABLE} <= names):
        raise R2T2Error(f"{out} holds {other[0]!r}, which is not part of a store of records; choose another folder")


def _check_makers(out: Path, providers: Providers) -> dict[str, str]:
    """The maker of each part of the records so far.

    Raises:
        R2T2Error: a provider differs from the one that made its part.
    """
    makers = read_makers(out / BUILD) | read_makers(out)
    for part, provider in providers.items():
        if makers.get(part, provider.fingerprint) != provider.fingerprint:
            raise R2T2Error(
                f"the {part} in {out} were made by {makers[part]}, this build makes them by {provider.fingerprint}; "
                "choose another folder for --out"
            )
    return makers


def _check_scenes(
    out: Path, providers: Providers, rows: Mapping[str, Mapping[str, Any]], images: Mapping[str, Sample]
) -> None:
    """Refuse a file with another scene graph for an image than the store has."""
    scenes = providers.get("scene")
    for key, sample in images.items() if scenes is not None else ():
        row = rows.get(key)
        if scenes is None or row is None or row["scene"] is None:
            continue
        scene = scenes(np.empty((0, 0, 3), np.uint8), AuxRecord(key, row["id"])).scene
        if scene is not None and scene != from_row(row, None).scene:
            raise R2T2Error(
                f"the image of sample {sample.id!r} has another scene graph in {out} than in the file; "
                "choose another folder for --out"
            )


def command(
    out: Path,
    samples: Sequence[Sample],
    models: Sequence[str],
    scene_graphs: Path | None,
    settings: Mapping[str, Any],
    max_hours: float | None,
) -> dict[str, Any]:
    """The implementation of `r2t2 aux build`, registered in the entry-point group `r2t2.auxiliary`."""
    _check_store(out)
    providers = load_providers(models, scene_graphs, MoAIConfig.full_7b().image_size)
    return build_records(out, samples, providers, settings, max_hours)
