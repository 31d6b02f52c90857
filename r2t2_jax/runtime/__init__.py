"""Batching, compilation cache, memory units, pytrees, threads and checks."""
