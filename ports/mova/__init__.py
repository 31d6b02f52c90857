"""MoVA: a language model with eight vision towers, mixed by routing weights [3 blocks, 7 experts]."""
