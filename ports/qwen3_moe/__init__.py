"""Qwen3-MoE (30B-A3B, 235B-A22B): the text half of Qwen3-VL-MoE."""
