"""Panoptic segments by Mask2Former (Swin-B, COCO) with MoAI's thresholds: masks 0.95, classes 0.5."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.providers.protocol import load_pretrained, package_version, require
from ports.moai.auxiliary.record import AuxRecord, Segment, fit

WEIGHTS = "facebook/mask2former-swin-base-coco-panoptic"
SCORE_THRESHOLD, MASK_THRESHOLD = 0.5, 0.95


@dataclass(frozen=True)
class Mask2Former:
    """`network` and `processor` are from transformers; `size` is the side of the map."""

    network: Any
    processor: Any
    size: int
    fingerprint: str = f"mask2former:{WEIGHTS}"

    @classmethod
    def load(cls, size: int, weights: str = WEIGHTS) -> Mask2Former:
        """The provider with the published weights.

        Raises:
            R2T2Error: transformers or torch is not installed, or the weights cannot be loaded.
        """
        purpose = "panoptic segmentation"
        require("torch", purpose)
        transformers = require("transformers", purpose)
        network = load_pretrained(transformers.Mask2FormerForUniversalSegmentation, weights, purpose)
        processor = load_pretrained(transformers.AutoImageProcessor, weights, purpose)
        made_by = f"{weights}: transformers {package_version('transformers')}, {size} px"
        return cls(network.eval(), processor, size, f"{made_by}, score {SCORE_THRESHOLD}, mask {MASK_THRESHOLD}")

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The record with segments and their map; 0 in the map means no segment."""
        import torch

        inputs = self.processor(images=fit(image, self.size), return_tensors="pt")
        with torch.no_grad():
            outputs = self.network(**inputs)
        [panoptic] = self.processor.post_process_panoptic_segmentation(
            outputs,
            threshold=SCORE_THRESHOLD,
            mask_threshold=MASK_THRESHOLD,
            label_ids_to_fuse=set(),
            target_sizes=[(self.size, self.size)],
        )
        numbers = np.maximum(panoptic["segmentation"].numpy(), 0).astype(np.uint8)
        segments = tuple(Segment(int(info["id"]), int(info["label_id"])) for info in panoptic["segments_info"])
        return dataclasses.replace(record, map=numbers, segments=segments)
