"""What the multimodal Qwen ports share: vision tower, positions, image processing, inputs, conversion, port."""
