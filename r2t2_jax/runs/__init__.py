"""Resumable runs: a plan cut into batches, one Parquet file per batch, a folder lock, and reading."""
