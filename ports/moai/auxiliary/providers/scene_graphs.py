"""Scene graphs from a file. Upstream's model, PSGTr, needs its own detection framework and must be run there.

The file is JSONL with one line per sample, named by the sample's id. A line has names and scores in 0..1:

    {"id": "q17", "objects": ["person", "horse"], "relations": [[0, 1, "riding", 0.93]]}

or the fields of PSGTr's result: classes counted from 1, pairs of numbers of objects, and for each pair a distribution
over no relation and the 56 predicates, of which the most likely predicate is read:

    {"id": "q17", "labels": [1, 18], "rel_pair_idxes": [[0, 1]], "rel_dists": [[0.02, 0.01, ...]]}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.record import AuxRecord, Relation, SceneGraph, panoptic_classes, predicates
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import read_text
from r2t2_jax.runtime.typed_json import parse_json


@dataclass(frozen=True)
class SceneGraphFile:
    """The scene graphs of a file, by sample id."""

    scenes: Mapping[str, SceneGraph]
    fingerprint: str = "a file of scene graphs"

    @classmethod
    def read(cls, path: Path) -> SceneGraphFile:
        """Read and validate the file.

        Raises:
            R2T2Error: it cannot be read, or a line is not a scene graph.
        """
        scenes = {}
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                described = parse_json(line, "a line", lines=False).as_type(dict)
                scenes[str(described["id"])] = _scene(described)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise R2T2Error(f"{path}, line {number} is not a scene graph: {error}") from error
        return cls(scenes)

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The record with the sample's scene graph; without a line for the sample the part stays `None`."""
        return dataclasses.replace(record, scene=self.scenes.get(record.id))


def _scene(described: Mapping[str, Any]) -> SceneGraph:
    if "rel_dists" in described:
        return _psgtr_scene(described)
    objects = tuple(panoptic_classes().index(name) for name in described["objects"])
    relations = tuple(
        Relation(int(subject), int(object), predicates().index(predicate), float(score))
        for subject, object, predicate, score in described["relations"]
    )
    return _checked(SceneGraph(objects, relations))


def _psgtr_scene(result: Mapping[str, Any]) -> SceneGraph:
    """The scene graph of a result of PSGTr; as upstream reads it, without the class of no relation."""
    labels, pairs = np.asarray(result["labels"], np.int64), np.asarray(result["rel_pair_idxes"], np.int64)
    distributions = np.asarray(result["rel_dists"], np.float64)
    if labels.ndim != 1 or ((labels < 1) | (labels > len(panoptic_classes()))).any():
        raise ValueError(f"'labels' must be classes from 1 to {len(panoptic_classes())}")
    if not len(pairs) and not len(distributions):
        return SceneGraph(tuple((labels - 1).tolist()), ())
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError("'rel_pair_idxes' must be pairs of numbers of objects")
    if distributions.shape != (len(pairs), len(predicates()) + 1) or not np.isfinite(distributions).all():
        raise ValueError(f"'rel_dists' must be {len(pairs)} lists of {len(predicates()) + 1} finite numbers")
    scores = distributions[:, 1:]
    relations = zip(pairs.tolist(), scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist(), strict=True)
    likeliest = tuple(Relation(subject, object, predicate, score) for (subject, object), predicate, score in relations)
    return _checked(SceneGraph(tuple((labels - 1).tolist()), likeliest))


def _checked(scene: SceneGraph) -> SceneGraph:
    count = len(scene.objects)
    if any(not 0 <= number < count for relation in scene.relations for number in (relation.subject, relation.object)):
        raise ValueError(f"a relation names an object that is not among the {count}")
    return scene
