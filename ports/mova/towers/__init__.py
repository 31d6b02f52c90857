"""The seven experts' encoders, one file a tower; CLIP, the base, is `ports/common/clip_vit.py`."""
