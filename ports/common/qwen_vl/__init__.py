"""Code of the multimodal Qwen ports: vision tower, positions, image processing, inputs, conversion, port."""
