"""Question embedders: MiniLM, stella and gte-Qwen2, NV-Embed-v2; one file each."""
