"""The encoders of the seven experts, one file each; CLIP, the base, is `ports/common/layers/clip_vit.py`."""
