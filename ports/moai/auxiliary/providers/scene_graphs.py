"""Scene graphs from a file. Upstream's model, PSGTr, needs its own detection framework and must be run there.

The file is JSONL with one line per sample, named by the sample's id; labels and predicates are names, scores lie in
0..1:

    {"id": "q17", "objects": ["person", "horse"], "relations": [[0, 1, "riding", 0.93]]}
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
    objects = tuple(panoptic_classes().index(name) for name in described["objects"])
    relations = tuple(
        Relation(int(subject), int(object), predicates().index(predicate), float(score))
        for subject, object, predicate, score in described["relations"]
    )
    outside = [r for r in relations if not 0 <= min(r.subject, r.object) <= max(r.subject, r.object) < len(objects)]
    if outside:
        raise ValueError(f"a relation names an object that is not among the {len(objects)}")
    return SceneGraph(objects, relations)
