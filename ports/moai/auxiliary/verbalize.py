"""Auxiliary records in words, letter by letter as MoAI was trained on them.

The oddities are upstream's and stay: boxes are matched to segments by place and not by number, a segment without pixels
silences all of them, as many relations are asked for as there are objects, and where there are fewer nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ports.moai.auxiliary.record import (
    AuxRecord,
    Detection,
    Line,
    Scene,
    Segment,
    detection_queries,
    panoptic_classes,
    plain_name,
    predicates,
)
from r2t2_jax.errors import R2T2Error

DETECTED, RELATED, READ = 0.5, 0.8, 0.85  # scores from which on a detection, a relation, a line is told
MOST_RELATIONS = 10
LARGEST_SEGMENT = 133  # the colour table has no further row

Box = Sequence[float | np.floating]


def verbalise(record: AuxRecord, size: int) -> str:
    """All four parts, joined by single spaces even where they are empty.

    Args:
        record: what is known.
        size: side of the images that the model sees, in pixels: boxes are told as shares of it.
    """
    return join_parts(
        tell_segments(record.map, record.segments, size) if record.map is not None and record.segments else "",
        tell_detections(record.detections or (), size),
        tell_scene(record.scene or Scene()),
        tell_lines(record.lines or ()),
    )


def join_parts(*parts: str) -> str:
    """The parts in one text, empty ones too."""
    return " ".join(parts)


def tell_box(box: Box) -> str:
    """`[a, b, c, d]` with two decimals of each float32 number; nothing is clipped."""
    return "[" + ", ".join(f"{round(float(np.float32(value)), 2):.2f}" for value in box) + "]"


def _tell(what: str, parts: Sequence[str]) -> str:
    return f"The image includes {what}: {', and '.join(parts)}." if parts else ""


def _tell_objects(boxes: Sequence[Box], names: Sequence[str]) -> str:
    told = [f"{tell_box(box)} {name}" for box, name in zip(boxes, names, strict=True)]
    return _tell("bounding box coordinates and their objects", told)


def segment_boxes(map: Int[np.ndarray, "size size"], size: int) -> list[Box]:
    """Tight boxes of the segments that have pixels, by increasing number, as shares of the side."""
    boxes: list[Box] = []
    for number in np.unique(map[map > 0]):
        rows, columns = np.nonzero(map == number)
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        boxes.append([np.float32(edge) / np.float32(size) for edge in edges])
    return boxes


def tell_segments(map: Int[np.ndarray, "size size"], segments: Sequence[Segment], size: int) -> str:
    """The k-th box with the k-th segment's name; nothing where there are fewer boxes than segments.

    Raises:
        R2T2Error: a segment's number has no colour.
    """
    if map.max(initial=0) > LARGEST_SEGMENT:
        raise R2T2Error(f"segment {map.max()} has no colour: a map holds segments 1 to {LARGEST_SEGMENT}")
    boxes = segment_boxes(map, size)
    if len(boxes) < len(segments):
        return ""
    names = [plain_name(panoptic_classes()[segment.label]) for segment in segments]
    return _tell_objects(boxes[: len(names)], names)


def tell_detections(detections: Sequence[Detection], size: int) -> str:
    """What was detected with a score of 0.5 or more, in the order of the detector."""
    kept = [detection for detection in detections if detection.score >= DETECTED]
    boxes: list[Box] = [[np.float32(value) / np.float32(size) for value in detection.box] for detection in kept]
    return _tell_objects(boxes, [detection_queries()[detection.label] for detection in kept])


def tell_scene(scene: Scene) -> str:
    """The likeliest relations, as many as there are objects and ten at most; nothing if there are fewer.

    The order is that of numpy's partition: for the small numbers at hand ascending by score.
    """
    count = min(MOST_RELATIONS, len(scene.objects))
    if not count or count > len(scene.relations):
        return ""
    scores = np.array([relation.score for relation in scene.relations], np.float32)
    best = np.argpartition(scores, -count)[-count:]
    names = _numbered([plain_name(panoptic_classes()[label]) for label in scene.objects])
    told = []
    for number in best:
        relation = scene.relations[number]
        if scores[number] < RELATED:
            continue
        if max(relation.subject, relation.object) >= len(names):
            return ""  # upstream fails on it and falls silent
        told.append(f"{names[relation.subject]} is {predicates()[relation.predicate]} {names[relation.object]}")
    return _tell("relationships between objects", told)


def _numbered(names: Sequence[str]) -> list[str]:
    """`dog (#1)`, `dog (#2)` where a name occurs more than once."""
    seen: dict[str, int] = {}
    numbered = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        numbered.append(f"{name} (#{seen[name]})" if names.count(name) > 1 else name)
    return numbered


def tell_lines(lines: Sequence[Line] | None) -> str:
    """Lines read with a confidence of 0.85 or more.

    Raises:
        R2T2Error: there is no list, not even an empty one: nobody read the image.
    """
    if lines is None:
        raise R2T2Error("there are no lines to tell: no text reader was asked")
    return _tell("text descriptions", [line.text for line in lines if line.score >= READ])
