"""Which axis of which parameter of MoVA is cut over the mesh's `model`: attention heads, hidden width, vocabulary.

`MovaConfig.shardings` gives them for a mesh.
"""

from __future__ import annotations

_LAYERS = r"(clip|dinov2|pix2struct|deplot|biomedclip|bert|decoder)/layers|(vary/encoder|sam|codetr)/runs/\d+"
_ADAPTER = r"adapter/blocks/\d+"

RULES = (
    (r"words", -2),
    (r"head/kernel", -1),
    (rf"({_LAYERS})/(attention/|attention/project/|project/)?(query|key|value|qkv)/(kernel|bias)", -1),
    (rf"({_LAYERS})/(attention/)?out/kernel", -2),
    (rf"({_LAYERS}|{_ADAPTER})/(feed_forward/)?(gate|up)/(kernel|bias)", -1),
    (rf"({_LAYERS}|{_ADAPTER})/(feed_forward/)?down/kernel", -2),
    (rf"{_ADAPTER}/(sources/\d+/)?keys_values/(key|value)/kernel", -1),
    (rf"{_ADAPTER}/(looks/)?read/query/kernel", -1),
    (rf"{_ADAPTER}/(looks/)?read/out/kernel", -2),
    (r"adapter/downsample/up/(kernel|bias)", -1),
    (r"adapter/downsample/out/kernel", -2),
)
