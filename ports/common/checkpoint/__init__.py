"""Checkpoint formats, parameter mappings, conversion, and model directories."""
