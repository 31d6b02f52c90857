"""The auxiliary vision models, each behind the protocol of `protocol.py`.

`PROVIDERS` lists those that run a model; `auxiliary.record.CachedRecords` reads stored records instead.
"""

from __future__ import annotations

from collections.abc import Callable

from ports.moai.auxiliary.providers.mask2former import Mask2Former
from ports.moai.auxiliary.providers.ocr import TextReader
from ports.moai.auxiliary.providers.owlv2 import Owlv2
from ports.moai.auxiliary.providers.protocol import Provider

PROVIDERS: dict[str, Callable[[int], Provider]] = {  # called with the side of the model's images, in pixels
    "segments": Mask2Former.load,
    "detections": Owlv2.load,
    "ocr": TextReader.load,
}
