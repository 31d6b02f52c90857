"""Panoptic segments by Mask2Former (Swin-B, COCO), as MoAI takes them: masks from 0.95 on, classes from 0.5 on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.providers.protocol import needed, pretrained
from ports.moai.auxiliary.record import AuxRecord, Segment, fit

WEIGHTS = "facebook/mask2former-swin-base-coco-panoptic"
SCORE, MASK = 0.5, 0.95


@dataclass(frozen=True)
class Mask2Former:
    """`network` and `processor` of transformers; `size` is the side of the map."""

    network: Any
    processor: Any
    size: int
    fingerprint: str = f"mask2former:{WEIGHTS}"

    @classmethod
    def load(cls, size: int, weights: str = WEIGHTS) -> Mask2Former:
        """With the published weights.

        Raises:
            R2T2Error: transformers or torch is not installed, or the weights cannot be loaded.
        """
        what = "panoptic segmentation"
        needed("torch", what)
        transformers = needed("transformers", what)
        network = pretrained(transformers.Mask2FormerForUniversalSegmentation, weights, what)
        processor = pretrained(transformers.AutoImageProcessor, weights, what)
        return cls(network.eval(), processor, size, f"mask2former:{weights}")

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """Segments and their map; numbers of 0 and below mean that nothing was found there."""
        import torch

        inputs = self.processor(images=fit(image, self.size), return_tensors="pt")
        with torch.no_grad():
            outputs = self.network(**inputs)
        [found] = self.processor.post_process_panoptic_segmentation(
            outputs,
            threshold=SCORE,
            mask_threshold=MASK,
            label_ids_to_fuse=set(),
            target_sizes=[(self.size, self.size)],
        )
        numbers = np.maximum(found["segmentation"].numpy(), 0).astype(np.uint8)
        segments = tuple(Segment(int(one["id"]), int(one["label_id"])) for one in found["segments_info"])
        return dataclasses.replace(record, map=numbers, segments=segments)
