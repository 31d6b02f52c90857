"""Resumable runs: a plan cut into batches, an append-only store of their rows, a folder lock, and reading."""
