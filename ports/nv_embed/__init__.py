"""NV-Embed-v2, the paper's embedder. Its weights are for non-commercial use only (CC-BY-NC-4.0)."""
