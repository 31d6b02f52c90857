"""FLOPs and memory, counted from traced programs."""
