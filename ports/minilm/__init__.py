"""all-MiniLM-L6-v2, a small sentence embedder."""
