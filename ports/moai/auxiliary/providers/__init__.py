"""The models that look at an image beside MoAI, each behind the protocol of `protocol.py`.

`PROVIDERS` names those that can be asked; `auxiliary/store.py` holds the one that asks nobody and reads what is stored.
"""

from __future__ import annotations

from collections.abc import Callable

from ports.moai.auxiliary.providers.mask2former import Mask2Former
from ports.moai.auxiliary.providers.ocr import TextReader
from ports.moai.auxiliary.providers.owlv2 import Owlv2
from ports.moai.auxiliary.providers.protocol import Provider

PROVIDERS: dict[str, Callable[[int], Provider]] = {  # of the size in which the model sees images
    "segments": Mask2Former.load,
    "detections": Owlv2.load,
    "ocr": TextReader.load,
}
