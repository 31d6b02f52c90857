"""stella_en_1.5B_v5 and gte-Qwen2-7B-instruct: Qwen2 read in both directions."""
