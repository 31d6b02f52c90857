"""The label lists of the auxiliary models, in the order their numbers mean. ADE20K-847 repeats ten names."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


@cache
def _lists() -> dict[str, tuple[str, ...]]:
    text = (Path(__file__).parent / "labels.json").read_text(encoding="utf-8")
    return {name: tuple(labels) for name, labels in json.loads(text).items()}


def panoptic_classes() -> tuple[str, ...]:
    """The 133 classes of COCO panoptic."""
    return _lists()["COCO_PANOPTIC_CLASSES"]


def predicates() -> tuple[str, ...]:
    """The 56 predicates of Panoptic Scene Graphs."""
    return _lists()["PREDICATES"]


def detection_queries() -> tuple[str, ...]:
    """What the detector is asked for: ADE20K's 847 names, then ImageNet's 1000."""
    return _lists()["OD_LABELS_ADE20K847_THEN_IMAGENET1000"]


def plain_name(label: str) -> str:
    """A COCO panoptic label without its suffixes: `sky-other-merged` is `sky`."""
    for suffix in ("-merged", "-other", "-stuff"):
        label = label.removesuffix(suffix)
    return label
