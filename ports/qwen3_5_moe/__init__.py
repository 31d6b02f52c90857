"""Qwen3.5-MoE and Qwen3.6-MoE (35B-A3B): Gated DeltaNet layers, shared experts, and the vision tower of Qwen3-VL."""
