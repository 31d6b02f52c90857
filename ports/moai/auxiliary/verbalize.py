"""Auxiliary records as text, character for character as in MoAI's training.

These upstream quirks are reproduced: boxes are matched to segments by order and not by number; one segment without
pixels suppresses the text of all segments; the number of relations is the number of objects, and with fewer relations
there is no text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ports.moai.auxiliary.record import (
    AuxRecord,
    Detection,
    SceneGraph,
    Segment,
    TextLine,
    detection_queries,
    panoptic_classes,
    plain_name,
    predicates,
)
from r2t2_jax.errors import R2T2Error

DETECTION_THRESHOLD, RELATION_THRESHOLD, LINE_THRESHOLD = 0.5, 0.8, 0.85  # minimum scores
MAX_RELATIONS = 10
MAX_SEGMENT = 133  # last row of the color table

Box = Sequence[float | np.floating]


def verbalize(record: AuxRecord, size: int) -> str:
    """The text of a record: its four parts joined by single spaces, empty ones included.

    Args:
        record: of one image.
        size: side of the model's images, in pixels; boxes are written as fractions of it.
    """
    return join_parts(
        describe_segments(record.map, record.segments, size) if record.map is not None and record.segments else "",
        describe_detections(record.detections or (), size),
        describe_scene(record.scene or SceneGraph()),
        describe_lines(record.lines or ()),
    )


def join_parts(*parts: str) -> str:
    """The parts joined by single spaces, empty ones included."""
    return " ".join(parts)


def describe_box(box: Box) -> str:
    """`[a, b, c, d]` with two decimals of each float32 number, without clipping."""
    return "[" + ", ".join(f"{round(float(np.float32(value)), 2):.2f}" for value in box) + "]"


def _sentence(subject: str, parts: Sequence[str]) -> str:
    return f"The image includes {subject}: {', and '.join(parts)}." if parts else ""


def _describe_objects(boxes: Sequence[Box], names: Sequence[str]) -> str:
    objects = [f"{describe_box(box)} {name}" for box, name in zip(boxes, names, strict=True)]
    return _sentence("bounding box coordinates and their objects", objects)


def segment_boxes(segment_map: Int[np.ndarray, "size size"], size: int) -> list[Box]:
    """Tight boxes of the segments that have pixels, by increasing number, as fractions of the side."""
    boxes: list[Box] = []
    for number in np.unique(segment_map[segment_map > 0]):
        rows, columns = np.nonzero(segment_map == number)
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        boxes.append([np.float32(edge) / np.float32(size) for edge in edges])
    return boxes


def describe_segments(segment_map: Int[np.ndarray, "size size"], segments: Sequence[Segment], size: int) -> str:
    """The k-th box with the k-th segment's name; the empty string if there are fewer boxes than segments.

    Raises:
        R2T2Error: a segment's number has no color.
    """
    if segment_map.max(initial=0) > MAX_SEGMENT:
        raise R2T2Error(f"segment {segment_map.max()} has no color: a map holds segments 1 to {MAX_SEGMENT}")
    boxes = segment_boxes(segment_map, size)
    if len(boxes) < len(segments):
        return ""
    names = [plain_name(panoptic_classes()[segment.label]) for segment in segments]
    return _describe_objects(boxes[: len(names)], names)


def describe_detections(detections: Sequence[Detection], size: int) -> str:
    """The detections with a score of 0.5 or more, in the detector's order."""
    confident = [detection for detection in detections if detection.score >= DETECTION_THRESHOLD]
    boxes: list[Box] = [[np.float32(value) / np.float32(size) for value in detection.box] for detection in confident]
    return _describe_objects(boxes, [detection_queries()[detection.label] for detection in confident])


def describe_scene(scene: SceneGraph) -> str:
    """The most likely relations, as many as there are objects but at most ten; empty if there are fewer relations.

    The order is that of NumPy's partition, which for such small numbers is ascending by score.
    """
    count = min(MAX_RELATIONS, len(scene.objects))
    if not count or count > len(scene.relations):
        return ""
    scores = np.array([relation.score for relation in scene.relations], np.float32)
    best = np.argpartition(scores, -count)[-count:]
    names = _numbered([plain_name(panoptic_classes()[label]) for label in scene.objects])
    relations = []
    for number in best:
        relation = scene.relations[number]
        if scores[number] < RELATION_THRESHOLD:
            continue
        if max(relation.subject, relation.object) >= len(names):
            return ""  # upstream catches an error here and returns nothing
        relations.append(f"{names[relation.subject]} is {predicates()[relation.predicate]} {names[relation.object]}")
    return _sentence("relationships between objects", relations)


def _numbered(names: Sequence[str]) -> list[str]:
    """`dog (#1)`, `dog (#2)` where a name occurs more than once."""
    counts: dict[str, int] = {}
    numbered = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        numbered.append(f"{name} (#{counts[name]})" if names.count(name) > 1 else name)
    return numbered


def describe_lines(lines: Sequence[TextLine] | None) -> str:
    """The lines with a score of 0.85 or more.

    Raises:
        R2T2Error: `lines` is `None`: no text reader was run.
    """
    if lines is None:
        raise R2T2Error("the record has no text lines: no text reader was run")
    return _sentence("text descriptions", [line.text for line in lines if line.score >= LINE_THRESHOLD])
