"""The seven experts' encoders, one file a tower; CLIP, the base, is `ports/common/layers/clip_vit.py`."""
