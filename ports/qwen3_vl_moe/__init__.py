"""Qwen3-VL-MoE (30B-A3B, 235B-A22B): vision tower with DeepStack, M-RoPE, and the decoder of Qwen3-MoE."""
