"""Detections by OWLv2 (base, patch 16, ensemble) for the 1847 class names of ADE20K and ImageNet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.providers.protocol import load_pretrained, package_version, require
from ports.moai.auxiliary.record import AuxRecord, Detection, detection_queries, fit

WEIGHTS = "google/owlv2-base-patch16-ensemble"
SCORE_THRESHOLD = 0.1


@dataclass(frozen=True)
class Owlv2:
    """`network` and `processor` are from transformers; boxes are in pixels of an image of side `size`."""

    network: Any
    processor: Any
    size: int
    queries: Sequence[str] = dataclasses.field(default_factory=detection_queries)
    fingerprint: str = f"owlv2:{WEIGHTS}"

    @classmethod
    def load(cls, size: int, weights: str = WEIGHTS) -> Owlv2:
        """The provider with the published weights.

        Raises:
            R2T2Error: transformers or torch is not installed, or the weights cannot be loaded.
        """
        purpose = "object detection"
        require("torch", purpose)
        transformers = require("transformers", purpose)
        network = load_pretrained(transformers.Owlv2ForObjectDetection, weights, purpose)
        processor = load_pretrained(transformers.Owlv2Processor, weights, purpose)
        made_by = f"{weights}: transformers {package_version('transformers')}, {size} px, score {SCORE_THRESHOLD}"
        return cls(network.eval(), processor, size, fingerprint=made_by)

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The record with all detections of score 0.1 or more; the verbalization uses those of 0.5 or more."""
        import torch

        inputs = self.processor(text=[list(self.queries)], images=fit(image, self.size), return_tensors="pt")
        with torch.no_grad():
            outputs = self.network(**inputs)
        [result] = self.processor.image_processor.post_process_object_detection(
            outputs, threshold=SCORE_THRESHOLD, target_sizes=[(self.size, self.size)]
        )
        columns = (result[name].tolist() for name in ("scores", "labels", "boxes"))
        detections = tuple(Detection(score, label, tuple(box)) for score, label, box in zip(*columns, strict=True))
        return dataclasses.replace(record, detections=detections)
